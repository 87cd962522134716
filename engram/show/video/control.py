"""Which control sequences a recording may hold: colours, cursor moves, erasing. Everything else is named."""

from __future__ import annotations

import re
import unicodedata

# final byte -> how many numbers it takes: cursor up, down, right, left, next and previous line, to a column, to a line,
# to a place; insert and delete lines and characters
MOVES = {**dict.fromkeys("ABCDEFGdLMPX@", 1), "H": 2, "f": 2}
ERASE = {"J": "0123", "K": "012"}  # erase in the screen and in the line, and the ways of doing so
PLAIN_STYLES = {0, 1, 2, 3, 4, 5, 7, 9, 22, 23, 24, 25, 27, 29, 39, 49}
COLOURS = {*range(30, 38), *range(40, 48), *range(90, 98), *range(100, 108)}
MODES = {"7", "25"}  # wrapping at the right edge, the cursor's visibility
LAYOUT = "\b\t\n\r"
MAX_PARAMETERS = 32

_CSI = re.compile(r"\x1b\[(?P<parameters>[0-?]*)(?P<between>[ -/]*)(?P<final>[@-~])")
_PARTIAL = re.compile(r"\x1b(\[[0-?]*[ -/]*)?\Z")
_TEXT = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]+")
_STRINGS = {"]": "an OSC string (title, clipboard, link)", "P": "a DCS string", "_": "an APC string"}
_STRINGS |= {"^": "a PM string", "X": "an SOS string"}
_PARTS_LIMIT = 64  # characters of a sequence that may still be waiting for its end


def refused(text: str) -> tuple[list[str], str]:
    """What of `text` a recording may not hold, each named once; and an unfinished sequence at its end.

    Put the unfinished part before the text that follows.
    """
    found: dict[str, None] = {}
    at = 0
    while at < len(text):
        if match := _TEXT.match(text, at):
            at = match.end()
        elif text[at] in LAYOUT:
            at += 1
        elif text[at] != "\x1b":
            found[_name(text[at])] = None
            at += 1
        elif match := _PARTIAL.match(text, at):
            rest = match.group()
            return [*found, *(["an endless control sequence"] if len(rest) > _PARTS_LIMIT else [])], rest
        else:
            problem, at = _escape(text, at)
            if problem:
                found[problem] = None
    return list(found), ""


def _escape(text: str, at: int) -> tuple[str, int]:
    """What is wrong with the sequence that starts at `at`, or nothing; and where it ends."""
    if match := _CSI.match(text, at):
        return _csi(match["parameters"], match["between"], match["final"]), match.end()
    kind = text[at + 1]
    if kind in "78":  # save and restore the cursor
        return "", at + 2
    if kind in _STRINGS:
        end = re.compile(r"\x07|\x1b\\|\x9c").search(text, at + 2)
        return _STRINGS[kind], end.end() if end else len(text)
    if kind == "[":
        return "a broken CSI sequence", at + 2
    return f"ESC {kind if kind.isprintable() else _name(kind)}", at + 2


def _csi(parameters: str, between: str, final: str) -> str:
    name = f"CSI {parameters[:20]}{between[:4]}{final}"
    numbers = parameters.split(";")
    if between or len(numbers) > MAX_PARAMETERS or any(len(number) > 5 for number in numbers):
        return name
    if parameters.startswith("?"):
        return "" if final in "hl" and parameters[1:] in MODES else name
    if not all(number.isdecimal() or not number for number in numbers):
        return name
    if final == "m":
        return "" if _style([int(number or 0) for number in numbers]) else name
    if final in ERASE:
        return "" if len(parameters) < 2 and parameters in ERASE[final] else name
    return "" if len(numbers) <= MOVES.get(final, 0) else name


def _style(codes: list[int]) -> bool:
    """Whether these are known styles and whole colours (`38;5;n`, `38;2;r;g;b`)."""
    while codes:
        code = codes.pop(0)
        if code in (38, 48):
            count = {5: 1, 2: 3}.get(codes.pop(0) if codes else -1, 0)
            values, codes = codes[:count], codes[count:]
            if not count or len(values) < count or max(values) > 255:
                return False
        elif code not in PLAIN_STYLES | COLOURS:
            return False
    return True


def _name(character: str) -> str:
    kind = "surrogate" if unicodedata.category(character) == "Cs" else "control character"
    return f"{kind} U+{ord(character):04X}"
