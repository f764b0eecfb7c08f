"""Predicted tokens per second and memory of GPUs beside published runs.

    python -m tests.proofs.published_gpu --workdir=runs/published_gpu [--only=maxtext]

Compiles each row's step for its GPUs (minutes each, one after the other), predicts its
time (`llmjax.plan.cost.roofline`), and writes WORKDIR/ROW.json; rows that are there
already are read. Then the table: predicted and published tokens per second and GPU, the
error, and bytes; ends with code 1 where an error is above 25 %, a step takes more
memory than the published one, or a row is missing. Needs XLA's compiler for GPUs with
cuDNN (`pip install -e '.[plan-gpu]'`) and no GPU.

Where each row is from, and what differs here on purpose, stands in `Row.source` and
`Row.differs`. No constant of the prediction was chosen by these rows. Where a run's
memory is not published it is the GPU's. Rows have no documents in them (`plain_rows`).
"""

import contextlib
import dataclasses
import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from absl import app, flags

from configs.pretrain import (
    llama2_7b,
    llama2_70b,
    llama3_8b,
    llama3_70b,
    mixtral_8x7b,
)
from llmjax import config as cfg
from llmjax.plan import report
from llmjax.plan.compiler import compile, inputs
from llmjax.plan.cost import gpus
from llmjax.plan.cost.gpus import GIB, Gpu, GpuTopology
from llmjax.tasks.task import Task
from llmjax.train.setup import HostBatch

WORKDIR = flags.DEFINE_string("workdir", None, "Where results are kept.", required=True)
ONLY = flags.DEFINE_string("only", "", "Rows whose name holds this.")

LIMIT = 0.25
TORCHTITAN = "https://github.com/pytorch/torchtitan/blob/main/benchmarks/"
DGXC = "https://github.com/NVIDIA/dgxc-benchmarking/blob/main/maxtext/README_70b.md"
NGC = (
    "https://catalog.ngc.nvidia.com/orgs/nvidia/teams/dgxc-benchmarking/resources/"
    "maxtext-llama3-70b-dgxc-benchmarking-d"
)
NEMO = (
    "https://docs.nvidia.com/nemo-framework/user-guide/24.12/nemotoolkit/performance/"
    "performance_summary.html"
)
MEGATRON = (
    "https://github.com/NVIDIA/Megatron-LM/blob/"
    "022bcb5afe888664d3fb61adacea6e6c887a97f8/megatron/core/transformer/moe/README.md"
)


@dataclasses.dataclass(frozen=True)
class Limited(Gpu):
    """A GPU whose limit of power lowers the peak of its matrix units."""

    share: float = 1.0

    @property
    def bf16_flops(self) -> float:
        """The published peak times `share`."""
        return super().bf16_flops * self.share


def grand_teton() -> Gpu:
    """torchtitan's H100: 96 GB of HBM2e at 2.4 TB/s, and 500 W.

    "The actual peak TFLOPs number is between SXM and NVL": 989e12 at 700 W and 835e12
    at 400 W ("NVIDIA H100 Tensor Core GPU" data sheet), so a third of the way.
    """
    h100 = gpus.GPUS["h100"]
    fields = {f.name: getattr(h100, f.name) for f in dataclasses.fields(h100)}
    fields |= {"hbm_bytes": 96 * GIB, "memory_bytes": int(94.9 * GIB)}
    fields |= {"hbm_bandwidth": 2.4e12}
    return Limited(**fields, share=(835 + (989 - 835) * (500 - 400) / 300) / 989)


@dataclasses.dataclass(frozen=True)
class Row:
    """One published run.

    Attributes:
      gpu: of `GPUS`; "teton": torchtitan's.
      per_gpu: rows of `length` tokens for each GPU.
      tokens: published tokens per second and GPU.
      gib: published GiB per GPU.
      layout: mesh and remat as published; where ours differ, `differs`.
    """

    name: str
    config: Any
    gpu: str
    hosts: int
    per_gpu: float
    length: int
    layout: dict[str, Any]
    tokens: float
    gib: float
    source: str
    differs: str = ""
    model: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def topology(self) -> GpuTopology:
        """Its GPUs."""
        gpu = grand_teton() if self.gpu == "teton" else gpus.GPUS[self.gpu]
        return GpuTopology(gpu, 8, self.hosts)


