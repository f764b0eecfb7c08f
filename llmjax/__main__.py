"""The command `llmjax NAME …`: a main of `experiments/`, from any folder.

    llmjax pretrain --config=pretrain/python_docs --workdir=runs/pretrain

is `python -m experiments.pretrain …` without its folder. The mains and the configs lie
in the repository or, where a wheel was installed, in `llmjax/share/`; that folder comes
first on `sys.path`, for the time of the command. Also `python -m llmjax NAME …`.
"""

import ast
import difflib
import runpy
import signal
import sys
import textwrap
from pathlib import Path

from llmjax import __version__

# In the order of a run's life; the others follow by name.
STAGES = (
    "prepare_data",
    "pretrain",
    "finetune",
    "evaluate",
    "predict",
    "generate",
    "serve",
    "convert",
)
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def root() -> Path:
    """The folder that holds `experiments` and `configs`."""
    package = Path(__file__).resolve().parent
    share = package / "share"
    return share if share.is_dir() else package.parent


def mains(folder: Path) -> dict[str, str]:
    """Every main's name and the first line of its docstring; none is imported."""
    files = {file.stem: file for file in folder.glob("*.py")}
    files |= {file.parent.name: file for file in folder.glob("*/__main__.py")}
    lines = {}
    for name, file in sorted(files.items()):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        if any(_is_start(node) for node in tree.body):
            lines[name] = (ast.get_docstring(tree) or "").partition("\n")[0]
    first = [name for name in STAGES if name in lines]
    return {name: lines[name] for name in dict.fromkeys([*first, *lines])}


def _is_start(node: ast.stmt) -> bool:
    """Whether it is `if __name__ == "__main__"`."""
    return isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)


def configs(folder: Path) -> dict[str, list[str]]:
    """The names of the config files in each folder below `folder`."""
    groups: dict[str, list[str]] = {}
    for file in sorted(folder.glob("*/*.py")):
        if file.name != "__init__.py":
            groups.setdefault(file.parent.name, []).append(file.stem)
    return groups


def overview(folder: Path) -> str:
    """The text of `llmjax --help`."""
    files = configs(folder / "configs")
    return "\n".join(
        [
            f"llmjax {__version__}: pretrain, fine-tune and evaluate Transformers.",
            "",
            "  llmjax NAME [--flag=value ...]",
            "  llmjax NAME --help",
            "",
            *table(mains(folder / "experiments")),
            "",
            f"Configs, in {folder / 'configs'}.",
            "--config takes one of their names, as pretrain/python_docs, or a path.",
            "",
            *table({f"{group}/": " ".join(names) for group, names in files.items()}),
        ]
    )


def table(rows: dict[str, str]) -> list[str]:
    """Names beside their texts, which go on below themselves."""
    width = max(map(len, rows), default=0) + 4
    lines = []
    for name, text in rows.items():
        first = f"  {name}".ljust(width)
        lines.append(
            textwrap.fill(text, 88, initial_indent=first, subsequent_indent=" " * width)
        )
    return lines


def unknown(name: str, names: list[str]) -> str:
    """The message for a command that there is none of."""
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    meant = f"did you mean {' or '.join(near)}? " if near else ""
    return f"error: llmjax has no command {name!r}; {meant}`llmjax --help` lists all"


def main() -> None:
    """Runs the main that the command line names, or says which there are."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    name = arguments[0] if arguments else "--help"
    folder = root()
    if name in ("--help", "-h", "-help"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # for `llmjax --help | head`
        print(overview(folder))
        return
    if name == "--version":
        print(f"llmjax {__version__}")
        return
    name = name.replace("-", "_")
    names = mains(folder / "experiments")
    if name not in names:
        print(unknown(arguments[0], list(names)), file=sys.stderr)
        sys.exit(2)
    sys.path.insert(0, str(folder))
    sys.argv = [sys.argv[0], *arguments[1:]]
    try:
        runpy.run_module(
            f"experiments.{name}",
            {"COMMAND": "llmjax "},  # for its --help
            run_name="__main__",
            alter_sys=True,
        )
    except ModuleNotFoundError as e:
        if (e.name or "").split(".")[0] in ("llmjax", "experiments", "configs"):
            raise
        print(
            f"error: {e}; llmjax {name} needs it: install it, or the extra of llmjax "
            "that has it (setup.py lists them)",
            file=sys.stderr,
        )
        sys.exit(2)
    except KeyboardInterrupt:  # while it was imported
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
