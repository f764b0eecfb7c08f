"""Arrows go down only; the import graph has no cycle; the core is light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = {
    "config": 0,
    "parallel": 0,
    "models": 1,
    "peft": 2,
    "data": 2,
    "tasks": 3,
    "hub": 3,
    "train": 4,
    "infer": 5,
    "interpret": 5,
    "safety": 5,
    "regimes": 5,
    "plan": 5,
    "serve": 6,
    "configs": 7,
    "experiments": 7,
    "__main__": 8,  # of the command, which runs experiments by name
}
JAX = {"jax", "jaxlib", "flax", "optax", "orbax", "chex"}
WEB = {"fastapi", "starlette", "uvicorn", "pydantic", "prometheus_client", "openai"}
# room -> rooms below it that it must still know nothing of
STRANGERS = {"data": {"models", "parallel"}}
JUNK = {"utils", "util", "common", "helpers", "helper", "misc"}

Graph = dict[str, set[str]]


def read_sources() -> dict[str, str]:
    """Dotted module name -> text, of everything that is not a test."""
    sources = {}
    for top in ("llmjax", "experiments", "configs"):
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            sources[name] = path.read_text(encoding="utf-8")
    return sources


def import_graph(sources: dict[str, str], packages: set[str]) -> Graph:
    """Module -> what it imports, at the top or inside a function, as full names."""
    graph: Graph = {}
    for name, text in sources.items():
        found = graph.setdefault(name, set())
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                parents = name.split(".")[: None if name in packages else -1]
                above = parents[: len(parents) - node.level + 1] if node.level else []
                base = ".".join([*above, *([node.module] if node.module else [])])
                for alias in node.names:
                    full = f"{base}.{alias.name}"
                    found.add(full if full in sources else base)
    return graph


def room(module: str) -> str | None:
    """The room of a module of ours; None for llmjax itself and for others' modules."""
    parts = module.split(".")
    if parts[0] in ("experiments", "configs"):
        return parts[0]
    return parts[1] if parts[0] == "llmjax" and len(parts) > 1 else None


def faults(graph: Graph) -> list[str]:
    """What the drawing of the house forbids, one line per arrow."""
    found = []
    for module, imports in graph.items():
        here = room(module)
        if here is None:
            found += [f"{module} -> {i}" for i in imports if room(i)]
            continue
        if here not in FLOORS:
            found.append(f"{module}: room {here!r} has no floor")
            continue
        for target in sorted(imports):
            there = room(target)
            if there is None or there == here:
                continue
            up = FLOORS.get(there, 99) > FLOORS[here]
            entry = there in ("experiments", "configs") and here != "experiments"
            if up or entry or there in STRANGERS.get(here, ()):
                found.append(f"{module} -> {target}")
    return found


def folder(module: str, packages: set[str]) -> str | None:
    """The sub-folder of a room that a module lies in; None for the hall."""
    parts = module.split(".")
    name = ".".join(parts[:3])
    return name if len(parts) > 3 and name in packages else None


def folder_graph(graph: Graph, packages: set[str]) -> Graph:
    """Sub-folder -> the other sub-folders of its room that its files import."""
    folders: Graph = {}
    for module, imports in graph.items():
        here = folder(module, packages)
        if here is None or room(module) == "hub":
            continue
        arrows = folders.setdefault(here, set())
        for target in imports:
            there = folder(target, packages)
            if there not in (None, here) and room(target) == room(module):
                arrows.add(str(there))
    return folders


def reaches(graph: Graph, start: str) -> set[str]:
    """Every module that importing `start` runs, as far as our own files show."""
    seen: set[str] = set()
    todo = [start]
    while todo:
        module = todo.pop()
        if module not in seen:
            seen.add(module)
            todo += graph.get(module, ())
    return seen


def jax_users(graph: Graph, in_room: str) -> list[str]:
    return [
        m
        for m in graph
        if room(m) == in_room and JAX & {t.split(".")[0] for t in reaches(graph, m)}
    ]


