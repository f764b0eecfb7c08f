# ruff: noqa: E501 - lines of HLO
"""Costs of a GPU program's instructions against counts by hand."""

import dataclasses

import pytest

from llmjax.config import DataConfig, ModelConfig, RunConfig
from llmjax.plan.cost import attention, gemm, gpus, instructions, roofline
from llmjax.plan.cost.nccl import GpuLinks
from llmjax.plan.hlo import traffic
from llmjax.plan.hlo.collectives import Devices, collectives
from llmjax.plan.hlo.execution import walk
from llmjax.plan.hlo.matmuls import matmuls
from llmjax.plan.hlo.module import parse
from tests.plan import compiled
from tests.plan.compiled import gpu_mesh as mesh

H100 = gpus.GPUS["h100"]
MB = 10**6


def program(lines: str, before: str = "") -> str:
    """A module whose entry has these lines, the last of them its root."""
    *body, last = (line.strip() for line in lines.strip().splitlines())
    text = "\n".join(f"  {line}" for line in [*body, f"ROOT {last}"])
    return f"HloModule m\n{before}\nENTRY %main (x: f32[]) -> f32[] {{\n{text}\n}}\n"


def root(text: str):
    """(module, its entry's computation, its entry's root)."""
    module = parse(text)
    return module, module.computations[module.entry], module.root(module.entry)


# --- matmuls ----------------------------------------------------------------------

A = "%a = bf16[512,1024]{1,0} parameter(0)"
B = "%b = bf16[1024,2048]{1,0} parameter(1)"
FUSED = """
%gemm (p: bf16[512,1024], q: bf16[1024,2048]) -> bf16[512,2048] {
  %p = bf16[512,1024]{1,0} parameter(0)
  %q = bf16[1024,2048]{1,0} parameter(1)
  ROOT %d = bf16[512,2048]{1,0} dot(%p, %q), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}
"""
NUMBERS = (
    '"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],'
    '"rhs_contracting_dimensions":["0"],"lhs_batch_dimensions":[],'
    '"rhs_batch_dimensions":[]}'
)


@pytest.mark.parametrize(
    "last",
    [
        "%d = bf16[512,2048]{1,0} dot(%a, %b), lhs_contracting_dims={1}, "
        "rhs_contracting_dims={0}",
        "%d = bf16[512,2048]{1,0} fusion(%a, %b), kind=kCustom, calls=%gemm, "
        'backend_config={"fusion_backend_config":{"kind":"__triton_nested_gemm_fusion"'
        "}}",
        "%d = (bf16[512,2048]{1,0}, s8[4194304]{0}) custom-call(%a, %b), "
        'custom_call_target="__cublas$gemm", '
        f'backend_config={{"gemm_backend_config":{{"alpha_real":1,{NUMBERS}}}}}',
        "%d = (bf16[512,2048]{1,0}, s8[4194304]{0}) custom-call(%a, %b), "
        'custom_call_target="__cublas$lt$matmul", '
        f'backend_config={{"gemm_backend_config":{{"alpha_real":1,{NUMBERS}}}}}',
    ],
    ids=["dot", "triton", "cublas", "cublaslt"],
)
def test_each_kind_of_matmul_is_read(last):
    module, computation, instruction = root(program(f"{A}\n{B}\n{last}", FUSED))
    (product,) = matmuls(module, computation, instruction)
    assert (product.batch, product.m, product.n, product.k) == (1, 512, 2048, 1024)
    assert product.flops == 2 * 512 * 1024 * 2048 and product.dtype == "bf16"
    rate = 794.5e12 * gemm.filled(512, 2048, 1, 132)
    assert gemm.seconds(product, H100) == pytest.approx(product.flops / rate)
    assert instructions.seconds(module, "main", instruction, H100) > (
        product.flops / rate + instructions.LAUNCH_SECONDS
    )


