"""Predicted model FLOPs utilisation beside what Google published for MaxText.

    python -m tests.proofs.published_mfu --workdir=runs/published [--only=llama3.1-8b]

Compiles each row's step for its TPUs (minutes and gigabytes each, one after the other),
predicts its time (`llmjax.plan.cost.roofline`), and writes WORKDIR/ROW.json; rows that
are there already are read. Then the table: predicted and published MFU, the error, the
median of absolute errors, and whether the order within each chip is right; ends with
code 1 where the median is 20 % or more, an order is wrong, or a row is missing. Needs
the TPU compiler (`pip install -e '.[tpu]'`) and no TPU.

Published: AI-Hypercomputer/maxtext, docs/reference/models/tiering.md, and the recipes
that it links, from which each row's batch, remat and layout are (`Row.source`). Its MFU
counts the full attention square: of Llama 3.1 8B 417.4 TFLOP/s at 7207 tokens/s are
57.9e9 FLOPs a token, as `llmjax.train.metrics.flops` has with it. What differs here on
purpose stands in `Row.differs`. No constant of the prediction was chosen by these rows.
"""

import dataclasses
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from absl import app, flags

from configs.pretrain import (
    llama2_70b,
    llama3_8b,
    llama3_70b,
    llama3_405b,
    mixtral_8x7b,
)
from llmjax import config as cfg
from llmjax.plan import report
from llmjax.plan.compiler import compile
from llmjax.plan.cost import chips

WORKDIR = flags.DEFINE_string("workdir", None, "Where results are kept.", required=True)
ONLY = flags.DEFINE_string("only", "", "Rows whose name holds this.")

LIMIT = 0.20
QKV = ("query", "key", "value")
RECIPES = "https://github.com/AI-Hypercomputer/tpu-recipes/tree/main/training/"
MAXTEXT = "https://github.com/AI-Hypercomputer/maxtext/blob/"


@dataclasses.dataclass(frozen=True)
class Row:
    """One published run.

    Attributes:
      per_chip: rows of `length` tokens on each chip.
      layout: mesh, remat and kernel blocks as published; where ours differ, `differs`.
    """

    name: str
    config: Any
    topology: str
    slices: int
    per_chip: int
    length: int
    layout: dict[str, Any]
    mlp: dict[str, Any]
    published: float
    source: str
    differs: str = ""


def offload(*names: str) -> dict[str, Any]:
    """Remat that keeps these in the host's memory and computes the rest again."""
    return {"remat.kind": "names", "remat.saved": None, "remat.offloaded": names}


def keep(*names: str) -> dict[str, Any]:
    """Remat that keeps these on the chip and computes the rest again."""
    return {"remat.kind": "names", "remat.saved": names, "remat.offloaded": None}


def blocks(q: int, kv: int) -> dict[str, int]:
    """Of the attention kernel."""
    return {"attention.block_q": q, "attention.block_kv": kv}


def flags_of_xla(vmem_kib: int, *more: str) -> dict[str, Any]:
    """Those that a recipe sets in LIBTPU_INIT_ARGS."""
    vmem = f"xla_tpu_scoped_vmem_limit_kib={vmem_kib}"
    return {"compiler_options": (vmem, *more)}


