"""Attention over the mesh axis `sequence` equals attention on one device."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from llmjax import config
from llmjax.models import remat
from llmjax.models.attention.context_parallel import KINDS, REFUSED
from llmjax.models.attention.implementations import CAPABILITIES, attend
from llmjax.models.attention.mask import Mask
from llmjax.models.attention.modifiers import ScoreModifiers
from llmjax.models.attention.ring import Ring
from llmjax.parallel.axes import partition_spec
from llmjax.parallel.mesh import make_mesh, use
from tests.train import toy

pytestmark = [pytest.mark.usefixtures("quick_compile"), pytest.mark.slow]

B, T, N, K, H = 4, 32, 8, 4, 8
ONE = config.LayoutConfig(data=1)
MESHES = {
    "sequence": {"sequence": 4},
    "mixed": {"data": 2, "sequence": 2, "tensor": 2},
}
CONTEXT = {
    "gather": config.Gather(),
    "ring": config.Ring(),
    "ulysses": config.Ulysses(),
}
KIND = {
    "einsum": config.EinsumAttention(),
    "blocked": config.BlockedAttention(16),
    "chunked": config.ChunkedAttention(6),
    "dot_product": config.DotProductAttention(),
    "splash": config.SplashAttention(block_q=128, block_kv=128),
}


def normal(*shape, seed=0) -> jax.Array:
    return jnp.float32(np.random.default_rng(seed).standard_normal(shape))


def slopes(q_BT, k_BS, slopes_N):
    distance = jnp.abs(q_BT[:, :, None] - k_BS[:, None])
    return -slopes_N[:, None, None] * distance[:, None]


def packed(T):
    """Three texts a row, the last row with padding."""
    cuts = [(5, 7), (T // 2, T // 4), (1, T - 2), (T // 4, T // 8)]
    segments = np.zeros((B, T), np.int32)
    positions = np.zeros((B, T), np.int32)
    for row, (a, b) in enumerate(cuts):
        start = 0
        for number, size in enumerate((a, b, T - a - b)):
            segments[row, start : start + size] = number + 1
            positions[row, start : start + size] = np.arange(size)
            start += size
    segments[-1, -5:] = 0
    return jnp.array(positions), jnp.array(segments)


def case(features, T=T, S=None) -> tuple[Mask, ScoreModifiers]:
    positions, segments = packed(T)
    asked = features.split()
    mask = Mask(causal="causal" in asked)
    modifiers = ScoreModifiers()
    if "packed" in asked:
        mask = mask.with_(
            q_positions_BT=positions,
            k_positions_BS=positions,
            q_segments_BT=segments,
            k_segments_BS=segments,
        )
    if "window" in asked:
        mask = mask.with_(window=6)
    if "blocks" in asked:
        mask = mask.with_(blocks=config.BlockSparse(4, 2, 3))
    if "prefix" in asked:
        lengths = jnp.array([[3], [7], [20], [0]])
        mask = mask.with_(k_prefix_BS=jnp.arange(T)[None] < lengths)
    if "pairs" in asked:
        hidden = np.random.default_rng(0).random((B, T, T)) < 0.4
        mask = mask.with_(hidden_BTS=jnp.asarray(hidden & ~np.eye(T, dtype=bool)))
    if "cross" in asked:
        mask = mask.with_(k_segments_BS=segments[:, : S or T])
    if "softcap" in asked:
        modifiers = ScoreModifiers(softcap=0.7)
    if "content" in asked:
        content = normal(B, N, T, T, seed=5)
        modifiers = ScoreModifiers(bias=lambda q, k: content, reads_content=True)
    return mask, modifiers


def run(layout, features, T=T, S=None, K=K, W=H):
    """(Gradients of a weighted sum over real queries, values there), and the HLO."""
    mask, modifiers = case(features, T, S)
    asked = features.split()
    qkv = {
        "q": normal(B, T, N, H),
        "k": normal(B, S or T, K, H, seed=1),
        "v": normal(B, S or T, K, W, seed=2),
    }
    more = {}
    if "sinks" in asked:
        more["sinks"] = normal(N, seed=6)
    if "bias" in asked:
        more["slopes"] = jnp.linspace(0.1, 1.0, N)
    weights = normal(B, T, N, W, seed=3)
    if mask.q_segments_BT is not None:
        weights *= (mask.q_segments_BT > 0)[:, :, None, None]

    def loss(given, mask):
        here = dataclasses.replace(modifiers, sinks_N=given.get("sinks"))
        if "slopes" in given:
            bias = functools.partial(slopes, slopes_N=given["slopes"])
            here = dataclasses.replace(here, bias=bias)
        out = attend(layout, given["q"], given["k"], given["v"], mask, here)
        return jnp.sum(out * weights), out * (weights != 0)

    mesh = make_mesh(
        layout, jax.devices()[: layout.data * layout.sequence * layout.tensor]
    )
    spec = partition_spec(("act_B", "act_T", "act_N", None), "activations")

    def place(x, *entries):
        return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*entries)))

    given = {name: place(x, *spec) for name, x in qkv.items()} | more
    mask = jax.tree.map(
        lambda x: place(x, spec[0] if x.shape[0] == B else None, spec[1]), mask
    )
    with use(mesh):
        step = jax.jit(jax.grad(loss, has_aux=True)).lower(given, mask).compile()
        return jax.device_get(step(given, mask)), step.as_text()


def collectives(text) -> set[str]:
    """The kinds that a program sends floats by."""
    found = re.findall(
        r"= (.*?) (all-[a-z-]+|collective-permute|reduce-scatter)\(", text
    )
    return {kind for shape, kind in found if "f32[" in shape}


@functools.cache
def plain(features, **sizes):
    return run(ONE, features, **sizes)[0]


def layout(context, mesh, kind="einsum"):
    axes = {"data": 1} | MESHES[mesh]
    return config.LayoutConfig(**axes, context=CONTEXT[context], attention=KIND[kind])


def assert_close(got, want, tolerance=2e-6):
    """Of each leaf's largest value."""

    def close(path, a, b):
        scale = max(1e-3, np.abs(b).max())
        np.testing.assert_allclose(
            a, b, rtol=0, atol=tolerance * scale, err_msg=jax.tree_util.keystr(path)
        )

    jax.tree_util.tree_map_with_path(close, got, want)


