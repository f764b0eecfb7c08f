"""The pages of the reference, one for each folder of the package."""

from pathlib import Path

ROOT = Path(__file__).parents[1]


def folders() -> list[Path]:
    """The folders of the package that hold modules, each below its room."""
    inits = sorted((ROOT / "llmjax").rglob("__init__.py"))
    return [path.parent.relative_to(ROOT) for path in inits]


def page(folder: Path) -> str:
    """A page of reStructuredText: each module's docstring, classes and functions."""
    name = ".".join(folder.parts)
    title = "Reference" if name == "llmjax" else name
    lines = [
        title,
        "=" * len(title),
        "",
        f".. automodule:: {name}",
        "   :no-members:",
        "",
    ]
    for file in sorted((ROOT / folder).glob("*.py")):
        if file.name == "__init__.py":
            continue
        module = f"{name}.{file.stem}"
        lines += [module, "-" * len(module), "", f".. automodule:: {module}", ""]
    below = [f for f in folders() if f.parent == folder]
    if below:
        lines += [".. toctree::", "   :hidden:", ""]
        lines += [f"   {'.'.join(f.parts)}" for f in below]
    return "\n".join(lines) + "\n"


def write(target: Path) -> None:
    """Writes the pages that changed, and removes those of folders that are gone."""
    target.mkdir(exist_ok=True)
    pages = {".".join(f.parts) + ".rst": page(f) for f in folders()}
    for old in target.glob("*.rst"):
        if old.name not in pages:
            old.unlink()
    for name, text in pages.items():
        file = target / name
        if not file.exists() or file.read_text() != text:
            file.write_text(text)