def cyclic(graph: Graph) -> list[str]:
    return [m for m in graph if any(m in reaches(graph, t) for t in graph[m])]


def packages_of(sources: dict[str, str]) -> set[str]:
    return {m for m in sources if (ROOT / m.replace(".", "/")).is_dir()}


@pytest.fixture(scope="module")
def graph() -> Graph:
    sources = read_sources()
    return import_graph(sources, packages_of(sources))


@pytest.fixture(scope="module")
def folders(graph) -> Graph:
    return folder_graph(graph, packages_of(dict.fromkeys(graph, "")))


def test_arrows_go_down(graph):
    assert faults(graph) == []


def test_no_cycle(graph):
    assert cyclic(graph) == []


def test_folders_of_a_room_have_no_circle(folders):
    some = {"llmjax.data.batches", "llmjax.models.heads", "llmjax.train.checkpoints"}
    assert some <= folders.keys()
    assert cyclic(folders) == []


def test_batches_know_no_other_folder_of_data(folders):
    assert folders["llmjax.data.batches"] == set()


def test_a_circle_of_folders_is_seen():
    graph = {
        "llmjax.data.a.x": {"llmjax.data.b.y"},
        "llmjax.data.b.z": {"llmjax.data.a.x"},
        "llmjax.data.b.y": set(),
    }
    folders = folder_graph(graph, {"llmjax.data.a", "llmjax.data.b"})
    assert sorted(cyclic(folders)) == ["llmjax.data.a", "llmjax.data.b"]


@pytest.mark.parametrize("name", ["config", "data"])
def test_room_does_not_import_jax(graph, name):
    assert jax_users(graph, name) == []


def test_one_room_knows_the_web(graph):
    users = {room(m) for m in graph for t in graph[m] if t.split(".")[0] in WEB}
    assert users == {"serve"}


def test_no_drawer_for_the_rest(graph):
    assert [m for m in graph if JUNK & set(m.split("."))] == []


@pytest.mark.parametrize(
    ("module", "text", "target"),
    [
        ("llmjax.models.a", "from llmjax.tasks import b", "llmjax.tasks"),
        ("llmjax.models.a", "def f():\n    import llmjax.data.b", "llmjax.data.b"),
        ("llmjax.parallel.a", "from ..models import b", "llmjax.models"),
        ("llmjax.data.a", "from llmjax.models import b", "llmjax.models"),
        ("llmjax.train.a", "from configs import b", "configs"),
        ("configs.a", "import experiments.b", "experiments.b"),
        ("llmjax", "from llmjax import config", "llmjax.config"),
        ("llmjax.attic.a", "import os", "has no floor"),
    ],
)
def test_a_forbidden_arrow_is_seen(module, text, target):
    sources = {module: text, "llmjax.config": ""}
    (fault,) = faults(import_graph({module: text} | sources, {"llmjax"}))
    assert fault.startswith(module)
    assert target in fault


def test_cycles_and_jax_are_seen_through_other_modules():
    sources = {
        "llmjax.data.a": "from llmjax.data import b",
        "llmjax.data.b": "from . import c",
        "llmjax.data.c": "import llmjax.data.b\nfrom jax import numpy",
    }
    graph = import_graph(sources, set())
    assert cyclic(graph) == ["llmjax.data.b", "llmjax.data.c"]
    assert jax_users(graph, "data") == list(sources)


@pytest.mark.parametrize(
    ("imports", "absent"),
    [
        ("llmjax, llmjax.config", {"torch", "tensorflow", "jax"}),
        ("llmjax.models.heads.language, llmjax.parallel.mesh", {"torch", "tensorflow"}),
    ],
)
def test_importing_the_core_is_light(imports, absent):
    code = f"import sys, {imports}; print(*({absent!r} & set(sys.modules)))"
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True
    )
    assert out.stdout.decode().split() == []