def test_batched_and_transposed_matmuls():
    """[4, 8, 128, 64] x [4, 8, 256, 64] over the last: 32 products of 128x64x256."""
    text = program(
        """%a = f32[4,8,128,64]{3,2,1,0} parameter(0)
        %b = f32[4,8,256,64]{3,2,1,0} parameter(1)
        %d = f32[4,8,128,256]{3,2,1,0} dot(%a, %b), lhs_batch_dims={0,1}, lhs_contracting_dims={3}, rhs_batch_dims={0,1}, rhs_contracting_dims={3}, operand_precision={highest,highest}"""
    )
    (product,) = matmuls(*root(text))
    assert (product.batch, product.m, product.n, product.k) == (32, 128, 256, 64)
    assert gemm.peak(product, H100) == H100.fp32_flops
    rounded = dataclasses.replace(product, exact=False)
    assert gemm.peak(rounded, H100) == H100.tf32_flops


def test_rows_of_a_ragged_matmul_meet_one_group():
    text = program(
        """%a = bf16[4096,512]{1,0} parameter(0)
        %b = bf16[8,512,1024]{2,1,0} parameter(1)
        %s = s32[8]{0} parameter(2)
        %d = bf16[4096,1024]{1,0} ragged-dot(%a, %b, %s), lhs_contracting_dims={1}, rhs_contracting_dims={1}, lhs_ragged_dims={0}, rhs_group_dims={0}"""
    )
    (product,) = matmuls(*root(text))
    assert product.flops == 2 * 4096 * 512 * 1024


def test_eight_bits_are_twice_as_fast_at_most():
    product = matmuls(*root(program(f"{A}\n{B}\n{FUSED_CALL}", FUSED)))[0]
    eight = dataclasses.replace(product, dtype="f8e4m3fn")
    whole = dataclasses.replace(product, dtype="s8")
    assert gemm.peak(eight, H100) == gemm.peak(whole, H100) == 2 * H100.bf16_flops
    gain = gemm.seconds(product, H100) / gemm.seconds(eight, H100)
    assert gain == pytest.approx(1402.6 / 794.5, rel=1e-3)
    a100 = gpus.GPUS["a100-80"]
    assert gemm.peak(eight, a100) == a100.bf16_flops


FUSED_CALL = "%d = bf16[512,2048]{1,0} fusion(%a, %b), kind=kCustom, calls=%gemm"


@pytest.mark.parametrize(
    "m, n, batch, share",
    [
        (132 * 256, 128, 1, 1.0),  # a wave of full tiles
        (133 * 256, 128, 1, 266 / 396),  # one more needs a third wave of 128 x 128
        (200, 128, 132, 200 / 256),  # rows rounded up to the tile
        (64, 64 * 132, 1, 1.0),  # small tiles where there are few large ones
        (2048, 2048, 1, 128 / 132),
    ],
)
def test_tiles_and_waves_leave_cores_idle(m, n, batch, share):
    assert gemm.filled(m, n, batch, 132) == pytest.approx(share)


# --- attention --------------------------------------------------------------------


def attention_call(
    way: str = "", mask: str = "CAUSAL", T: int = 8192, window: int = 0
) -> str:
    q = f"bf16[2,{T},32,128]"
    return program(
        f"""%q = {q}{{3,2,1,0}} parameter(0)
        %k = bf16[2,{T},8,128]{{3,2,1,0}} parameter(1)
        %v = bf16[2,{T},8,128]{{3,2,1,0}} parameter(2)
        %o.1 = ({q}{{3,2,1,0}}, f32[2,32,{T}]{{2,1,0}}, u8[0]{{0}}) custom-call(%q, %k, %v), custom_call_target="__cudnn$fmhaSoftmax{way}", backend_config={{"cudnn_fmha_backend_config": {{"fmha_scale": 1.0, "intermediate_tensor_shape": {{"element_type": "BF16", "dimensions": ["2", "32", "{T}", "{T}"], "tuple_shapes": []}}, "mask_type": "{mask}", "sliding_window_length": {window}}}}}"""
    )


