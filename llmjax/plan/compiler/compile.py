"""Ahead-of-time compilation of a run's training step for TPUs or GPUs."""

import contextlib
import dataclasses
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from llmjax.config import LayoutConfig, RunConfig
from llmjax.parallel import mesh as mesh_lib
from llmjax.plan.compiler import inputs, platforms
from llmjax.plan.cost import topologies
from llmjax.plan.cost.topologies import Topology
from llmjax.plan.tables import gib
from llmjax.train import setup
from llmjax.train.setup import Program

_OUT_OF_MEMORY = re.compile(r"RESOURCE_EXHAUSTED.*?([Rr]an out of memory[^\n]*)", re.S)
_OPTION = re.compile(r"(No such compile option|While setting option)[^\n]*")
_TOTAL = re.compile(r"^Memory Space: default.*\nTotal bytes: (\d+)", re.M)
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Seconds:
    """Wall time of each stage, on the machine that compiles."""

    build: float
    trace: float
    lower: float
    compile: float | None = None


@dataclasses.dataclass(frozen=True)
class Lowered:
    """A step lowered for a topology, not yet compiled."""

    config: RunConfig
    topology: Topology
    program: Program
    lowered: jax.stages.Lowered
    seconds: Seconds


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes per device, from `memory_analysis()`."""

    arguments: int
    outputs: int  # including `aliased`
    aliased: int  # outputs that overwrite arguments
    temporaries: int
    code: int
    host: int  # everything in the host's memory

    @property
    def peak(self) -> int:
        """Bytes of data in the device's memory, without the program's code."""
        return self.arguments + self.outputs - self.aliased + self.temporaries


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A compiled step, or the reason why it does not fit.

    Attributes:
      program: the run's program, over the topology's mesh.
      memory: None where the compiler refused: that for TPUs, a step that does not fit.
      needed: bytes per device that the step takes, whether it fits or not.
      available: bytes per device that it may take.
      error: why it does not fit, the compiler's message on TPUs; "" where it fits.
      text: the compiled program, on TPUs with estimated cycles; "" without `memory`.
      dump: the compiler's other reports, by kind (see `read_dump`).
    """

    config: RunConfig
    topology: Topology
    program: Program
    memory: Memory | None
    needed: int
    available: int
    error: str
    text: str
    dump: dict[str, str]
    seconds: Seconds

    @property
    def fits(self) -> bool:
        """Whether the step fits in a device's memory."""
        return self.memory is not None and self.needed <= self.available


def lower_step(
    config: RunConfig,
    topology: str | Topology,
    num_slices: int = 1,
    cudnn: bool = True,
) -> Lowered:
    """Traces and lowers a run's step for a topology.

    Args:
      config: the run; on TPUs `layout.slices` is set to `num_slices`, and
        `layout.data` too where it was 1.
      topology: one slice of TPUs, as "v5p:4x4x4", or GPUs, as "h100:8x16".
      num_slices: slices of TPUs, connected by the data-centre network.
      cudnn: False leaves attention on GPUs to XLA, for a machine without cuDNN.

    Raises:
      ValueError: no compiler, an unknown topology, or a layout that does not fit it.
    """
    if isinstance(topology, str):
        topology = topologies.parse(topology, num_slices)
    check_attention(config, topology)
    platforms.require(topology)
    if topology.platform == "tpu":
        config = over_slices(config, topology.num_slices)
    start = time.perf_counter()
    mesh = make_mesh(config.layout, topology)
    task, example = inputs.example(config)
    copies = getattr(task, "copies", ())
    program = setup.build(config, task, example, mesh=mesh, copies=copies)
    after_build = time.perf_counter()
    with mesh_lib.use(mesh), platforms.libraries(topology, cudnn):
        jitted: Any = program.step
        traced = jitted.trace(program.abstract, program.batch)
        after_trace = time.perf_counter()
        lowered = traced.lower(lowering_platforms=(topology.platform,))
    seconds = Seconds(
        build=after_build - start,
        trace=after_trace - after_build,
        lower=time.perf_counter() - after_trace,
    )
    return Lowered(config, topology, program, lowered, seconds)


def compile_step(
    config: RunConfig, topology: str | Topology, num_slices: int = 1
) -> Compiled:
    """Lowers and compiles a run's step; one that does not fit is a result, no error.

    Raises:
      ValueError: see `lower_step`; or the blocks of a kernel do not fit a core; or an
        option that the compiler refuses.
      jax.errors.JaxRuntimeError: the compiler failed for a reason other than memory.
    """
    return compile_lowered(lower_step(config, topology, num_slices))


