"""Every candidate is a possible layout; the compiler has the last word at each step."""

import dataclasses
import math
import shlex
import sys
from collections import Counter

import jax
import pytest
from absl import flags
from ml_collections import config_flags

from configs.pretrain import llama2_7b, mixtral_8x7b
from llmjax import config as cfg
from llmjax.plan.compiler.compile import Compiled
from llmjax.plan.cost import chips, estimate, gpus, topologies
from llmjax.plan.cost.estimate import Size
from llmjax.plan.cost.roofline import Prediction
from llmjax.plan.layouts import changes, moves, options, search

SIZE = Size(weights=6_738_415_616, expert_weights=0, optimizer_bytes=8.0)
TOPOLOGY = chips.parse("v5p:2x2x2")


@pytest.fixture(scope="module")
def run():
    """Llama 2 7B at four rows a chip."""
    config = llama2_7b.base()
    config.data.batch_size = 32
    return cfg.parse(config)


@pytest.fixture(scope="module")
def found(run):
    return search.candidates(run, TOPOLOGY, SIZE)


def test_candidates_are_possible_layouts(run, found):
    assert len(found) > 100
    for candidate in found:
        layout = candidate.config.layout
        sizes = layout.mesh_sizes.values()
        assert math.prod(sizes) == TOPOLOGY.devices
        rows = run.data.batch_size / (layout.data * layout.fsdp * layout.expert)
        assert rows % layout.microbatches == 0
        assert run.model.K % layout.tensor == 0
        assert candidate.estimate.bytes <= search.MARGIN * 95.8 * 2**30


def test_the_fastest_by_the_formula_come_first(found):
    seconds = [c.estimate.seconds for c in found]
    assert seconds == sorted(seconds)
    # 6 * 6.6e9 weights * 131072 tokens over 8 chips' peak is 1.4 s
    assert 1.4 < seconds[0] < 2.2


REFUSALS = (
    ValueError("the kernel does no such thing"),
    jax.errors.JaxRuntimeError("INTERNAL: a bug"),
)


def test_a_search_that_finds_nothing_ends(run, found, monkeypatch):
    asked, ranked = searched(run, found, monkeypatch, lambda *_: REFUSALS[1], 8)
    assert ranked == []
    # the run itself, and a third of what is left: nothing fits that could be changed
    assert len(asked) == 1 + 2


def mesh_of(config):
    return tuple(config.layout.mesh_sizes.values())


def explicit(run):
    """The run without -1 in its mesh."""
    sizes = estimate.mesh_sizes(run.layout, TOPOLOGY.devices)
    return changes.changed(run, run.layout.mesh_fields(sizes))


def compiled_step(config, needed, available):
    """A compile's result, as far as a search looks at it."""
    made = object.__new__(Compiled)
    values = {"config": config, "needed": needed, "available": available}
    values |= {"memory": object(), "error": "" if needed <= available else "no"}
    for name, value in values.items():
        object.__setattr__(made, name, value)
    return made


def searched(run, found, monkeypatch, needs, compiles, seconds=None, **options):
    """(configs that a search over `found` compiles, its ranking).

    Args:
      needs: of (number of the compile, config), its share of the chip's memory, or
        the error that it raises.
      compiles: the budget.
      seconds: of (number, config), the predicted step; None: each faster than the last.
    """
    monkeypatch.setattr(search, "candidates", lambda *args: found)
    asked = []
    room = TOPOLOGY.chip.usable_hbm_bytes

    def compiler(config, topology):
        asked.append(config)
        need = needs(len(asked), config)
        if isinstance(need, Exception):
            raise need
        return compiled_step(config, int(need * room), room)

    def predict(made):
        prediction = object.__new__(Prediction)
        faster = 100.0 - len(asked)
        step = seconds(len(asked), made.config) if seconds else faster
        object.__setattr__(prediction, "step_seconds", step)
        return prediction

    ranked = search.search(run, TOPOLOGY, SIZE, predict, compiles, compiler, **options)
    return asked, ranked


def test_a_mesh_takes_two_places_at_most(run, found, monkeypatch):
    """Of the formula's; what comes after changes one thing at a time."""
    asked, ranked = searched(run, found, monkeypatch, lambda *_: 0.5, 19)
    assert len(asked) == len(ranked) == 19
    assert max(Counter(map(mesh_of, asked[1:7])).values()) == 2
    assert len(set(map(mesh_of, asked[6:]))) == 1