@pytest.mark.parametrize(
    "way, mask, window, matmuls_, share, rate",
    [
        ("", "NO_MASK", 0, 2, 1.0, 600e12),
        ("", "CAUSAL", 0, 2, 0.5, 529e12),
        ("", "CAUSAL", 1024, 2, 1024 / 8192 * (1 - 1 / 16), 529e12),
        ("Backward", "PADDING", 0, 5, 1.0, 518e12),
        ("Backward", "PADDING_CAUSAL", 0, 5, 0.5, 518e12 * 529 / 600),
    ],
)
def test_attention_counts_what_its_mask_leaves(
    way, mask, window, matmuls_, share, rate
):
    _, computation, call = root(attention_call(way, mask, window=window))
    expected = matmuls_ * 2 * 2 * 32 * 8192**2 * 128 * share
    counted = attention.flops(computation, call)
    assert counted == pytest.approx(expected, rel=1e-3)
    assert attention.seconds(computation, call, H100) == pytest.approx(counted / rate)
    assert attention.kind(call) == ("backward" if way else "forward")


def test_attention_of_other_lengths_and_gpus():
    """Between measured lengths by the logarithm; an A100 reaches what FlashAttention-2
    does at most."""
    _, computation, call = root(attention_call(T=4096))
    near = attention.flops(computation, call) / attention.seconds(
        computation, call, H100
    )
    assert near == pytest.approx(518e12)
    _, computation, call = root(attention_call(mask="NO_MASK", T=2048))
    a100 = gpus.GPUS["a100-80"]
    rate = attention.flops(computation, call) / attention.seconds(
        computation, call, a100
    )
    assert rate == pytest.approx(0.73 * 312e12)


# --- fusions, copies, unknown kernels ---------------------------------------------

ADD = """
%added (p: f32[1000000], q: f32[1000000]) -> f32[1000000] {
  %p = f32[1000000]{0} parameter(0)
  %q = f32[1000000]{0} parameter(1)
  %e = f32[1000000]{0} exponential(%p)
  ROOT %s = f32[1000000]{0} add(%e, %q)
}
"""


def test_a_fusion_takes_its_bytes_or_its_operations():
    text = program(
        """%a = f32[1000000]{0} parameter(0)
        %b = f32[1000000]{0} parameter(1)
        %c = f32[1000000]{0} fusion(%a, %b), kind=kLoop, calls=%added""",
        ADD,
    )
    module, computation, fusion = root(text)
    assert traffic.instruction_bytes(module, computation, fusion) == 12 * MB
    compute = (8 + 1) * MB / (132 * 128 * 1.98e9)
    memory = 12 * MB / 2.903e12
    assert instructions.compute_seconds(
        module, computation, fusion, H100
    ) == pytest.approx(compute)
    expected = memory + 0.05 * compute + 1e-6
    got = instructions.seconds(module, "main", fusion, H100)
    assert got == pytest.approx(expected)


PARTS = """
%taken (p: f32[32,1000], q: f32[64,1000], i: s32[8,1], j: s32[], u: f32[64,10]) -> (f32[1,1000], f32[8,1000], f32[64,1000]) {
  %p = f32[32,1000]{1,0} parameter(0)
  %q = f32[64,1000]{1,0} parameter(1)
  %i = s32[8,1]{1,0} parameter(2)
  %j = s32[] parameter(3)
  %u = f32[64,10]{1,0} parameter(4)
  %h = bf16[32,1000]{1,0} convert(%p)
  %d = bf16[1,1000]{1,0} dynamic-slice(%h, %j, %j), dynamic_slice_sizes={1,1000}
  %g = f32[8,1000]{1,0} gather(%q, %i), offset_dims={1}, slice_sizes={1,1000}
  %w = f32[64,1000]{1,0} dynamic-update-slice(%q, %u, %j, %j)
  ROOT %t = (bf16[1,1000]{1,0}, f32[8,1000]{1,0}, f32[64,1000]{1,0}) tuple(%d, %g, %w)
}
"""


def test_parts_of_arrays_count_alone():
    """A slice read through a conversion, rows that are gathered, a slice written."""
    text = program(
        """%p = f32[32,1000]{1,0} parameter(0)
        %q = f32[64,1000]{1,0} parameter(1)
        %i = s32[8,1]{1,0} parameter(2)
        %j = s32[] parameter(3)
        %u = f32[64,10]{1,0} parameter(4)
        %f = (bf16[1,1000]{1,0}, f32[8,1000]{1,0}, f32[64,1000]{1,0}) fusion(%p, %q, %i, %j, %u), kind=kLoop, calls=%taken""",
        PARTS,
    )
    read = 4000 + 32_000 + 32 + 4 + 2560
    written = 2000 + 32_000 + 2560
    assert traffic.instruction_bytes(*root(text)) == read + written


