"""Where the file of `--config` lies: a path from here, or the name of one of ours."""

import ast
import difflib
from pathlib import Path

ROOT = Path(__file__).parents[1]  # of experiments/ and configs/


def with_paths(argv: list[str]) -> list[str]:
    """`argv` with the path of a file for each --config.

    Raises:
      ValueError: one is not there.
    """
    out: list[str] = []
    for argument in argv:
        name, equals, value = argument.partition("=")
        if out and out[-1] in ("--config", "-config"):
            out[-1:] = [f"--config={path_of(argument)}"]
        elif equals and name in ("--config", "-config"):
            out.append(f"--config={path_of(value)}")
        else:
            out.append(argument)
    return out


def path_of(name: str) -> str:
    """The path of a config file, from here or else from `configs/`.

    Args:
      name: a path or, of a file in `configs/`, a name such as pretrain/python_docs;
        what follows a colon goes to its get_config.

    Raises:
      ValueError: it is not there, and what is; or it is no config file.
    """
    path, colon, argument = name.partition(":")
    stem = path.removesuffix(".py")
    here = Path(path).expanduser()
    for file in (here, ROOT / path, ROOT / "configs" / f"{stem}.py"):
        if file.is_file():
            check(file)
            return f"{file}{colon}{argument}"
    ours = [
        str(file.relative_to(ROOT))
        for file in sorted((ROOT / "configs").rglob("*.py"))
        if file.name != "__init__.py"
    ]
    folder = here if here.is_dir() else here.parent
    theirs = [str(file) for file in sorted(folder.glob("*.py"))]
    files = list(dict.fromkeys([*theirs, *ours]))
    if here.is_dir():
        near = theirs[:3]
    else:
        near = difflib.get_close_matches(f"{stem}.py", files, n=3)
        stems = {Path(file).stem: file for file in reversed(files)}
        close = difflib.get_close_matches(Path(stem).name, stems, n=3)
        near = near or [stems[name] for name in close]
    what = "is a folder" if here.is_dir() else "is not there"
    meant = f"did you mean {' or '.join(near)}?" if near else "give the path of a file"
    raise ValueError(
        f"--config={name} {what}; {meant} (or one of ours, as pretrain/python_docs)"
    )


def check(file: Path) -> None:
    """Raises ValueError for a file that is no Python, or has no get_config."""
    try:
        tree = ast.parse(file.read_bytes(), str(file))
    except SyntaxError as e:
        raise ValueError(f"--config={file}, line {e.lineno}: {e.msg}") from e
    names = {
        getattr(node, attribute, None)
        for node in ast.walk(tree)
        for attribute in ("name", "asname", "id")  # defined, imported, assigned
    }
    if not {"get_config", "*"} & names:
        raise ValueError(
            f"--config={file} has no function get_config, which gives the config; "
            "configs/pretrain/python_docs.py is an example"
        )