def test_a_compile_corrects_the_formulas_bytes(run, found, monkeypatch):
    """After one that needs a fifth too much, its mesh is asked for smaller ones."""
    asked, _ = searched(
        run, found, monkeypatch, lambda n, _: 1.2 if n == 2 else 0.5, 10
    )
    sizes = {c.config: c.estimate.bytes for c in found}
    first, *later = asked[1:4]
    again = [c for c in later if mesh_of(c) == mesh_of(first)]
    assert again
    assert all(sizes[c] * 1.2 <= sizes[first] for c in again)


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda e: type(e).__name__)
def test_the_compiler_ranks(run, found, monkeypatch, refusal):
    """The formula's first does not fit, its second is refused, its last wins."""
    needs = {2: 1.01, 3: refusal}
    asked, ranked = searched(
        run, found, monkeypatch, lambda n, _: needs.get(n, 0.5), 10
    )
    assert asked[:2] == [explicit(run), found[0].config]
    assert [r.step_seconds for r in ranked[:2]] == [90.0, 91.0]
    assert ranked[-1].step_seconds == math.inf and len(ranked) == 9
    assert changes.changed(explicit(run), ranked[0].change) == asked[-1]


def test_what_helped_is_kept_and_what_did_not_is_not_tried_again(run, monkeypatch):
    """Only larger blocks and one option help here; both are in the winner."""

    def seconds(_, config):
        attention, options = config.layout.attention, config.layout.compiler_options
        return 10.0 - attention.block_kv / 1024 - len(options)

    asked, ranked = searched(
        run, [], monkeypatch, lambda *_: 0.5, 40, seconds, fixed=("remat",)
    )
    assert len(asked) < 40  # it ran out of changes, not of compiles
    assert len(set(asked)) == len(asked)
    best = ranked[0].candidate.config.layout
    assert best.attention.block_kv == 1024  # what the kernels' cost puts first
    assert not best.attention.fused_backward
    assert len(best.compiler_options) == 2
    assert best.remat == run.layout.remat
    useless = [c for c in asked if c.layout.loss_block != run.layout.loss_block]
    assert len(useless) == len({c.layout.loss_block for c in useless})


def test_a_started_search_does_not_compile_the_run_again(run, monkeypatch):
    start = compiled_step(run, 10**9, 10**10)
    asked, ranked = searched(run, [], monkeypatch, lambda *_: 0.5, 3, start=start)
    assert len(asked) == 3 and explicit(run) not in asked and len(ranked) == 4


def test_less_memory_than_the_chip_has(run, monkeypatch):
    half = TOPOLOGY.chip.usable_hbm_bytes // 2
    _, ranked = searched(
        run, [], monkeypatch, lambda n, _: 0.6 - 0.2 * (n % 2), 6, available=half
    )
    assert {r.prediction is None for r in ranked} == {True, False}
    assert all((r.compiled_bytes > half) == (r.prediction is None) for r in ranked)


@pytest.mark.parametrize("topology", ["v5p:2x2x2", "v6e:4x4", "h100:8x8"])
def test_moves_leave_the_mathematics_alone(run, topology):
    where = topologies.parse(topology)
    layouts = [
        run,
        changes.changed(run, {"remat": cfg.FullRemat(), "unroll": 2}),
        changes.changed(run, {"tensor": 2, "sequence": 2, "optimizer_memory": "host"}),
    ]
    mathematics = ("precision", "quantization", "slices")
    for config in layouts:
        found = moves.moves(config, where, SIZE)
        kinds = {m.kind for m in found}
        assert kinds >= {"remat", "offload", "loss block", "unroll"}
        on_tpus = {"compiler option", "attention blocks", "fused backward"}
        assert kinds & on_tpus == (on_tpus if where.platform == "tpu" else set())
        assert ("context" in {m.kind for m in found}) == (config.layout.tensor == 2)
        for move in found:
            after = changes.changed(config, move.change)
            assert after != config and move.why
            assert dataclasses.replace(after, layout=config.layout) == config
            for field in mathematics:
                same = getattr(config.layout, field)
                assert getattr(after.layout, field) == same
            sizes = estimate.mesh_sizes(after.layout, where.devices).values()
            assert math.prod(sizes) == where.devices