def compile_lowered(step: Lowered) -> Compiled:
    """Compiles a lowered step; see `compile_step`."""
    error, memory, text = "", None, ""
    with tempfile.TemporaryDirectory(prefix="llmjax-plan-") as folder:
        options: Any = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        start = time.perf_counter()
        try:
            with _uncached():
                compiled = step.lowered.compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as e:
            error = out_of_memory(e)
        seconds = time.perf_counter() - start
        dump = read_dump(Path(folder))
    if not error:
        memory = _memory(compiled.memory_analysis())
        text = _text(compiled, dump)
    chip = step.topology.chip
    available = chip.usable_hbm_bytes // chip.devices
    needed = memory.peak if memory is not None else needed_bytes(error, dump)
    if memory is not None and needed > available:
        error = f"it takes {gib(needed)} of memory, more than {gib(available)}"
    return Compiled(
        step.config,
        step.topology,
        step.program,
        memory,
        needed,
        available,
        error,
        text,
        dump,
        dataclasses.replace(step.seconds, compile=seconds),
    )


# --- before compiling ----------------------------------------------------------------


def check_attention(config: RunConfig, topology: Topology) -> None:
    """Raises ValueError for a kernel of TPUs alone where the topology is of GPUs."""
    if topology.platform == "cuda" and config.layout.attention.kind == "splash":
        raise ValueError(
            f"layout.attention.kind is 'splash', a kernel of TPUs, and {topology.name} "
            "has none; set it to 'auto', or to 'dot_product' (cuDNN's)"
        )


def over_slices(config: RunConfig, slices: int) -> RunConfig:
    """The run on so many slices, with a copy of the weights on each unless `data` is
    set."""
    data = config.layout.data
    layout = dataclasses.replace(
        config.layout, slices=slices, data=slices if data == 1 else data
    )
    return dataclasses.replace(config, layout=layout)


def make_mesh(layout: LayoutConfig, topology: Topology) -> jax.sharding.Mesh:
    """The mesh of a layout over the devices of a topology."""
    return mesh_lib.make_mesh(layout, platforms.devices(topology))


# --- after compiling -----------------------------------------------------------------


def out_of_memory(error: Exception) -> str:
    """The compiler's message that the device's memory is too small.

    Raises:
      ValueError: the memory of a core, which holds a kernel's blocks, is too small; the
        compiler refuses one of `layout.compiler_options`; or the assembler of NVIDIA's
        GPUs is not installed.
      Exception: `error` itself, where it is about anything else.
    """
    if option := _OPTION.search(str(error)):
        raise ValueError(
            f"the compiler: {option[0]}; correct it in layout.compiler_options, or "
            "take it out"
        ) from error
    message = _OUT_OF_MEMORY.search(str(error))
    if "No PTX compilation provider" in str(error):
        raise ValueError(
            "compiling for GPUs runs ptxas (of nvidia-cuda-nvcc-cu12), which is not "
            f"installed: {platforms.INSTALL_GPU}"
        ) from error
    if message is None:
        raise error
    if "vmem" in message[1].lower():
        raise ValueError(
            f"the compiler: {message[1]}: a kernel's blocks are too large for a core; "
            "lower layout.attention.block_q and layout.attention.block_kv, or give "
            "xla_tpu_scoped_vmem_limit_kib=98304 in layout.compiler_options"
        ) from error
    return message[1]


def needed_bytes(error: str, dump: dict[str, str]) -> int:
    """Bytes per device of a step that does not fit, from the dump or the message."""
    total = _TOTAL.search(dump.get("memory-usage-report", ""))
    if total is not None:
        return int(total[1])
    amounts = re.findall(r"([\d.]+)([KMGT]?)\b", error)
    return max((int(float(n) * _UNITS[unit]) for n, unit in amounts), default=0)


def read_dump(folder: Path) -> dict[str, str]:
    """Kind of report -> its text, from the step's files in an `xla_dump_to` folder."""
    endings = {
        "hlo": "after_optimizations.txt",
        "buffers": "after_optimizations-buffer-assignment.txt",
        "live-range": "after_optimizations-live-range.txt",
        "memory-usage-report": "after_optimizations-memory-usage-report.txt",
        "codegen": "after_codegen.txt",
    }
    reports = {}
    for kind, end in endings.items():
        files = sorted(folder.glob(f"*jit_*{end}"), key=lambda f: f.stat().st_size)
        if files:
            reports[kind] = files[-1].read_text(errors="replace")
    return reports


@contextlib.contextmanager
def _uncached() -> Iterator[None]:
    """Turns the persistent cache off: a cached program comes without its dump."""
    before = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


def _memory(analysis: Any) -> Memory:
    return Memory(
        arguments=analysis.argument_size_in_bytes,
        outputs=analysis.output_size_in_bytes,
        aliased=analysis.alias_size_in_bytes,
        temporaries=analysis.temp_size_in_bytes,
        code=analysis.generated_code_size_in_bytes,
        host=analysis.host_argument_size_in_bytes
        + analysis.host_output_size_in_bytes
        - analysis.host_alias_size_in_bytes
        + analysis.host_temp_size_in_bytes,
    )


def _text(compiled: Any, dump: dict[str, str]) -> str:
    """`as_text()`; for large programs on which it fails, the dump's text."""
    try:
        return compiled.as_text()
    except jax.errors.JaxRuntimeError:
        return dump["codegen"]