# MaxText, benchmarks/xla_flags_library.py: HOST_OFFLOAD_FLAGS
HOST_OFFLOAD = (
    "xla_tpu_enable_all_experimental_scheduler_features=true",
    "xla_tpu_enable_scheduler_memory_pressure_tracking=true",
    "xla_tpu_host_transfer_overlap_limit=24",
    "xla_tpu_aggressive_opt_barrier_removal=ENABLED",
    "xla_lhs_prioritize_async_depth_over_stall=ENABLED",
    "xla_tpu_enable_ag_backward_pipelining=true",
    "xla_should_allow_loop_variant_parameter_in_chain=ENABLED",
    "xla_should_add_loop_invariant_op_in_chain=ENABLED",
    "xla_max_concurrent_host_send_recv=100",
    "xla_tpu_scheduler_percent_shared_memory_limit=100",
    "xla_latency_hiding_scheduler_rerun=2",
)
FUSED = {**blocks(2048, 2048), "attention.fused_backward": True}
OTHERS = (
    "of the recipe's flags of XLA those of VMEM and of the host's transfers (this "
    "compiler refuses its fusions of collectives on any chip but v5e)"
)
ROWS = (
    Row(
        "llama3.1-8b",
        llama3_8b,
        "v6e:16x16",
        1,
        4,
        8192,
        {
            "fsdp": 256,
            **offload("input", *QKV, "out"),
            **FUSED,
            **flags_of_xla(98304, *HOST_OFFLOAD),
        },
        {},
        0.4546,
        RECIPES + "trillium/Llama3.1-8B-MaxText/v6e-256",
        OTHERS,
    ),
    Row(
        "llama3.1-70b",
        llama3_70b,
        "v6e:16x16",
        1,
        5,
        8192,
        {
            "fsdp": 256,
            **offload("input", *QKV),
            **FUSED,
            **flags_of_xla(98304, *HOST_OFFLOAD),
        },
        {},
        0.5033,
        RECIPES + "trillium/Llama3.1-70B-MaxText/v6e-256",
        OTHERS,
    ),
    Row(
        "llama3.1-405b",
        llama3_405b,
        "v6e:16x16",
        2,
        1,
        8192,
        {
            "data": 2,
            "fsdp": 64,
            "tensor": 4,
            "optimizer_sharding": "data",
            "context.sequence_parallel": True,
            **offload("input", *QKV, "out"),
            **blocks(2048, 512),
            **flags_of_xla(98304, *HOST_OFFLOAD),
        },
        {},
        0.3855,
        MAXTEXT + "5e6a7caff904f67fa654fc0ae983a16156bc21f8/benchmarks/"
        "maxtext_trillium_model_configs.py#L723",
        "across the two slices (dcn_fsdp_parallelism=2; the table counts the chips of "
        "one) data with its optimizer sharded instead of fsdp; tokens between branches "
        "over tensor, not the model dimension; blocks of 2048 queries forward too "
        "instead of 1024; " + OTHERS,
    ),
    Row(
        "mixtral-8x7b-v6e",
        mixtral_8x7b,
        "v6e:16x16",
        1,
        12,
        4096,
        {
            "fsdp": 256,
            **offload("input", *QKV, "out"),
            **blocks(2048, 512),
            **flags_of_xla(81920),
        },
        {"dispatch.factor": 1.25},
        0.3523,
        RECIPES + "trillium/Mixtral-8x7B-MaxText",
        "tokens come to their places by indices instead of products; " + OTHERS,
    ),
    Row(
        "llama2-70b",
        llama2_70b,
        "v5p:8x8x8",
        1,
        4,
        4096,
        {"fsdp": 512, **keep(*QKV, "out", "down")},  # save_dot_except_mlpwi
        {},
        0.654,
        MAXTEXT + "92e59fdf547421f647590087f50fea5729da42d8/benchmarks/"
        "maxtext_v5p_model_configs.py#L156",
        "none of its flags of XLA",
    ),
    Row(
        "mixtral-8x7b-v5p",
        mixtral_8x7b,
        "v5p:4x8x8",
        1,
        36,
        4096,
        {
            "fsdp": 256,
            "remat.kind": "full",
            "remat.saved": None,
            "precision.masters": "bfloat16",
            **flags_of_xla(81920),
        },
        {"dispatch.factor": 1.0},
        0.5256,
        RECIPES + "v5p/Mixtral-8X7B-Maxtext",
        "capacity 1.0, as many FLOPs as the dropless kernel of the script; the table's "
        "256 chips, its 8x4x4 are 128; " + OTHERS,
    ),
)


def configured(row: Row) -> cfg.RunConfig:
    """The row's run."""
    config = row.config.get_config()
    topology = chips.parse(row.topology, row.slices)
    config.data.batch_size = row.per_chip * topology.chips
    config.data.seq_len = row.length
    config.layout.data = 1
    for name, value in row.layout.items():
        config.layout.update_from_flattened_dict({name: value})
    for name, value in row.mlp.items():
        config.model.mlp.update_from_flattened_dict({name: value})
    return cfg.parse(config)


def measure(row: Row) -> dict[str, Any]:
    """The row's prediction, as `result.json` has it."""
    made = compile.compile_step(configured(row), chips.parse(row.topology, row.slices))
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


def ordered(pairs: list[tuple[float, float]]) -> bool:
    """Whether predictions rank as what was published does."""
    predicted = [p for p, _ in sorted(pairs, key=lambda pair: pair[1])]
    return predicted == sorted(predicted)


def table(results: dict[str, dict[str, Any] | None]) -> tuple[str, bool]:
    """The table with its verdict, and whether all holds."""
    lines = [
        "| row | chips | rows x tokens a chip | published | predicted | error | "
        "compute, kernels, exposed s |",
        "|---|---|---|---|---|---|---|",
    ]
    errors: list[float] = []
    by_chip: dict[str, list[Any]] = {}
    for row in ROWS:
        topology = chips.parse(row.topology, row.slices)
        time = (results[row.name] or {}).get("time")
        start = (
            f"| {row.name} | {topology.chips} {topology.chip.name} | {row.per_chip} x "
            f"{row.length} | {row.published:.1%} |"
        )
        if time is None:
            why = (results[row.name] or {}).get("error") or "not compiled yet"
            lines.append(f"{start} {why[:60]} | | |")
            continue
        error = time["mfu"] / row.published - 1
        errors.append(abs(error))
        pairs = by_chip.setdefault(topology.chip.name, [])
        pairs.append((time["mfu"], row.published))
        parts = ("compiler_seconds", "pallas_seconds", "exposed_seconds")
        seconds = ", ".join(f"{time[p]:.2f}" for p in parts)
        lines.append(f"{start} {time['mfu']:.1%} | {error:+.1%} | {seconds} |")
    whole = len(errors) == len(ROWS)
    median = statistics.median(errors) if errors else float("nan")
    orders = {name: ordered(pairs) for name, pairs in by_chip.items()}
    told = ", ".join(f"{n} {'right' if o else 'wrong'}" for n, o in orders.items())
    lines.append(f"\nmedian absolute error {median:.1%}; order: {told or 'none'}")
    lines += [
        f"{row.name}: {row.source}; {row.differs or 'as published'}" for row in ROWS
    ]
    return "\n".join(lines), whole and median < LIMIT and all(orders.values())


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