def test_radix_sort_passes_once_per_eight_bits():
    text = program(
        """%a = u32[1000000]{0} parameter(0)
        %s = (u32[1000000]{0}, u8[64]{0}) custom-call(%a), custom_call_target="__cub$DeviceRadixSort" """
    )
    module, _, call = root(text)
    moved = 4 * (8 * MB + 64)
    expected = moved / 2.903e12 + 1e-6
    assert instructions.seconds(module, "main", call, H100) == pytest.approx(
        expected, rel=1e-3
    )


# --- transfers --------------------------------------------------------------------

GROUPS = "replica_groups=[1,8]<=[8]"
STARTS = {
    "all-gather": "((f32[125000]{0}), f32[1000000]{0}) all-gather-start(%x), "
    "channel_id=1, dimensions={0}, ",
    "reduce-scatter": "((f32[1000000]{0}), f32[125000]{0}) reduce-scatter-start(%x), "
    "channel_id=1, dimensions={0}, ",
    "all-reduce": "((f32[1000000]{0}), f32[1000000]{0}) all-reduce-start(%x), "
    "channel_id=1, ",
}


def transfer(kind: str, groups: str, topology: str, **sizes: int):
    """(the one transfer of a program, its seconds)."""
    text = program(
        f"""%x = f32[1000000]{{0}} parameter(0)
        %s = {STARTS[kind]}{groups}
        %d = f32[1000000]{{0}} {kind}-done(%s)"""
    )
    where = gpus.parse(topology)
    devices = mesh(where, **sizes)
    (found,) = collectives(parse(text), devices, ("nvlink", "network"))
    return found, GpuLinks(where, Devices(devices)).seconds(found)


@pytest.mark.parametrize(
    "kind, sent", [("all-gather", 3.5), ("reduce-scatter", 3.5), ("all-reduce", 7.0)]
)
def test_a_collective_within_a_host_goes_at_nvlinks_rate(kind, sent):
    """Of 4 MB a ring of 8 sends 7/8 from each GPU, an all-reduce twice that."""
    found, seconds = transfer(kind, GROUPS, "h100:8", fsdp=8)
    assert (found.kind, found.axis, found.network) == (kind, "fsdp", "nvlink")
    assert found.link_bytes == sent * MB and found.asynchronous
    rate = 450e9 * 20.6 / 25
    assert sent * MB / rate < seconds < sent * MB / rate + 60e-6


def test_latency_bounds_small_transfers_and_bandwidth_large_ones():
    """The protocol LL of a ring of 8: 6.6 us, and 7 hops of 0.6 us."""
    found, _ = transfer("all-gather", GROUPS, "h100:8", fsdp=8)
    where = gpus.parse("h100:8")
    links = GpuLinks(where, Devices(mesh(where, fsdp=8)))
    tiny = links.seconds(dataclasses.replace(found, link_bytes=1))
    assert tiny == pytest.approx(6.6e-6 + 7 * 0.6e-6, rel=1e-3)
    huge = links.seconds(dataclasses.replace(found, link_bytes=10**10))
    assert huge == pytest.approx(10**10 / (450e9 * 20.6 / 25), rel=0.01)


def test_groups_across_hosts_go_through_their_adapters():
    """All 8 GPUs of both hosts share 8 adapters; one GPU of each has its own alone."""
    whole, fast = transfer(
        "all-gather", "replica_groups=[1,16]<=[16]", "h100:8x2", fsdp=16
    )
    pairs, slow = transfer(
        "all-gather",
        "replica_groups=[8,2]<=[2,8]T(1,0)",
        "h100:8x2",
        data=2,
        fsdp=8,
    )
    near, _ = transfer(
        "all-gather", "replica_groups=[2,8]<=[16]", "h100:8x2", data=2, fsdp=8
    )
    assert (whole.network, pairs.network, near.network) == (
        "network",
        "network",
        "nvlink",
    )
    assert (pairs.axis, near.axis) == ("data", "fsdp")
    per_byte = [t / f.link_bytes for f, t in ((whole, fast), (pairs, slow))]
    assert per_byte[1] > 1 / 50e9 and per_byte[0] < per_byte[1] / 2


