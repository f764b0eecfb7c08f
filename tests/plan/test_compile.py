"""Compiling a training step ahead of time for a topology.

The tests marked `tpu_compiler` need libtpu, those marked `gpu_compiler` XLA's plugin
for CUDA: `launch/plan.sh` installs both and runs them, `launch/test.sh` deselects them,
and elsewhere they fail without.
"""

import importlib.metadata
import importlib.util

import jax
import jax.numpy as jnp
import pytest

from llmjax.config import (
    AdamW,
    CausalLM,
    DataConfig,
    LayoutConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    SequenceClassification,
    SpanCorruption,
    SplashAttention,
    Stage,
)
from llmjax.models.attention import dot_product
from llmjax.models.attention.modifiers import ScoreModifiers
from llmjax.plan import report
from llmjax.plan.compiler import buffers, compile, inputs, platforms
from llmjax.plan.cost import topologies


@pytest.fixture(autouse=True)
def compiler(request):
    """Fails a test that needs the compiler where there is none."""
    for marker, module in (
        ("tpu_compiler", "libtpu"),
        ("gpu_compiler", "jax_cuda12_plugin"),
    ):
        needed = request.node.get_closest_marker(marker)
        if needed and importlib.util.find_spec(module) is None:
            pytest.fail(
                f"the compiler {module} is not installed; run `bash launch/plan.sh`, "
                f"or deselect with -m 'not {marker}'"
            )


# Sizes that fill the chip's tiles of 8 x 128 when cut in four.
SMALL = ModelConfig(vocab_size=512, d_model=512, d_ff=1024, num_layers=2)


def run(batch_size=8, seq_len=128, **layout) -> RunConfig:
    return RunConfig(
        SMALL,
        data=DataConfig(batch_size=batch_size, seq_len=seq_len),
        layout=LayoutConfig(**{"data": 1, "fsdp": -1, **layout}),
        optimizer=OptimizerConfig(AdamW()),
    )


@pytest.mark.parametrize(
    ("topology", "extra"), [("v5e:2x2", "tpu"), ("h100:4", "plan-gpu")]
)
def test_without_the_compiler_the_error_says_how_to_install_it(
    topology, extra, monkeypatch
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=rf"pip install -e '\.\[{extra}\]'"):
        compile.compile_step(run(), topology)


