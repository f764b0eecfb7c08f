"""Every candidate is a layout that goes; the compiler has the last word."""

import dataclasses
import math
import shlex
import sys
import types

import pytest
from absl import flags
from ml_collections import config_flags

from configs.pretrain import llama2_7b, mixtral_8x7b
from llmjax import config as cfg
from llmjax.parallel.axes import MESH_AXES
from llmjax.plan import changes, chips, estimate, search
from llmjax.plan.estimate import Size
from llmjax.plan.roofline import Prediction

SIZE = Size(weights=6_738_415_616, expert_weights=0, optimizer_bytes=8.0)
TOPOLOGY = chips.parse("v5p:2x2x2")


@pytest.fixture(scope="module")
def run():
    """Llama 2 7B at four rows a chip."""
    config = llama2_7b.get_config()
    config.data.batch_size = 32
    return cfg.parse(config)


@pytest.fixture(scope="module")
def found(run):
    return search.candidates(run, TOPOLOGY, SIZE)


def test_candidates_go(run, found):
    assert len(found) > 100
    for candidate in found:
        layout = candidate.config.layout
        sizes = [getattr(layout, axis) for axis in MESH_AXES]
        assert math.prod(sizes) == TOPOLOGY.devices
        rows = run.data.batch_size / (layout.data * layout.fsdp * layout.expert)
        assert rows % layout.microbatches == 0
        assert run.model.K % layout.tensor == 0
        assert candidate.estimate.bytes <= search.ROOM * 95.8 * 2**30


def test_the_fastest_by_the_formula_come_first(found):
    seconds = [c.estimate.seconds for c in found]
    assert seconds == sorted(seconds)
    # 6 * 6.6e9 weights * 131072 tokens over 8 chips' peak is 1.4 s
    assert 1.4 < seconds[0] < 2.2


def test_a_mesh_takes_two_places_at_most(found):
    taken = search.shortlist(found, 6)
    meshes = [tuple(getattr(c.config.layout, a) for a in MESH_AXES) for c in taken]
    assert len(taken) == 6
    assert max(meshes.count(m) for m in meshes) == 2


def test_slices_stay_apart(run):
    topology = chips.parse("v5e:4x4", 2)
    made = list(search.meshes(run, topology))
    assert made
    assert all(mesh["data"] % 2 == 0 for mesh in made)


def test_experts_are_searched_where_there_are_some(run):
    topology = chips.parse("v5p:4x8x8")
    mixture = cfg.parse(mixtral_8x7b.get_config())
    assert {m["expert"] for m in search.meshes(mixture, topology)} == {1, 2, 4, 8}
    assert {m["expert"] for m in search.meshes(run, TOPOLOGY)} == {1}


def test_the_compiler_ranks(run, found, monkeypatch):
    """The formula's first does not fit, its second is refused, its last wins."""
    monkeypatch.setattr(search, "candidates", lambda *args: found)
    order = search.shortlist(found, 12)
    asked = []

    def compiler(config, topology):
        asked.append(config)
        if len(asked) == 2:
            raise ValueError("the kernel does no such thing")
        fits = len(asked) != 1
        return types.SimpleNamespace(fits=fits, needed=7, error="" if fits else "no")

    def predict(made):
        prediction = object.__new__(Prediction)
        object.__setattr__(prediction, "step_seconds", 10.0 - len(asked))
        return prediction

    ranked = search.search(run, TOPOLOGY, SIZE, predict, best=3, compiler=compiler)
    assert asked == [c.config for c in order[:4]]
    assert [r.step_seconds for r in ranked] == [6.0, 7.0, math.inf]
    assert changes.changed(run, ranked[0].change) == order[3].config


@pytest.mark.parametrize(
    "change",
    [
        {"fsdp": 16, "tensor": 4, "data": 1},
        {"remat": "names", "saved": ("query", "context")},
        {"remat": "names", "saved": ("query",), "offloaded": ("input",)},
        {"remat": "full", "saved": ()},
        {"attention": cfg.SplashAttention(block_q=1024), "microbatches": 4},
        {"attention": cfg.EinsumAttention()},
        {"optimizer_memory": "host", "masters": "bfloat16", "loss_block": 256},
    ],
    ids=lambda change: "-".join(change),
)
def test_flags_make_the_change(change, monkeypatch):
    run = cfg.parse(llama2_7b.get_config())
    values = flags.FlagValues()
    words = ["program", *shlex.split(changes.flags(change))]
    monkeypatch.setattr(sys, "argv", words)  # where ml_collections looks for them
    config_flags.DEFINE_config_dict(
        "config", llama2_7b.get_config(), flag_values=values
    )
    values(words)
    assert cfg.parse(values.config) == changes.changed(run, change)


def test_memory_follows_what_remat_keeps(run):
    """On one chip of 8: 4 rows of 4096, bfloat16, 32 layers."""
    mesh = estimate.mesh_sizes(run.layout, 8)

    def held(**change):
        return estimate.memory(changes.changed(run, change), SIZE, mesh)

    tokens = 4 * 4096
    context = held(remat="names", saved=("context",)) - held(remat="full", saved=())
    assert context == 2 * tokens * 4096 * 32
    half = held() - held(microbatches=2)
    kept = 2 * tokens / 2 * (4 * 4096 + 2 * 11008) * 32
    assert half == pytest.approx(kept, rel=0.1)


def test_a_host_holds_the_optimizer(run):
    mesh = estimate.mesh_sizes(run.layout, 8)
    moved = dataclasses.replace(run.layout, optimizer_memory="host")
    host = dataclasses.replace(run, layout=moved)
    saved = estimate.memory(run, SIZE, mesh) - estimate.memory(host, SIZE, mesh)
    assert saved == 8 * SIZE.weights / 8
    slower = estimate.seconds(host, TOPOLOGY, SIZE, mesh)
    assert slower > estimate.seconds(run, TOPOLOGY, SIZE, mesh)