def test_switches_add_on_an_h100_alone():
    found, _ = transfer("all-reduce", GROUPS, "h100:8", fsdp=8)
    large = dataclasses.replace(found, link_bytes=7 * 10**9, result_bytes=4 * 10**9)

    def rate(name: str) -> float:
        where = gpus.parse(f"{name}:8")
        links = GpuLinks(where, Devices(mesh(where, fsdp=8)))
        return large.link_bytes / links.seconds(large) / 1e9

    assert rate("h100") == pytest.approx(475, rel=0.01)
    assert rate("a100-80") == pytest.approx(240, rel=0.01)
    assert rate("l4") == pytest.approx(32, rel=0.01)  # PCIe


# --- the whole --------------------------------------------------------------------

STEP = """HloModule m, is_scheduled=true

%gemm (p: bf16[8192,4096], q: bf16[4096,4096]) -> bf16[8192,4096] {
  %p = bf16[8192,4096]{1,0} parameter(0)
  %q = bf16[4096,4096]{1,0} parameter(1)
  ROOT %d = bf16[8192,4096]{1,0} dot(%p, %q), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%body (s: (s32[], bf16[8192,4096], bf16[512,4096])) -> (s32[], bf16[8192,4096], bf16[512,4096]) {
  %s = (s32[], bf16[8192,4096]{1,0}, bf16[512,4096]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %x = bf16[8192,4096]{1,0} get-tuple-element(%s), index=1
  %w = bf16[512,4096]{1,0} get-tuple-element(%s), index=2
  %go = ((bf16[512,4096]{1,0}), bf16[4096,4096]{1,0}) all-gather-start(%w), channel_id=1, replica_groups=[1,8]<=[8], dimensions={0}
  BETWEEN
  %ws = bf16[4096,4096]{1,0} all-gather-done(%go)
  %y = bf16[8192,4096]{1,0} fusion(%x, %ws), kind=kCustom, calls=%gemm, metadata={op_name="jit(step)/up"}
  %k = bf16[8192,4096]{1,0} custom-call(%y), custom_call_target="mosaic_gpu"
  ROOT %t = (s32[], bf16[8192,4096]{1,0}, bf16[512,4096]{1,0}) tuple(%i, %k, %w)
}

%cond (s: (s32[], bf16[8192,4096], bf16[512,4096])) -> pred[] {
  %s = (s32[], bf16[8192,4096]{1,0}, bf16[512,4096]{1,0}) parameter(0)
  ROOT %c = pred[] constant(true)
}

ENTRY %main (s: (s32[], bf16[8192,4096], bf16[512,4096])) -> (s32[], bf16[8192,4096], bf16[512,4096]) {
  %s = (s32[], bf16[8192,4096]{1,0}, bf16[512,4096]{1,0}) parameter(0)
  ROOT %w = (s32[], bf16[8192,4096]{1,0}, bf16[512,4096]{1,0}) while(%s), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"10"}}
}
"""
BETWEEN = (
    "%z = bf16[8192,4096]{1,0} fusion(%x, %x2), kind=kCustom, calls=%gemm\n"
).replace("%x2", "%old")
OLD = "%old = bf16[4096,4096]{1,0} constant({...})\n  "


def predict(text: str, name: str = "h100:8") -> roofline.Prediction:
    model = ModelConfig(
        vocab_size=4096, d_model=512, num_heads=4, d_ff=1536, num_layers=4
    )
    config = RunConfig(model=model, data=DataConfig(batch_size=16, seq_len=1024))
    where = gpus.parse(name)
    return roofline.predict(text, config, where, mesh(where, fsdp=8), 2.0)


