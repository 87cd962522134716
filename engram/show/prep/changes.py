"""Whether the code and the packages that made a result document are those of today."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from engram import __version__
from engram.show.prep import git
from engram.support import machine

# Rooms that only look at results or show them. A change there makes no result old: what the show draws is held against
# the recordings, and the rest is no part of a run.
NO_STAGES = (
    *(f"engram/{name}/" for name in ("demo", "prep", "video", "report", "base_model", "bundled/fonts")),
    *(f"engram/{name}.py" for name in ("clock", "demo", "doctor", "harness", "harness_task", "show", "tables")),
    *(f"engram/{name}.py" for name in ("across", "gpu", "seeds", "verify", "errors")),
    *(
        f"engram/cli/{name}.py"
        for name in ("__init__", "__main__", "adapter", "harness", "machine", "prep", "results", "video")
    ),
)


def since(provenance: dict[str, Any], checkout: Path) -> list[str]:
    """What changed since a document was made: a line for each cause, none where all is as it was.

    In a checkout that knows the document's commit, and where nothing was uncommitted then, the stages' files are
    compared by content. Else a file written later than the document counts as changed. Outside a checkout the version
    is all there is.
    """
    lines = _packages(provenance["packages"])
    if not (checkout / ".git").exists():
        version = provenance["engram"]
        return lines + ([] if version == __version__ else [f"engram {version} then, {__version__} now"])
    changed = _by_content(provenance["git_commit"] or "", checkout)
    if changed is None:
        changed = _by_time(provenance["created"], checkout)
    return lines + [f"{name}: changed since" for name in changed]


def _packages(then: dict[str, str]) -> list[str]:
    now = machine.packages()
    return [f"{name} {then[name]} then, {now.get(name, 'none')} now" for name in then if now.get(name) != then[name]]


def _by_content(commit: str, checkout: Path) -> list[str] | None:
    """The stages' files that differ from a commit; None where the commit does not say what ran."""
    if not commit or commit.endswith("+"):
        return None
    tracked = git.ask(checkout, "diff", "--name-only", commit, "--", "engram")
    new = git.ask(checkout, "ls-files", "--others", "--exclude-standard", "--", "engram")
    if tracked is None or new is None:
        return None
    return [name for name in (*tracked.splitlines(), *new.splitlines()) if _is_stage(name)]


def _by_time(created: str, checkout: Path) -> list[str]:
    moment = datetime.datetime.strptime(created, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=datetime.timezone.utc)
    limit = moment.timestamp() + 1  # the moment is cut to whole seconds
    names = (file.relative_to(checkout).as_posix() for file in sorted((checkout / "engram").rglob("*.py")))
    return [name for name in names if _is_stage(name) and (checkout / name).stat().st_mtime > limit]


def _is_stage(name: str) -> bool:
    return name.endswith((".py", ".jsonl")) and not name.startswith(NO_STAGES)