EVERYTHING = "causal packed softcap sinks bias"


@pytest.mark.parametrize(
    ("mesh", "kind", "features"),
    [
        ("sequence", "einsum", "causal"),
        ("mixed", "chunked", EVERYTHING),
        ("sequence", "einsum", "causal window packed"),
        ("mixed", "einsum", "causal prefix packed blocks"),
        ("mixed", "einsum", "packed window"),
    ],
)
def test_a_ring_is_attention_on_one_device(mesh, kind, features):
    """Keys and values only ever go from neighbour to neighbour."""
    got, text = run(layout("ring", mesh, kind), features)
    assert_close(got, plain(features))
    assert "collective-permute" in collectives(text)
    assert not collectives(text) & {"all-gather", "all-to-all", "reduce-scatter"}


@pytest.mark.parametrize(
    ("mesh", "kind", "features"),
    [
        ("sequence", "einsum", EVERYTHING),
        ("mixed", "einsum", "content pairs"),
        ("mixed", "blocked", "causal window packed"),
        ("mixed", "chunked", "causal packed prefix pairs"),
        ("mixed", "dot_product", "causal packed"),
    ],
)
def test_gathered_keys_give_attention_on_one_device(mesh, kind, features):
    """Queries stay where they are, but for blocks that look at fewer keys."""
    got, text = run(layout("gather", mesh, kind), features)
    assert_close(got, plain(features))
    shapes = re.findall(r"= f32\[([\d,]+)\]\S* all-gather\(", text)
    assert shapes
    if mesh == "mixed" and kind in ("chunked", "dot_product"):
        sizes = {math.prod(map(int, shape.split(","))) for shape in shapes}
        assert sizes == {B // 2 * T * (K // 2) * H}


@pytest.mark.parametrize(
    ("kind", "features"),
    [
        ("einsum", EVERYTHING),
        ("einsum", "content pairs"),
        ("chunked", "causal packed prefix"),
    ],
)
def test_dealt_heads_give_attention_on_one_device(kind, features):
    """Queries, keys, values and results are exchanged, and nothing is gathered."""
    got, text = run(layout("ulysses", "mixed", kind), features, K=4)
    assert_close(got, plain(features, K=4))
    assert "all-to-all" in collectives(text)
    if "content" not in features:
        assert not collectives(text) & {"all-gather", "collective-permute"}


@pytest.mark.parametrize(
    ("context", "features", "T"),
    [("gather", "causal packed sinks", 512), ("ulysses", "causal packed", 128)],
)
def test_splash_is_attention_on_one_device(context, features, T):
    got, _ = run(layout(context, "mixed", "splash"), features, T=T, K=4)
    assert_close(got, plain(features, T=T, K=4), 1e-5)


def test_an_encoder_of_another_length():
    sizes = {"S": 16, "W": 6}
    got, _ = run(layout("ring", "mixed"), "cross sinks", **sizes)
    assert_close(got, plain("cross sinks", **sizes))


def test_a_training_step_is_the_same_around_a_ring():
    """Packed rows; updates a thousand times the gradients, which weights vanish in."""
    optimizer = config.OptimizerConfig(
        config.SGD(0.0), config.Constant(), 1e3, weight_decay=0.0, clip_norm=None
    )
    run = toy.change(toy.CONFIG, optimizer=optimizer, model={"num_layers": 1})
    after, start = [], None
    for sequence in (1, 4):
        layout = {"data": 1, "sequence": sequence, "context": config.Ring()}
        program = toy.program(toy.change(run, layout=layout), sequence)
        rows = toy.batches(run).batch(0)
        assert rows["segment_ids"].max() > 1
        with use(program.mesh):
            start = jax.device_get(program.init()) if start is None else start
            state = jax.device_put(start, program.shardings)
            state, scalars = program.step(state, program.place(rows))
        after.append(jax.device_get((state.params, scalars)))
    assert_close(after[1], after[0], 1e-5)


def test_all_devices_of_a_causal_ring_have_as_much_to_do():
    """At each step; together they see what causality lets them see."""
    n, ring = 4, Ring(4, T, Mask(causal=True), prefix=False)
    chunks = [(i, 2 * n - 1 - i) for i in range(n)]
    seen = set()
    for step in range(ring.steps):
        work = []
        for i in range(n):
            j = (i - step) % n
            met = [p for p in ring.pairs() if ring.meets(i, j, p)]
            seen |= {(chunks[i][a], chunks[j][b]) for a, b in met}
            work.append(len(met))
        assert work == [3 if step == 0 else 2] * n
    assert seen == {(q, k) for q in range(2 * n) for k in range(q + 1)}


def test_a_windows_keys_come_no_further_than_they_are_seen():
    def steps(window):
        return Ring(4, T, Mask(causal=True, window=window), prefix=False).steps

    assert [steps(w) for w in (1, 2, 9, 10, T)] == [1, 2, 2, 3, 4]


def test_remat_that_keeps_a_rings_result_sends_nothing_twice():
    mask, modifiers = case("causal")
    q, k = (jax.ShapeDtypeStruct((B, T, n, H), jnp.float32) for n in (N, K))

    def sends(saved):
        here = config.LayoutConfig(
            data=1, sequence=4, context=config.Ring(), remat=config.NamesRemat(saved)
        )

        @functools.partial(jax.checkpoint, policy=remat.policy(here))
        def loss(q, k, v):
            return jnp.sum(attend(here, q, k, v, mask, modifiers) ** 2)

        with use(make_mesh(here, jax.devices()[:4])):
            gradient = jax.make_jaxpr(jax.grad(loss, (0, 1, 2)))(q, k, k)
        return str(gradient).count("ppermute[")

    assert sends(("context",)) < sends(())


@pytest.mark.parametrize(
    ("context", "kind", "features", "T", "K", "says"),
    [
        ("ring", "einsum", "content", T, 4, "cannot honour content bias.*gather, ulys"),
        ("ring", "einsum", "pairs", T, 4, "'ring' cannot honour pairs"),
        ("ring", "splash", "causal", 512, 4, "it one of blocked, chunked, einsum"),
        ("ring", "einsum", "causal", 36, 4, "data.seq_len .*a multiple of 8"),
        ("gather", "splash", "causal", 128, 4, "data.seq_len .*a multiple of 512"),
        ("ulysses", "einsum", "causal", T, 2, "num_kv_heads=2 .*layout.sequence=4 x"),
    ],
)
def test_what_cannot_be_is_said_before_there_is_a_mesh(
    context, kind, features, T, K, says
):
    """While shapes are inferred, as `param_axes` does; on one device all is well."""
    mask, modifiers = case(features, T)
    q, k = (jax.ShapeDtypeStruct((B, T, n, H), jnp.float32) for n in (N, K))
    here = layout(context, "sequence", kind)

    def shapes(layout):
        jax.eval_shape(lambda q, k: attend(layout, q, k, k, mask, modifiers), q, k)

    with pytest.raises(ValueError, match=says):
        shapes(here)
    shapes(dataclasses.replace(here, sequence=1))


def test_every_context_and_kind_has_its_line():
    assert set(KINDS) == set(REFUSED)
    assert set.union(*KINDS.values()) == set(CAPABILITIES)
    assert set.union(*REFUSED.values()) <= set.union(*CAPABILITIES.values())
