"""Seconds of transfers, of kernels and of the schedule, and the prediction."""

import dataclasses
import math

import pytest

from llmjax.config import (
    BFloat16,
    DataConfig,
    FullRemat,
    Int8,
    LayoutConfig,
    ModelConfig,
    NamesRemat,
    RunConfig,
    SplashAttention,
)
from llmjax.plan.cost import chips, estimate, pallas, roofline, timeline
from llmjax.plan.cost import splash as attention
from llmjax.plan.cost.links import Links
from llmjax.plan.hlo import traffic
from llmjax.plan.hlo.collectives import Collective, Devices, collectives
from llmjax.plan.hlo.module import parse
from llmjax.plan.hlo.summary import CustomCall
from tests.plan import compiled

MB = 10**6


def transfer(kind: str, groups, size: int, **changes) -> Collective:
    n = len(groups[0])
    sent = {"all-reduce": 2 * size * (n - 1) // n, "collective-permute": size}
    plain = Collective(
        kind=kind,
        opcode=kind,
        axis="fsdp",
        network="ici",
        groups=groups,
        group_size=n,
        calls=1,
        result_bytes=size,
        link_bytes=sent.get(kind, size * (n - 1) // n),
        computation="main",
        start="a",
        done="a",
        op_name="",
        source="",
    )
    return dataclasses.replace(plain, **changes)


def seconds(topology: str, t: Collective, slices: int = 1, **sizes: int) -> float:
    where = chips.parse(topology, slices)
    return Links(where, Devices(compiled.mesh(where, **sizes))).seconds(t)


ROW, ALL = (tuple(range(16)),), (tuple(range(256)),)


@pytest.mark.parametrize(
    "topology, sizes, kind, groups, ring_links",
    [
        ("v5e:16x16", {"fsdp": 16, "data": 16}, "all-gather", ROW, 2),
        ("v5e:16x16", {"fsdp": 256}, "all-gather", ALL, 4),
        ("v5e:16x16", {"fsdp": 256}, "all-reduce", ALL, 4),
        ("v5e:4x4", {"fsdp": 16}, "all-gather", ROW, 2),  # no wraps: one link a side
        ("v5p:4x4x4", {"fsdp": 64}, "reduce-scatter", (tuple(range(64)),), 6),
    ],
)
def test_collectives_use_all_links_that_their_group_spans(
    topology, sizes, kind, groups, ring_links
):
    """V (n - 1) / n bytes at one link's rate times the links; all-reduce twice."""
    n = len(groups[0])
    time = seconds(topology, transfer(kind, groups, 100 * MB), **sizes)
    chip = chips.parse(topology).chip
    sent = (2 if kind == "all-reduce" else 1) * 100 * MB * (n - 1) / n
    expected = sent / (ring_links * chip.link_bandwidth)
    assert expected < time < expected + 100 * chips.HOP_SECONDS


def test_a_gather_of_the_book():
    """Austin et al. 2025, part 3, question 2: 23 us over one axis of v4 4x4x4 for
    2 B D / Y bytes of B = 1024, D = 4096 (their V for V (n - 1) / n, and no hops)."""
    group = (tuple(range(4)),)
    t = transfer("all-gather", group, 2 * 1024 * 4096 // 4)
    got = seconds("v4:4x4x4", t, fsdp=4, data=16)
    assert got == pytest.approx(23e-6 * 3 / 4 + 2 * chips.HOP_SECONDS, rel=0.02)


def test_permutes_wait_for_the_busiest_link():
    """Neighbours of a ring send over one link each. Without wrap-around the last one's
    message takes the links of a line back, a direction that no other uses; a permute by
    two places puts two messages on every link."""
    one = chips.parse("v5e:16x16").chip.link_bandwidth
    ring = tuple((i, (i + 1) % 16) for i in range(16))
    two = tuple((i, (i + 2) % 16) for i in range(16))
    sizes = {"fsdp": 16, "data": 16}
    near = seconds("v5e:16x16", transfer("collective-permute", ring, MB), **sizes)
    far = seconds("v5e:16x16", transfer("collective-permute", two, MB), **sizes)
    assert near == pytest.approx(MB / one + chips.HOP_SECONDS)
    assert far == pytest.approx(2 * MB / one + chips.HOP_SECONDS)
    for topology, last, load in (("v5e:16x16", 15, 1), ("v5e:8x8", 7, 2)):
        t = transfer("collective-permute", ((0, last), (3, 4)), MB)
        got = seconds(topology, t, fsdp=last + 1, data=last + 1)
        assert got == pytest.approx(load * MB / one + chips.HOP_SECONDS)


def test_all_to_all_is_a_quarter_of_a_gather_on_a_ring():
    """Austin et al. 2025, part 3: of arrays that are n operands large."""
    sizes = {"fsdp": 16, "data": 16}
    exchange = seconds("v5e:16x16", transfer("all-to-all", ROW, 100 * MB), **sizes)
    gather = seconds("v5e:16x16", transfer("all-gather", ROW, 1600 * MB), **sizes)
    assert exchange == pytest.approx(gather / 4, rel=0.1)


def test_slices_and_hosts_have_their_own_networks():
    chip = chips.parse("v5e:4x4").chip
    plain = transfer("all-gather", ROW, MB)
    for network, rate in (
        ("dcn", chip.dcn_bandwidth),
        ("host", chip.host_bandwidth),
    ):
        t = dataclasses.replace(plain, network=network, link_bytes=MB)
        got = seconds("v5e:4x4", t, 2, data=2, fsdp=16)
        assert got == pytest.approx(MB / rate)


# --- kernels ----------------------------------------------------------------------


def splash(kernel: str, heads: int = 4, T: int = 4096, H: int = 128, b: int = 512):
    suffix = {"fwd": "", "dq": "_dq", "dkv": "_dkv"}[kernel]
    side = T // b
    return CustomCall(
        kernel=f"splash_mha_{kernel}_no_residuals",
        op_name="",
        source="",
        operands=(f"s8[1,{side},{side}]", f"s8[1,{side},{side}]")
        + 3 * (f"bf16[{heads},{T},{H}]",),
        results=2 * (f"bf16[{heads},{T},{H}]",),
        blocks=((f"block_q{suffix}", b), (f"block_kv{suffix}", b)),
        calls=10,
    )


@pytest.mark.parametrize(
    "kernel, kind, matmuls",
    [("fwd", "forward", 2), ("dq", "dq", 3), ("dkv", "dkv", 4)],
)
def test_flops_of_visited_blocks(kernel, kind, matmuls):
    """A causal mask leaves 36 of 8 x 8 blocks visible."""
    v5p = chips.CHIPS["v5p"]
    cost = pallas.cost(splash(kernel), v5p)
    assert (cost.kind, cost.visited_share) == (kind, 36 / 64)
    full = 10 * 4 * matmuls * 2 * 4096**2 * 128
    assert cost.flops == pytest.approx(full * 36 / 64)
    assert pallas.cost(splash(kernel), v5p, causal=False).flops == pytest.approx(full)
    # a window of one block: each row sees its own block and the one before
    near = pallas.cost(splash(kernel), v5p, window=512)
    assert near.visited_share == 15 / 64
    # blocks twice as tall: 2 + 4 + 6 + 8 of 4 x 8
    name = dict(splash(kernel).blocks)
    wide = tuple((n, 1024 if "_q" in n else 512) for n in name)
    taller = dataclasses.replace(splash(kernel), blocks=wide)
    assert pallas.cost(taller, v5p).visited_share == 20 / 32


@pytest.mark.parametrize("chip", ["v5e", "v5p", "v6e"])
@pytest.mark.parametrize("kernel", ["fwd", "dq", "dkv"])
def test_kernels_are_slower_than_the_matrix_units(chip, kernel):
    """At heads of 128 the 256-wide units of v6e are half used: 50 % at best."""
    here = chips.CHIPS[chip]
    cost = pallas.cost(splash(kernel, b=1024), here)
    used = cost.flops / cost.seconds / here.bf16_flops
    assert (0.2 if here.mxu == 256 else 0.5) < used < min(1, 128 / here.mxu)


@pytest.mark.parametrize("chip", ["v5p", "v6e"])
def test_the_fused_backward_saves_two_of_seven_matmuls(chip):
    here = chips.CHIPS[chip]
    both = [pallas.cost(splash(kernel), here) for kernel in ("dq", "dkv")]
    fused = dataclasses.replace(splash("dkv"), results=3 * ("bf16[4,4096,128]",))
    cost = pallas.cost(fused, here)
    assert cost.kind == "dkv+dq"
    assert cost.flops == pytest.approx(sum(c.flops for c in both) * 5 / 7)
    share = cost.seconds / sum(c.seconds for c in both)
    assert share == pytest.approx(5 / 7, rel=0.1)


def test_larger_blocks_cost_less_and_heads_add_up():
    v6e = chips.CHIPS["v6e"]
    small, large = (pallas.cost(splash("fwd", b=b), v6e, False) for b in (512, 1024))
    assert large.seconds < small.seconds
    more = pallas.cost(splash("fwd", heads=8), v6e, False)
    assert more.seconds == pytest.approx(2 * small.seconds)


def test_bytes_of_blocks_that_are_read_again():
    """Of one head, 4096 tokens and blocks of 512: 36 of 64 blocks are visited."""
    v5p, of_one = chips.CHIPS["v5p"], 4096 * 128 * 2  # bytes of queries, or of keys
    calls = {kernel: splash(kernel, heads=1) for kernel in ("fwd", "dq", "dkv")}
    moved = {k: pallas.cost(call, v5p).hbm_bytes / 10 for k, call in calls.items()}
    again = 36 * 512 * 2 * 128 * 2  # keys and values, or queries and gradients
    # queries and results, and a log-sum-exp of each query on 128 lanes
    assert moved["fwd"] == 2 * of_one + 4096 * 512 + again
    assert moved["dq"] == 3 * of_one + again
    assert moved["dkv"] == 4 * of_one + again
    fused = dataclasses.replace(calls["dkv"], results=3 * ("bf16[1,4096,128]",))
    # a part of dq for each of eight blocks of keys
    assert pallas.cost(fused, v5p).hbm_bytes / 10 == moved["dkv"] + 8 * of_one
    whole = pallas.cost(splash("fwd", heads=1, b=4096), v5p).hbm_bytes / 10
    assert whole == 4 * of_one + 4096 * 512  # each once


def test_a_kernel_waits_for_its_bytes():
    slow = dataclasses.replace(chips.CHIPS["v5p"], hbm_bandwidth=1e9)
    cost = pallas.cost(splash("fwd"), slow)
    assert cost.seconds == pytest.approx(cost.hbm_bytes / 1e9)


@pytest.mark.parametrize("fused", [False, True])
def test_attention_before_it_is_compiled(fused):
    """Four rows a chip, four heads, eight layers; the forward pass again or not."""
    v5p = chips.CHIPS["v5p"]
    model = ModelConfig(d_model=512, num_heads=4, num_layers=8)
    layout = LayoutConfig(
        attention=SplashAttention(1024, 1024, fused),
        precision=BFloat16(),
        remat=FullRemat(),
    )
    data = DataConfig(batch_size=16, seq_len=4096)
    run = RunConfig(model=model, data=data, layout=layout)
    mesh = estimate.mesh_sizes(dataclasses.replace(layout, data=1, fsdp=4), 4)
    got = attention.seconds(run, v5p, mesh)

    def alone(kernel: str, results: int = 2) -> float:
        call = splash(kernel, heads=16, b=1024)
        tensors = results * call.results[:1]
        call = dataclasses.replace(call, results=tensors, calls=8)
        return pallas.cost(call, v5p).seconds

    forward, both = alone("fwd"), alone("dq") + alone("dkv")
    if fused:  # four parts read, one sum written, in each layer
        summed = 8 * 5 * 16 * 4096 * 128 * 2 / v5p.hbm_bandwidth
        both = alone("dkv", 3) + summed
    assert got == pytest.approx(2 * forward + both, rel=1e-6)
    keeps = dataclasses.replace(layout, remat=NamesRemat(("context",)))
    less = attention.seconds(dataclasses.replace(run, layout=keeps), v5p, mesh)
    assert got - less == pytest.approx(forward)


def test_an_unknown_kernel_has_no_time():
    call = dataclasses.replace(splash("fwd"), kernel="gmm")
    cost = pallas.cost(call, chips.CHIPS["v5p"])
    assert cost.kind == "unknown" and math.isnan(cost.seconds)


# --- the schedule -----------------------------------------------------------------

SCHEDULE = """HloModule m

ENTRY %main (x: f32[4]) -> f32[4] {
  %x = f32[4]{0} parameter(0)
  %go = (f32[1]{0}, f32[4]{0}) all-gather-start(%x), channel_id=1
  %go.2 = (f32[1]{0}, f32[4]{0}) all-gather-start(%x), channel_id=2
  %work = f32[4]{0} negate(%x), backend_config={"estimated_cycles":"300"}
  %here = f32[4]{0} all-gather-done(%go)
  %more = f32[4]{0} negate(%x), backend_config={"estimated_cycles":"CYCLES"}
  ROOT %here.2 = f32[4]{0} all-gather-done(%go.2)
}
"""


def cycles_of(_, instruction) -> float:
    return float(instruction.cycles or 0)


@pytest.mark.parametrize(
    "cycles, exposed",
    [
        (0, 500),  # 400 + 400 one after the other, 300 of them hidden
        (150, 350),
        (1000, 100),  # the first still waits for its own
    ],
)
def test_transfers_hide_behind_compute_and_queue_on_their_links(cycles, exposed):
    program = parse(SCHEDULE.replace("CYCLES", str(cycles)))
    mesh = compiled.mesh(chips.parse("v5e:1x2"), fsdp=2)
    played = timeline.play(
        program,
        collectives(program, mesh),
        seconds=lambda _: 400.0,
        busy_links=lambda _: frozenset(["x"]),
        compute_seconds=cycles_of,
        kernel_seconds={},
    )
    assert played.compute == 300 + cycles
    assert played.exposed == pytest.approx(exposed)
    assert set(played.waits) == {("all-gather", "fsdp", "ici")}


def test_kernels_hide_transfers_too():
    program = parse(SCHEDULE.replace("CYCLES", "0"))
    mesh = compiled.mesh(chips.parse("v5e:1x2"), fsdp=2)
    played = timeline.play(
        program,
        collectives(program, mesh),
        seconds=lambda _: 400.0,
        busy_links=lambda t: frozenset([t.start]),  # each its own links
        compute_seconds=cycles_of,
        kernel_seconds={"work": 50.0},
    )
    assert (played.kernels, played.exposed) == (50, 50)


def test_hbm_bytes_of_a_slice_count_only_the_slice():
    text = """HloModule m

%part (p: f32[8,100], i: s32[]) -> f32[1,100] {
  %p = f32[8,100]{1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %s = f32[1,100]{1,0} dynamic-slice(%p, %i, %i), dynamic_slice_sizes={1,100}
}

ENTRY %main (x: f32[8,100], i: s32[]) -> f32[1,100] {
  %x = f32[8,100]{1,0} parameter(0)
  %j = s32[]{:S(6)} parameter(1)
  %one = f32[1,100]{1,0} fusion(%x, %j), kind=kLoop, calls=%part
  %near = (f32[1,100]{1,0:S(1)}, f32[1,100]{1,0}, u32[]{:S(2)}) copy-start(%one)
  %in.vmem = f32[1,100]{1,0:S(1)} copy-done(%near)
  ROOT %y = f32[1,100]{1,0} negate(%in.vmem)
}
"""
    # the slice read and written, read again by the copy, the result written
    assert traffic.hbm_bytes(parse(text)) == 4 * 400


# --- the whole --------------------------------------------------------------------


def test_prediction_of_a_real_program():
    where = chips.parse("v5p:2x2x4")
    model = ModelConfig(
        vocab_size=4096,
        d_model=512,
        num_heads=4,
        num_kv_heads=2,
        d_ff=1536,
        num_layers=4,
        tie_embeddings=False,
    )
    config = RunConfig(model=model, data=DataConfig(batch_size=16, seq_len=1024))
    mesh = compiled.mesh(where, data=2, fsdp=4, tensor=2)
    prediction = roofline.predict(compiled.text("mixed_v5p"), config, where, mesh, 36.0)
    cycles = prediction.summary.estimated_cycles
    assert prediction.compiler_seconds == pytest.approx(cycles / where.chip.hertz)
    kernels = {k.kind: k for k in prediction.kernels}
    assert (
        kernels["forward"].call.calls == 4 and kernels["forward"].visited_share == 0.75
    )
    assert prediction.pallas_seconds == pytest.approx(
        sum(k.seconds for k in prediction.kernels)
    )
    assert prediction.exposed_seconds == pytest.approx(sum(prediction.waits.values()))
    parts = (
        prediction.compiler_seconds
        + prediction.pallas_seconds
        + prediction.exposed_seconds
    )
    assert prediction.step_seconds == pytest.approx(parts)
    # 16 chips at 36 dollars an hour: 0.16 dollars a second
    tokens = 16 * 1024 / prediction.step_seconds
    assert prediction.dollars_per_billion_tokens == pytest.approx(0.16 * 1e9 / tokens)
    assert prediction.tokens_per_second_per_chip == pytest.approx(tokens / 16)
    assert prediction.mfu_causal < prediction.mfu < 1
    assert prediction.roofline.compute < prediction.step_seconds
    assert sum(prediction.roofline.near.values()) >= prediction.exposed_seconds
    assert prediction.roofline.binds == "ici"
    assert prediction.roofline.far == prediction.roofline.host == 0  # on four hosts
    assert prediction.uncounted == ()
    eight = dataclasses.replace(config, layout=LayoutConfig(quantization=Int8(False)))
    less = roofline.predict(compiled.text("mixed_v5p"), eight, where, mesh)
    # a third of the matmuls at twice the rate
    assert less.roofline.compute == pytest.approx(prediction.roofline.compute * 5 / 6)