def keep(*names: str) -> dict[str, Any]:
    """Remat that keeps these on the GPU and computes the rest again."""
    return {"remat.kind": "names", "remat.saved": names, "remat.offloaded": None}


FULL = {"remat.kind": "full", "remat.saved": None, "remat.offloaded": None}
# torchtitan's "selective": attention, and of the matmuls every second: the first of
# query, key, value, out, gate, up, down, so all but key, out and up
SELECTIVE = keep("query", "value", "context", "gate")
FP8 = {"quantization.kind": "fp8"}
SAVED = "down is not kept, which nothing needs"
GPU_80 = gpus.GPUS["h100"].memory_bytes / GIB
ROWS = (
    Row(
        "torchtitan-8b",
        llama3_8b,
        "teton",
        1,
        2,
        8192,
        {"fsdp": 8, **SELECTIVE},
        6667,
        77.0,
        TORCHTITAN + "llama3_h100_202412_torchtitan.md, table 1",
        SAVED,
    ),
    Row(
        "torchtitan-8b-fp8",
        llama3_8b,
        "teton",
        1,
        2,
        8192,
        {"fsdp": 8, **SELECTIVE, **FP8},
        8532,
        76.8,
        TORCHTITAN + "llama3_h100_202412_torchtitan.md, table 1",
        SAVED,
    ),
    Row(
        "torchtitan-8b-128",
        llama3_8b,
        "teton",
        16,
        2,
        8192,
        {"fsdp": 128, **SELECTIVE},
        6514,
        62.0,
        TORCHTITAN + "llama3_h100_202412_torchtitan.md, table 3",
        SAVED,
    ),
    Row(
        "torchtitan-70b-fp8",
        llama3_70b,
        "teton",
        32,
        2,
        8192,
        {
            "fsdp": 32,
            "tensor": 8,
            "context.sequence_parallel": True,
            **FULL,
            **FP8,
        },
        829,
        71.9,
        TORCHTITAN + "llama3_h100_202412_torchtitan.md, table 4",
    ),
    Row(
        "torchtitan-8b-fp8-h200",
        llama3_8b,
        "h200",
        4,
        2,
        8192,
        {"fsdp": 32, **SELECTIVE, **FP8},
        10938,
        47.96,
        TORCHTITAN + "llama3-8b_h200_202506_trainy-whitefiber.md",
        SAVED,
    ),
    Row(
        "maxtext-llama2-70b",
        llama2_70b,
        "h100",
        8,
        2,
        4096,
        {"fsdp": 64, **keep("query", "key", "value")},
        4096 * 2 / 6.999,
        GPU_80,
        DGXC + ", BF16 on 64, and configure.sh for remat (save_qkv_proj)",
    ),
    Row(
        "maxtext-llama2-70b-fp8",
        llama2_70b,
        "h100",
        8,
        2,
        4096,
        {"fsdp": 64, **keep("query", "key", "value"), **FP8},
        4096 * 2 / 4.324,
        GPU_80,
        DGXC + ", FP8 on 64",
    ),
    Row(
        "maxtext-llama3-70b",
        llama3_70b,
        "h100",
        16,
        2,
        8192,
        {"fsdp": 128, **keep("query", "key", "value")},
        1052.266,
        GPU_80,
        NGC + ", BF16 on 128",
        "remat of the recipe for Llama 2",
    ),
    Row(
        "nemo-llama2-7b-fp8",
        llama2_7b,
        "h100",
        1,
        2,
        4096,
        {"fsdp": 8, **keep("query", "key", "value", "context", "out", "gate"), **FP8},
        16934,
        GPU_80,
        NEMO + ", FP8 on 8",
        "weights sharded and gathered each pass instead of copied; one batch of 2 rows "
        "a GPU instead of 16 microbatches of 1; up is computed again",
    ),
    Row(
        "megatron-mixtral-8x7b",
        mixtral_8x7b,
        "h100",
        8,
        4,
        4096,
        {"fsdp": 8, "expert": 8, **keep("query", "key", "value", "context", "out")},
        468e12 / 83.9e9,
        GPU_80,
        MEGATRON + ": 468 TFLOP/s, as tokens by 83.9e9 FLOPs each (full square)",
        "fsdp 8 instead of pipeline 4 and data 2; capacity 1.0 instead of dropless",
        {"dispatch.factor": 1.0},
    ),
)