def test_options_take_the_place_of_other_values_of_theirs(run):
    """Each chip of a list has some, each with what it does; GPUs have none here."""
    for chip, topology in (("v5e", "4x4"), ("v5p", "2x2x2"), ("v6e", "4x4")):
        found = options.options(run, chips.parse(f"{chip}:{topology}"))
        assert found and all(option.what and option.settings for option in found)
    assert options.options(run, gpus.parse("h100:8x8")) == []
    before = ("xla_a=1", "xla_tpu_scoped_vmem_limit_kib=1")
    after = options.vmem(2048).added(before)
    assert after == ("xla_a=1", "xla_tpu_scoped_vmem_limit_kib=2048")


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


@pytest.mark.parametrize(
    "change",
    [
        {"fsdp": 16, "tensor": 4, "data": 1},
        {"pipeline": cfg.Pipeline(4, 2, 8), "context": cfg.Ring(True)},
        {"remat": cfg.NamesRemat(("query", "context"))},
        {"remat": cfg.NamesRemat(("query",), ("input",))},
        {"remat": cfg.FullRemat()},
        {"attention": cfg.SplashAttention(block_q=1024), "microbatches": 4},
        {"attention": cfg.EinsumAttention()},
        {"optimizer_memory": "host", "loss_block": 256},
        {"precision": cfg.BFloat16(masters="bfloat16")},
        {"compiler_options": ("xla_a=1", "xla_b=2")},
    ],
    ids=lambda change: "-".join(change),
)
def test_flags_and_lines_make_the_change(change, monkeypatch):
    run = cfg.parse(llama2_7b.base())
    values = flags.FlagValues()
    words = ["program", *shlex.split(changes.flags(change))]
    monkeypatch.setattr(sys, "argv", words)  # where ml_collections looks for them
    config_flags.DEFINE_config_dict("config", llama2_7b.base(), flag_values=values)
    values(words)
    assert cfg.parse(values.config) == changes.changed(run, change)
    config = llama2_7b.base()
    exec(changes.lines(change), {"config": config})
    assert cfg.parse(config) == changes.changed(run, change)


def test_memory_follows_what_remat_keeps(run):
    """On one chip of 8: 4 rows of 4096, bfloat16, 32 layers."""
    mesh = estimate.mesh_sizes(run.layout, 8)

    def held(**change):
        return estimate.memory(changes.changed(run, change), SIZE, mesh)

    tokens = 4 * 4096
    context = held(remat=cfg.NamesRemat(("context",))) - held(remat=cfg.FullRemat())
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


def test_int8_counts_at_its_own_peak(run):
    """v5p multiplies int8 twice as fast; of the step only the matmuls take less."""
    mesh = estimate.mesh_sizes(run.layout, 8)
    narrow = changes.changed(run, {"quantization": cfg.Int8()})
    half = estimate.seconds(narrow, TOPOLOGY, SIZE, mesh)
    assert half == pytest.approx(estimate.seconds(run, TOPOLOGY, SIZE, mesh) / 2)


def test_gpus_are_searched_with_their_kernel(run):
    """Its config's "auto" is cuDNN's kernel there; einsum gets it as an alternative."""
    topology = gpus.parse("h100:8x8")
    found = search.candidates(run, topology, SIZE)
    assert found
    best = found[0]
    assert math.prod(best.config.layout.mesh_sizes.values()) == 64
    assert best.estimate.bytes < 1.15 * topology.chip.usable_hbm_bytes
    einsum = changes.changed(run, {"attention": cfg.EinsumAttention()})
    kinds = [a.kind for a in search.attentions(einsum, topology)]
    assert kinds == ["einsum", "dot_product"]
    assert [a.kind for a in search.attentions(run, topology)] == ["auto"]


def test_a_kernel_on_gpus_keeps_no_scores(run):
    topology = gpus.parse("h100:8x8")
    mesh = estimate.mesh_sizes(run.layout, 64)
    held = {
        kind: estimate.estimate(
            changes.changed(run, {"attention": kind}), topology, SIZE, mesh
        ).bytes
        for kind in (cfg.DotProductAttention(), cfg.EinsumAttention())
    }
    T, heads = run.data.seq_len, run.model.num_heads
    tokens = run.data.batch_size * T / 64
    scores = held[cfg.EinsumAttention()] - held[cfg.DotProductAttention()]
    assert scores == pytest.approx(2 * 4 * tokens * T * heads, rel=0.1)