def test_a_loop_hides_its_gather_only_behind_work():
    """What the gather runs beside takes 18.9 % longer meanwhile."""
    bare = predict(STEP.replace("BETWEEN", ""))
    busy = predict(STEP.replace("BETWEEN", OLD + BETWEEN))
    gather = bare.roofline.near["fsdp"]
    assert set(bare.waits) == {("all-gather", "fsdp", "nvlink")}
    assert bare.exposed_seconds == pytest.approx(gather)
    assert gather > 10 * 29.36 * MB / (450e9 * 20.6 / 25)
    product = 2 * 8192 * 4096 * 4096 / (794.5e12 * gemm.filled(8192, 4096, 1, 132))
    assert bare.compiler_seconds == pytest.approx(10 * product, rel=0.1)
    slower = gather * (1 - 1 / 1.189)
    assert busy.compiler_seconds == pytest.approx(2 * bare.compiler_seconds + slower)
    assert busy.exposed_seconds == 0 and busy.step_seconds == busy.compiler_seconds


def test_prediction_of_a_gpu_program_has_every_field():
    got = predict(STEP.replace("BETWEEN", ""))
    assert got.uncounted == ("mosaic_gpu",) and got.pallas_seconds == 0
    assert got.largest[0][0] == "jit(step)/up"
    assert got.largest[0][3] == pytest.approx(got.compiler_seconds)
    assert list(got.roofline.rows) == [
        "compute",
        "hbm",
        "nvlink fsdp",
        "network",
        "host",
    ]
    assert got.roofline.binds in ("nvlink", "hbm")
    tokens = 16 * 1024 / 8 / got.step_seconds
    assert got.tokens_per_second_per_chip == pytest.approx(tokens)
    assert got.dollars_per_billion_tokens == pytest.approx(2 / 3600 * 1e9 / tokens)
    # no links but PCIe
    assert "pcie fsdp" in predict(STEP.replace("BETWEEN", ""), "l4:8").roofline.rows


def test_calls_of_one_attention_kernel_add_up():
    body = attention_call().split("{\n", 1)[1].rsplit("}", 1)[0]
    loop = STEP.split("ENTRY")[0]
    lines = [x.replace("ROOT ", "") for x in body.splitlines()]
    twice = "\n".join([*lines, *(x.replace("%o.1", "%o.2") for x in lines[-1:])])
    text = f"{loop}ENTRY %main (x: f32[]) -> f32[] {{\n{twice}\n}}\n"
    got = predict(text)
    (kernel,) = got.kernels
    assert (kernel.kind, kernel.call.calls, kernel.call.kernel) == ("forward", 2, "o")
    assert kernel.visited_share == pytest.approx(0.5, rel=1e-3)
    assert got.pallas_seconds == pytest.approx(kernel.seconds)
    assert got.compiler_seconds == 0


def test_prediction_of_a_real_gpu_program():
    """Across hosts data alone, whose gradients are reduced there."""
    where = gpus.parse("h100:8x2")
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
    sizes = {"data": 2, "fsdp": 4, "tensor": 2}
    text = compiled.text("mixed_h100")
    got = roofline.predict(text, config, where, mesh(where, **sizes))
    kinds = {k.kind: k for k in got.kernels}
    assert set(kinds) == {"forward", "backward"} and not got.uncounted
    assert sum(k.call.calls for k in got.kernels) == 4 * 3  # with recomputation
    # 2 rows and 2 heads a GPU, the causal half
    forward = 2 * 2 * 2 * 2 * 1024**2 * 128 / 2
    assert kinds["backward"].flops == pytest.approx(4 * 2.5 * forward, rel=1e-2)
    networks = {t.axis: t.network for t in got.collectives}
    assert networks["fsdp"] == networks["tensor"] == "nvlink"
    assert networks["data"] == "network" and "mixed" not in networks
    module = parse(text)
    counted = sum(
        product.flops * times
        for x, name, times in walk(module)
        for product in matmuls(module, module.computations[name], x)
    )
    # the layers' matmuls four times, down and those of the words three, and the matrix
    # that turns halves of queries and keys forward, again, and backward
    words, down = 512 * 4096, 4 * 512 * 1536
    layers = 4 * (512 * 128 * (2 * 4 + 2 * 2) + 3 * 512 * 1536)
    turns = 4 * (4 + 2) * 128 * 128
    weights = 4 * layers - down + 3 * words + 3 * turns
    assert counted == pytest.approx(2 * 16 * 1024 / 16 * weights, rel=1e-3)
    parts = got.compiler_seconds + got.pallas_seconds + got.exposed_seconds
    assert got.step_seconds == pytest.approx(parts)
    assert got.exposed_seconds == pytest.approx(sum(got.waits.values()))
    assert 0 < got.mfu_causal < got.mfu < 1
    bounds = (got.roofline.compute, got.roofline.hbm)
    assert max(bounds) < got.step_seconds