def configured(row: Row) -> cfg.RunConfig:
    """The row's run."""
    config = getattr(row.config, "base", row.config.get_config)()  # not for its TPUs
    config.data.batch_size = int(row.per_gpu * row.topology.chips)
    config.data.seq_len = row.length
    config.data.packing = "chunk"
    config.layout.data = 1
    config.layout.attention.kind = "dot_product"
    config.layout.compiler_options = ()
    for name, value in row.layout.items():
        config.layout.update_from_flattened_dict({name: value})
    for name, value in row.model.items():
        config.model.mlp.update_from_flattened_dict({name: value})
    return cfg.parse(config)


@contextlib.contextmanager
def plain_rows() -> Iterator[None]:
    """Rows without documents in them, as the published runs': no segments.

    Attention is then causal by its kernel's own mask. With segments it computes the
    whole square under a mask in memory.
    """
    example = inputs.example

    def plain(config: cfg.RunConfig) -> tuple[Task, HostBatch]:
        task, batch = example(config)
        marks = {"segment_ids", "positions"}
        return task, {k: v for k, v in batch.items() if k not in marks}

    with mock.patch.object(inputs, "example", plain):
        yield


def measure(row: Row) -> dict[str, Any]:
    """The row's prediction, as `result.json` has it."""
    with plain_rows():
        made = compile.compile_step(configured(row), row.topology)
    result = {"row": row.name, "fits": made.fits, "error": made.error}
    result |= {"peak_bytes": made.needed, "compile_seconds": made.seconds.compile}
    if made.fits:
        result["time"] = report.timing(report.predict(made, None))
    return result


def read_or_measure(row: Row, folder: Path) -> dict[str, Any] | None:
    """From the folder, else compiled if asked for; None if neither."""
    path = folder / f"{row.name}.json"
    if not path.exists():
        if ONLY.value not in row.name:
            return None
        path.write_text(json.dumps(measure(row), indent=1))
    return json.loads(path.read_text())


def table(results: dict[str, dict[str, Any] | None]) -> tuple[str, bool]:
    """The table with its verdict, and whether all holds."""
    lines = [
        "| row | GPUs | rows x tokens a GPU | tokens/s a GPU: published | predicted | "
        "error | GiB: published | compiled | compute, attention, exposed s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    errors: list[float] = []
    fits = True
    for row in ROWS:
        result = results[row.name] or {}
        time = result.get("time")
        start = (
            f"| {row.name} | {row.topology.chips} {row.topology.chip.name} | "
            f"{row.per_gpu} x {row.length} | {row.tokens:,.0f} |"
        )
        if time is None:
            why = result.get("error") or "not compiled yet"
            lines.append(f"{start} {why[:60]} | | {row.gib:.1f} | | |")
            continue
        predicted = time["tokens_per_second_per_chip"]
        error = predicted / row.tokens - 1
        errors.append(abs(error))
        gib = result["peak_bytes"] / GIB
        fits &= gib < row.gib
        parts = ("compiler_seconds", "pallas_seconds", "exposed_seconds")
        seconds = ", ".join(f"{time[p]:.2f}" for p in parts)
        lines.append(
            f"{start} {predicted:,.0f} | {error:+.1%} | {row.gib:.1f} | {gib:.1f} | "
            f"{seconds} |"
        )
    whole = len(errors) == len(ROWS)
    worst = max(errors, default=float("nan"))
    median = statistics.median(errors) if errors else float("nan")
    lines.append(
        f"\nmedian absolute error {median:.1%}, largest {worst:.1%}; memory "
        f"{'below theirs in each row' if fits else 'above theirs in a row'}"
    )
    lines += [
        f"{row.name}: {row.source}; {row.differs or 'as published'}" for row in ROWS
    ]
    return "\n".join(lines), whole and worst <= LIMIT and fits


def main(argv: list[str]) -> None:
    del argv
    folder = Path(WORKDIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    results = {row.name: read_or_measure(row, folder) for row in ROWS}
    text, holds = table(results)
    print(text)
    sys.exit(not holds)


if __name__ == "__main__":
    app.run(main)