def test_a_compiler_of_another_jax_is_an_error(monkeypatch):
    versions = {"jax_cuda12_plugin": "0.1", "jaxlib": "0.2"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(importlib.metadata, "version", versions.get)
    with pytest.raises(ValueError, match=r"0\.1 and jaxlib of 0\.2.*\[plan-gpu\]"):
        platforms.require(topologies.parse("h100:4"))


def test_a_kernel_without_its_library_says_how_to_install_it():
    h100 = topologies.parse("h100:4")
    with (
        pytest.raises(ValueError, match=r"\[plan-gpu\].*kind=chunked"),
        platforms.libraries(h100, cudnn=True),
    ):
        raise RuntimeError("cuDNN not found.")
    with (
        pytest.raises(RuntimeError, match="a bug"),
        platforms.libraries(h100, cudnn=True),
    ):
        raise RuntimeError("a bug")
    with platforms.libraries(h100, cudnn=False):
        q = jnp.zeros((1, 16, 2, 8), jnp.bfloat16)
        assert not dot_product.fused(q, q, ScoreModifiers())


@pytest.mark.parametrize(
    ("task", "architecture", "packing", "names"),
    [
        (CausalLM(), "decoder", "concat", {"tokens", "targets", "num_bytes"}),
        (SpanCorruption(), "encoder_decoder", "chunk", {"encoder_tokens", "valid"}),
        (SequenceClassification(num_labels=3), "encoder", "pad", {"label", "valid"}),
    ],
    ids=lambda x: getattr(x, "kind", None),
)
def test_the_example_batch_comes_from_the_pipeline(task, architecture, packing, names):
    model = ModelConfig(architecture, vocab_size=512, d_model=16, d_ff=32)
    data = DataConfig(batch_size=6, seq_len=48, packing=packing)
    built, batch = inputs.example(RunConfig(model, task, data))
    assert type(built).__name__.removesuffix("Task") == type(task).__name__
    assert names | {"tokens", "segment_ids", "positions"} <= set(batch)
    assert batch["tokens"].shape == (1, 48)  # setup.build makes it `batch_size`
    assert batch["tokens"].max() < 512


def test_a_ramp_is_planned_at_its_end():
    ramp = (Stage(0, 32), Stage(5, 64))
    data = DataConfig(batch_size=8, seq_len=64, seq_lens=ramp)
    _, batch = inputs.example(RunConfig(SMALL, data=data))
    assert batch["tokens"].shape == (1, 64)


REPORT = """\
Memory Space: default (color=0)
Total bytes: 7041775104 (6.56GiB)

Memory Space: vmem (color=1)
Total bytes: 99
"""
MESSAGE = (
    "Ran out of memory on HBM, the total memory required for HLO temporaries "
    "(143.63G) exceeds available HBM (15.75G). HLO module: jit_step."
)


def test_needed_bytes():
    dump = {"memory-usage-report": REPORT}
    assert compile.needed_bytes(MESSAGE, dump) == 7041775104
    assert compile.needed_bytes(MESSAGE, {}) == int(143.63 * 2**30)


def test_only_the_chips_memory_is_a_result():
    exhausted = RuntimeError(f"RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: {MESSAGE}")
    assert compile.out_of_memory(exhausted) == MESSAGE
    missing = RuntimeError("UNAVAILABLE: No PTX compilation provider is available.")
    with pytest.raises(ValueError, match="ptxas .* not installed: pip install"):
        compile.out_of_memory(missing)
    with pytest.raises(RuntimeError, match="INTERNAL"):
        compile.out_of_memory(RuntimeError("INTERNAL: a bug"))
    core = "RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem. Used 20M of 16M"
    with pytest.raises(ValueError, match=r"lower layout\.attention\.block_q"):
        compile.out_of_memory(RuntimeError(core))


@pytest.mark.parametrize(
    "message",
    [
        "No such compile option: 'xla_gpu_nonsense'",
        "While setting option xla_gpu_x, 'maybe' is not a valid bool value.",
    ],
)
def test_an_option_that_the_compiler_refuses_names_its_key(message):
    refused = jax.errors.JaxRuntimeError(f"INVALID_ARGUMENT: {message}")
    with pytest.raises(ValueError, match=rf"{message}; correct it in layout\.comp"):
        compile.out_of_memory(refused)


@pytest.mark.parametrize(("data", "expected"), [(1, 2), (-1, -1), (4, 4)])
def test_each_slice_has_a_copy_of_the_weights_unless_data_is_set(data, expected):
    layout = compile.over_slices(run(data=data, fsdp=8), 2).layout
    assert (layout.slices, layout.data) == (2, expected)


@pytest.mark.tpu_compiler
def test_an_unknown_topology_is_an_error():
    with pytest.raises(ValueError, match="v5e"):
        compile.lower_step(run(), "v5e:3x5")


@pytest.mark.tpu_compiler
def test_an_impossible_layout_is_an_error_before_tracing():
    with pytest.raises(ValueError, match=r"make it\s+a multiple of 4"):
        compile.lower_step(run(batch_size=6), "v5e:2x2")


@pytest.mark.tpu_compiler
def test_an_unknown_compiler_option_is_named_by_the_compiler():
    mistaken = run(compiler_options=("xla_no_such_option=1",))
    with pytest.raises(ValueError, match=r"xla_no_such_option.*compiler_options"):
        compile.compile_step(mistaken, "v5e:2x2")


@pytest.mark.tpu_compiler
def test_a_step_compiles_and_its_bytes_add_up():
    step = compile.compile_step(run(), "v5e:2x2")
    assert step.fits
    memory = step.memory
    assert memory.peak == step.needed
    assert memory.aliased > 0.99 * (memory.outputs - 4096)  # the state is donated
    assert "estimated_cycles" in step.text
    usage = buffers.usage(step)
    assert sum(usage.kinds.values()) == usage.peak
    # sharded matrices; norms are replicated, and the optimizer has two moments
    weights = 512 * 512 + 2 * (4 * 512 * 512 + 3 * 512 * 1024)  # x 4 bytes / 4 chips
    assert usage.kinds["parameters"] == pytest.approx(weights, rel=0.1)
    assert usage.kinds["optimizer"] == pytest.approx(2 * weights, rel=0.1)
    assert step.seconds.compile > 0


@pytest.mark.tpu_compiler
def test_a_step_that_does_not_fit_names_its_largest_buffer():
    """Whole scores, 4 heads x 65536^2 in float32, are 64 GiB of each chip's row."""
    step = compile.compile_step(run(batch_size=4, seq_len=65536), "v5e:2x2")
    assert not step.fits
    assert "memory" in step.error
    assert step.needed > 64 * 2**30 > step.available
    worst = buffers.usage(step).largest[0]
    assert "layer_0/attention/" in worst.name
    assert worst.source.startswith("implementations.py:")
    assert worst.bytes >= 64 * 2**30


def test_a_kernel_of_tpus_is_refused_on_gpus():
    with pytest.raises(ValueError, match="'splash', a kernel of TPUs, and h100:4 has"):
        compile.lower_step(run(attention=SplashAttention()), "h100:4")


@pytest.mark.gpu_compiler
def test_a_step_compiles_for_gpus_that_are_not_here():
    step = compile.compile_lowered(compile.lower_step(run(), "h100:2x2", cudnn=False))
    assert step.fits
    assert step.error == ""
    assert step.memory.peak == step.needed
    usage = buffers.usage(step)
    assert sum(usage.kinds.values()) == usage.peak
    weights = 512 * 512 + 2 * (4 * 512 * 512 + 3 * 512 * 1024)  # as on TPUs
    assert usage.kinds["parameters"] == pytest.approx(weights, rel=0.1)
    assert usage.kinds["optimizer"] == pytest.approx(2 * weights, rel=0.1)
    assert report.predict(step).step_seconds > 0
    hosts = {d.process_index for d in step.program.mesh.devices.flat}
    assert hosts == {0, 1}


@pytest.mark.gpu_compiler
def test_a_step_that_a_gpu_cannot_hold_names_its_largest_buffer():
    """The compiler takes it; whole scores, 4 heads x 65536^2, are 64 GiB in float32."""
    step = compile.compile_step(run(batch_size=4, seq_len=65536), "a100-40:4")
    assert not step.fits
    assert step.needed > 64 * 2**30 > step.available
    assert "GiB" in step.error
    worst = buffers.usage(step).largest[0]
    assert "layer_0/attention/" in worst.name
    assert worst.bytes >= 64 * 2**30


@pytest.mark.gpu_compiler
def test_options_of_other_compilers_do_not_reach_that_for_gpus():
    options = (
        "xla_tpu_scoped_vmem_limit_kib=98304",
        "xla_gpu_enable_latency_hiding_scheduler=true",
    )
    mixed = run(compiler_options=options)
    assert compile.compile_step(mixed, "h100:4").fits
    mistaken = run(compiler_options=("xla_gpu_no_such_option=1",))
    with pytest.raises(
        ValueError, match=r"xla_gpu_no_such_option.*layout.compiler_options"
    ):
        compile.compile_step(mistaken, "h100:4")
