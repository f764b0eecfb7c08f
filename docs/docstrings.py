"""Docstrings as reStructuredText: plain text and `code`, in Google's sections."""

import ast
import dataclasses
import inspect
import re
import textwrap
from typing import Any

SECTIONS = {"Args", "Attributes", "Raises", "Returns", "Yields", "Example"}


def connect(app: Any) -> None:
    """Registers what changes docstrings and signatures, around napoleon's reading."""
    app.connect("autodoc-process-docstring", process, priority=100)
    app.connect("autodoc-process-docstring", restore_property, priority=900)
    app.connect("autodoc-process-signature", signature)


def restore_property(
    app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]
):
    """Undoes what napoleon made of a property: for it, a type stands before a colon."""
    if what in ("property", "attribute"):
        text = getattr(obj, "__doc__", None) or ""
        lines[:] = [*literal_blocks(escape(inspect.cleandoc(text)).splitlines()), ""]


def process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]):
    """Escapes what reStructuredText would read; adds the fields of a dataclass."""
    lines[:] = listed(literal_blocks(escape("\n".join(lines)).splitlines()))
    if what == "class" and (fields := source_of_fields(obj)):
        code = [f"   {line}" for line in fields.splitlines()]
        lines += ["", ".. code-block:: python", "", *code, ""]


def signature(app: Any, what: str, name: str, obj: Any, options: Any, *texts: Any):
    """No signature for a dataclass: its fields stand below with their reasons."""
    return ("", None) if what == "class" and dataclasses.is_dataclass(obj) else None


def escape(text: str) -> str:
    """A text whose stars, bars and underscores outside of `code` are themselves.

    Letters may stand right behind code, as a plural's.
    """
    parts = re.split(r"(`[^`]*`)", text)
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"([*|\\])|(?<=\w)(_)(?!\w)", r"\\\g<0>", parts[i])
        if i and re.match(r"\w", parts[i]):
            parts[i] = "\\ " + parts[i]
    return "".join(parts)


def literal_blocks(lines: list[str]) -> list[str]:
    """Indented paragraphs between plain ones, such as commands, as literal blocks."""
    result: list[str] = []
    literal = False
    for i, line in enumerate(lines):
        begins = line.startswith("    ") and i > 0 and not lines[i - 1].strip()
        if begins and not literal and not in_section(lines[:i]):
            result += ["::", ""]
            literal = True
        elif line.strip() and not line.startswith("    "):
            literal = False
        result.append(line.replace("\\", "") if literal else line)
    return result


def listed(lines: list[str]) -> list[str]:
    """Indented lines `name: text` as a list, where napoleon reads none of them.

    So are attributes: several may share a text, which napoleon does not know.
    """
    result: list[str] = []
    items = False  # whether the last line was part of the list
    for i, line in enumerate(lines):
        if line == "Attributes:":
            continue
        item = re.match(r"  ([\w, ]+):(?= |$)", line)
        if item and not in_section(lines[:i], but="Attributes"):
            if not items and result and result[-1]:
                result.append("")
            result.append(f"* **{item[1]}**:{line[item.end() :]}")
            items = True
        elif items and line.startswith("    "):
            result.append(line[2:])
        else:
            if items and line:
                result.append("")
            items = items and not line
            result.append(line)
    return result


def in_section(lines: list[str], but: str = "") -> bool:
    """Whether the last line at the margin begins a section, as `Args:` does."""
    margin = [line for line in lines if line.strip() and not line.startswith(" ")]
    header = margin[-1].removesuffix(":") if margin else ""
    return header in SECTIONS - {but}


def source_of_fields(cls: type) -> str:
    """The lines of a dataclass that declare its fields, with their comments; or ""."""
    if not dataclasses.is_dataclass(cls):
        return ""
    try:
        text = textwrap.dedent(inspect.getsource(cls))
    except (OSError, TypeError):
        return ""
    lines = text.splitlines()
    node = ast.parse(text).body[0]
    assert isinstance(node, ast.ClassDef)
    fields = [n for n in node.body if isinstance(n, ast.AnnAssign)]
    blocks = [lines[n.lineno - 1 : n.end_lineno] for n in fields]
    return textwrap.dedent("\n".join(line for block in blocks for line in block))
