"""The docstrings that an environment holds, read with `ast` and never imported."""

import ast
import dataclasses
import hashlib
import importlib.metadata
import inspect
import json
import pathlib
import platform
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator

import ftfy

from llmjax.data.cleaning import steps


@dataclasses.dataclass(frozen=True)
class Distribution:
    """An installed distribution: its licence, and the package name of its documents."""

    distribution: str
    package: str
    licence: str


PYTHON = "python"  # the `package` of the standard library's and the topics' documents
PYTHON_LICENCE = "PSF-2.0"

SOURCES = (
    Distribution("absl-py", "absl", "Apache-2.0"),
    Distribution("etils", "etils", "Apache-2.0"),
    Distribution("flax", "flax", "Apache-2.0"),
    Distribution("grain", "grain", "Apache-2.0"),
    Distribution("huggingface_hub", "huggingface_hub", "Apache-2.0"),
    Distribution("jax", "jax", "Apache-2.0"),
    Distribution("matplotlib", "matplotlib", "PSF-based (matplotlib)"),
    Distribution("numpy", "numpy", "BSD-3-Clause"),
    Distribution("optax", "optax", "Apache-2.0"),
    Distribution("orbax-checkpoint", "orbax", "Apache-2.0"),
    Distribution("scikit-learn", "sklearn", "BSD-3-Clause"),
    Distribution("scipy", "scipy", "BSD-3-Clause"),
    Distribution("tensorflow-datasets", "tensorflow_datasets", "Apache-2.0"),
)
SMALL_SOURCES = tuple(
    s for s in SOURCES if s.package in ("flax", "grain", "optax", "orbax")
)

RECIPE = "1"  # raise it when the same sources become different documents

# Code that is not documentation, or that belongs to somebody else.
_SKIPPED_FOLDERS = frozenset(
    (
        *("tests", "test", "testing", "testdata"),
        *("externals", "_external", "vendor", "_vendor", "extern", "third_party"),
        *("array_api_compat", "array_api_extra"),
    )
)
# Parts that some systems package apart from the rest of the standard library.
_OPTIONAL_STDLIB = frozenset(
    (
        *("antigravity", "distutils", "ensurepip", "idlelib", "lib2to3", "pydoc_data"),
        *("test", "this", "tkinter", "turtle", "turtledemo", "venv"),
    )
)

_CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ufeff]")
_FTFY = ftfy.TextFixerConfig(unescape_html=False)


@dataclasses.dataclass(frozen=True)
class Docstring:
    """A docstring as written, with the package and the qualified name it belongs to."""

    package: str
    name: str
    text: str


def clean(text: str) -> str:
    """A docstring dedented, with ASCII punctuation and its white space normalised."""
    if not text.isascii() or "\x1b" in text:
        text = ftfy.fix_text(text, config=_FTFY)
    text = inspect.cleandoc(text.replace("\r\n", "\n").replace("\r", "\n"))
    text = _CONTROLS.sub("", text.replace("\xa0", " "))
    return steps.single_blank_lines(steps.without_trailing_spaces(text)).strip()


def versions(sources: Iterable[Distribution]) -> dict[str, str]:
    """distribution -> installed version, Python first.

    Raises:
      ModuleNotFoundError: a distribution is not installed; names it and the remedy.
    """
    installed = {PYTHON: platform.python_version()}
    for source in sources:
        try:
            installed[source.distribution] = importlib.metadata.version(
                source.distribution
            )
        except importlib.metadata.PackageNotFoundError:
            raise ModuleNotFoundError(
                f"the corpus python_docs reads the docstrings of the distribution "
                f"{source.distribution!r}, which is not installed; "
                "run `pip install 'llmjax[report]'` (or pip install it by name)"
            ) from None
    return installed


def corpus_name(size: str = "full") -> str:
    """The name of python_docs in this environment: other versions have another.

    Raises:
      ModuleNotFoundError: a distribution that it reads is not installed.
      ValueError: `size` is neither "full" nor "small".
    """
    if size not in ("full", "small"):
        raise ValueError(
            f"the corpus python_docs/{size} is not known; "
            "accepted: 'python_docs', 'python_docs/small'"
        )
    installed = versions(SOURCES if size == "full" else SMALL_SOURCES)
    key = json.dumps([sorted(installed.items()), RECIPE])
    digest = hashlib.sha256(key.encode()).hexdigest()[:10]
    python = "".join(installed[PYTHON].split(".")[:2])
    return f"{'' if size == 'full' else 'small_'}py{python}_{digest}"


def of_distribution(source: Distribution) -> Iterator[Docstring]:
    """The docstrings of every module that the distribution installed, by file name.

    Raises:
      FileNotFoundError: its metadata lists no Python files (an editable install).
    """
    distribution = importlib.metadata.distribution(source.distribution)
    paths = sorted(
        pathlib.PurePosixPath(f.as_posix())
        for f in distribution.files or ()
        if f.suffix == ".py" and ".." not in f.parts
    )
    if not paths:
        raise FileNotFoundError(
            f"distribution {source.distribution!r} lists no Python files; the corpus "
            "python_docs needs it installed from a wheel: "
            f"`pip install --force-reinstall {source.distribution}`"
        )
    for path in paths:
        if _is_documentation(path):
            file = pathlib.Path(str(distribution.locate_file(path)))
            yield from _of_file(file, source.package, _module_name(path))


def of_stdlib(only: Iterable[str] | None = None) -> Iterator[Docstring]:
    """The docstrings of the standard library's modules, or of `only` these."""
    root = pathlib.Path(sysconfig.get_path("stdlib"))
    names = set(sys.stdlib_module_names) - _OPTIONAL_STDLIB
    for name in sorted(names & set(only) if only is not None else names):
        files = [root / f"{name}.py", *sorted((root / name).rglob("*.py"))]
        for file in files:
            path = pathlib.PurePosixPath(file.relative_to(root).as_posix())
            if file.exists() and _is_documentation(path):
                yield from _of_file(file, PYTHON, _module_name(path))


def of_topics() -> Iterator[Docstring]:
    """The chapters of the language reference that `help()` shows."""
    file = pathlib.Path(sysconfig.get_path("stdlib")) / "pydoc_data" / "topics.py"
    if not file.exists():  # some systems package it apart
        return
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            for key, text in sorted(ast.literal_eval(node.value).items()):
                yield Docstring(PYTHON, f"topics.{key}", text)


def _is_documentation(path: pathlib.PurePosixPath) -> bool:
    stem = path.stem
    return not (
        _SKIPPED_FOLDERS & set(path.parts)
        or stem.startswith("test_")
        or stem.endswith("_test")
        or stem == "conftest"
    )


def _module_name(path: pathlib.PurePosixPath) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _of_file(file: pathlib.Path, package: str, module: str) -> Iterator[Docstring]:
    source = file.read_text(encoding="utf-8", errors="replace")
    if '"""' not in source and "'''" not in source:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's code
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):  # a template, or newer syntax than ours
            return
    for name, node in [(module, tree), *_definitions(tree.body, module)]:
        text = ast.get_docstring(node, clean=False)
        if text:
            yield Docstring(package, name, text)


_Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _definitions(
    body: list[ast.stmt], prefix: str
) -> Iterator[tuple[str, _Definition]]:
    """Classes and functions in order; statements only, which is 4x `ast.walk`."""
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{prefix}.{node.name}"
            yield name, node
            yield from _definitions(node.body, name)
        elif isinstance(node, ast.If | ast.Try | ast.With):
            yield from _definitions(node.body, prefix)
            yield from _definitions(getattr(node, "orelse", []), prefix)
