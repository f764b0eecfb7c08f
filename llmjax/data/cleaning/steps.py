"""Steps that clean a text, each by the name that `data.prepare.cleaning` has for it."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping

import ftfy
from ftfy import badness, fixes

from llmjax.config import CleaningStep

_CONTROLS = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u206a-\u206f\ufeff\ufff9-\ufffc]"
)
_BLANK_LINES = re.compile(r"\n{3,}")
_ENCODING = ftfy.TextFixerConfig(fix_c1_controls=False)


def clean(text: str, steps: Iterable[CleaningStep] | None) -> str:
    """`text` after these steps, in the order of `STEPS`; without steps, `text`.

    A pure function of both: prompts can go through it as the documents did.
    """
    chosen = set(steps or ())
    for name, step in STEPS.items():
        if name in chosen:
            text = step(text)
    return text


def mojibake(text: str) -> str:
    """`text` with UTF-8 decoded that was read as another encoding: schön for schÃ¶n.

    Line by line, where ftfy is sure of it (Speer 2019); other lines stay as they are.
    """
    if text.isascii():
        return text
    return "\n".join(map(_mended, text.split("\n")))


def _mended(line: str) -> str:
    if line.isascii() or not badness.is_bad(line):
        return line
    fixed, plan = ftfy.fix_encoding_and_explain(line, _ENCODING)
    # A plan without UTF-8 only takes Latin-1's controls for Windows-1252.
    utf8 = any("utf-8" in p or "utf8" in p for _, p in plan or ())
    return fixed if utf8 else line


def without_trailing_spaces(text: str) -> str:
    """`text` without spaces and tabs at the ends of its lines.

    Linear in the text, which a regular expression for it is not.
    """
    return "\n".join(line.rstrip(" \t") for line in text.split("\n"))


def single_blank_lines(text: str) -> str:
    """`text` with at most one blank line at a place, and none at its ends."""
    return _BLANK_LINES.sub("\n\n", text).strip("\n")


STEPS: Mapping[CleaningStep, Callable[[str], str]] = {
    "mojibake": mojibake,
    "windows_1252": fixes.fix_c1_controls,
    "ligatures": fixes.fix_latin_ligatures,
    "width": fixes.fix_character_width,
    "quotes": fixes.uncurl_quotes,
    "line_breaks": fixes.fix_line_breaks,
    "escapes": fixes.remove_terminal_escapes,
    "controls": lambda text: _CONTROLS.sub("", text),
    "nfc": lambda text: unicodedata.normalize("NFC", text),
    "spaces": lambda text: without_trailing_spaces(text.replace("\xa0", " ")),
    "blank_lines": single_blank_lines,
}
