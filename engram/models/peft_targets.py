"""Which layers a PEFT configuration attaches to: `check_target_module_exists` of peft 0.21, without peft."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_BLOCK = r".*?\.[^.]*\.(?P<index>\d+)\."


@dataclass(frozen=True)
class Targets:
    """The fields that choose layers. A string is a regular expression (`all-linear` aside), a list holds name ends."""

    chosen: str | list[str] | None
    excluded: str | list[str] | None
    blocks: list[int] | None
    patterns: list[str]

    @property
    def every_block(self) -> bool:
        """Whether the same names are chosen in every block of the model."""
        if self.blocks is not None or self.excluded or (isinstance(self.chosen, str) and not self._all_linear):
            return False
        return not any(part.isdigit() for name in self.chosen or () for part in name.split("."))

    @property
    def _all_linear(self) -> bool:
        return isinstance(self.chosen, str) and self.chosen.lower() == "all-linear"

    def attach(self, name: str) -> bool:
        """Whether the layer of this name gets LoRA; where nothing is chosen, PEFT chooses by architecture."""
        if self.excluded and _matches(self.excluded, name):
            return False
        if self.chosen is None or self._all_linear:
            return self._in_blocks(name)
        if isinstance(self.chosen, str) or name in self.chosen:
            return _matches(self.chosen, name)
        return _matches(self.chosen, name) and self._in_blocks(name)

    def _in_blocks(self, name: str) -> bool:
        if self.blocks is None:
            return True
        patterns = [rf"(?:^|.*?\.){pattern}\.(?P<index>\d+)\." for pattern in self.patterns] or [_BLOCK]
        found = next((match for pattern in patterns if (match := re.match(pattern, name))), None)
        return found is not None and int(found["index"]) in self.blocks


def read(settings: Mapping[str, Any], problems: list[str]) -> Targets:
    """The targets of a configuration; what cannot be understood is appended to `problems` and left out."""
    chosen, excluded, patterns = (
        _names(settings, name, problems) for name in ("target_modules", "exclude_modules", "layers_pattern")
    )
    blocks = settings.get("layers_to_transform")
    blocks = [blocks] if isinstance(blocks, int) and not isinstance(blocks, bool) else blocks or None
    if blocks is not None and not (isinstance(blocks, list) and all(type(block) is int for block in blocks)):
        problems.append(f"layers_to_transform: {blocks!r} is not a list of block numbers")
        blocks = None
    if isinstance(chosen, str) and blocks is not None:
        problems.append("layers_to_transform: not with a target_modules that is text, says PEFT")
    for name, value in (("target_modules", chosen), ("exclude_modules", excluded)):
        if isinstance(value, str) and not _is_pattern(value, name, problems):
            chosen, excluded = None, None
    patterns = [patterns] if isinstance(patterns, str) else patterns or []
    sound = [pattern for pattern in patterns if pattern and _is_pattern(pattern, "layers_pattern", problems)]
    return Targets(chosen, excluded, blocks, sound)


def _names(settings: Mapping[str, Any], name: str, problems: list[str]) -> str | list[str] | None:
    value = settings.get(name)
    if value is None or isinstance(value, str) or (isinstance(value, list) and all(type(v) is str for v in value)):
        return value
    problems.append(f"{name}: {value!r} is neither text nor a list of names")
    return None


def _is_pattern(text: str, name: str, problems: list[str]) -> bool:
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        problems.append(f"{name}: not a regular expression ({error})")
        return False
    return True


def _matches(wanted: str | list[str], name: str) -> bool:
    if isinstance(wanted, str):
        return re.fullmatch(wanted, name) is not None
    return any(name == end or name.endswith(f".{end}") for end in wanted)