def test_wrapped_exchanges_are_found_and_send_their_operand_at_most():
    """A ragged exchange has room for every token of 8 GPUs in its result."""
    text = program(
        """%x = bf16[1000,100]{1,0} parameter(0)
        %r = bf16[8000,100]{1,0} parameter(1)
        %n = s32[8]{0} parameter(2)
        %go = ((bf16[1000,100]{1,0}, bf16[8000,100]{1,0}, s32[8]{0}, s32[8]{0}, s32[8]{0}, s32[8]{0}), bf16[8000,100]{1,0}) async-start(%x, %r, %n, %n, %n, %n), calls=%wrapped
        %d = bf16[8000,100]{1,0} async-done(%go)""",
        """
%wrapped (p: bf16[1000,100], q: bf16[8000,100], a: s32[8], b: s32[8], c: s32[8], d: s32[8]) -> bf16[8000,100] {
  %p = bf16[1000,100]{1,0} parameter(0)
  %q = bf16[8000,100]{1,0} parameter(1)
  %a = s32[8]{0} parameter(2)
  %b = s32[8]{0} parameter(3)
  %c = s32[8]{0} parameter(4)
  %d = s32[8]{0} parameter(5)
  ROOT %e = bf16[8000,100]{1,0} ragged-all-to-all(%p, %q, %a, %b, %c, %d), channel_id=3, replica_groups=[1,8]<=[8]
}
""",
    )
    where = gpus.parse("h100:8")
    devices = mesh(where, expert=8)
    module = parse(text)
    (found,) = collectives(module, devices, ("nvlink", "network"))
    assert (found.kind, found.axis, found.start, found.done) == (
        "ragged-all-to-all",
        "expert",
        "go",
        "d",
    )
    assert found.link_bytes == 200_000 * 7 // 8
    links = GpuLinks(where, Devices(devices))
    rate = 450e9 * 20.6 / 25
    latency = 8.4e-6 + 3.4e-6
    assert links.seconds(found) == pytest.approx(latency + 175_000 / rate)
    start = module.computations["main"]["go"]
    assert instructions.seconds(module, "main", start, H100) == 0


OFFLOAD = """
%out (p: f32[32,1000], q: f32[1,1000], i: s32[]) -> f32[32,1000] {
  %p = f32[32,1000]{1,0:S(5)} parameter(0)
  %q = f32[1,1000]{1,0} parameter(1)
  %i = s32[] parameter(2)
  ROOT %u = f32[32,1000]{1,0:S(5)} dynamic-update-slice(%p, %q, %i, %i)
}
"""


def test_parts_of_arrays_on_the_host_go_over_its_link():
    text = program(
        """%host = f32[32,1000]{1,0:S(5)} parameter(0)
        %row = f32[1,1000]{1,0} parameter(1)
        %i = s32[] parameter(2)
        %go = ((f32[32,1000]{1,0:S(5)}, f32[1,1000]{1,0}, s32[]), f32[32,1000]{1,0:S(5)}, u32[]) fusion-start(%host, %row, %i), kind=kLoop, calls=%out
        %d = f32[32,1000]{1,0:S(5)} fusion-done(%go)""",
        OFFLOAD,
    )
    where = gpus.parse("h100:8")
    devices = mesh(where, fsdp=8)
    module = parse(text)
    (found,) = collectives(module, devices, ("nvlink", "network"))
    assert (found.kind, found.network, found.done) == ("host-copy", "host", "d")
    links = GpuLinks(where, Devices(devices))
    assert links.seconds(found) == pytest.approx(4000 / 54.8e9)
    assert links.busy_links(found) == {"host"}
    start = module.computations["main"]["go"]
    assert instructions.seconds(module, "main", start, H100) == 0
