"""Llama 2 7B beside MaxText 0.2.5 under the same TPU compiler.

    python -m tests.proofs.maxtext --workdir=runs/maxtext [--only=v5e] \\
        [--repeats=3] [--plain] [--search] [--compiles=12]

The shipped configs of three topologies (`configs/pretrain/llama2_7b*.py`), as they are,
with the global batch, sequence, types and optimizer (AdamW) of MaxText's runs. Each is
compiled `--repeats` times, with `--plain` once more without its compiler options;
WORKDIR/ROW.json and ROW-plain.json hold the reports, and are read when they are there.
`--search` looks for a faster layout within MaxText's peak (`llmjax.plan.layouts`) and
writes WORKDIR/ROW-search.json. Ends with code 1 where a row has more than
`Row.share` of MaxText's cycles, a higher peak, more seconds of collectives on links, or
a predicted step above `Row.faster` of the former layout's; or, where it has no compiler
options, 1.2 times the compile time. Needs libtpu 0.0.52 with jax 0.12.0.1, and no TPU.

Cycles leave Pallas kernels and exposed transfers out on both sides; MaxText has four
calls of kernels a layer: forward, forward again, and two backward. Its numbers are of
its own recommended settings, measured by the same compiler on two cores.
"""

import dataclasses
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from absl import app, flags

from configs.pretrain import llama2_7b, llama2_7b_v5e, llama2_7b_v6e
from llmjax import config as cfg
from llmjax.plan import report, tables
from llmjax.plan.compiler import compile
from llmjax.plan.cost import chips
from llmjax.plan.cost.estimate import Size
from llmjax.plan.hlo.execution import walk
from llmjax.plan.hlo.module import parse
from llmjax.plan.layouts import search

WORKDIR = flags.DEFINE_string("workdir", None, "Where results are kept.", required=True)
ONLY = flags.DEFINE_string("only", "", "Rows whose name holds this.")
REPEATS = flags.DEFINE_integer("repeats", 1, "Compiles of each row.")
SEARCH = flags.DEFINE_bool("search", False, "Look for a faster layout too.")
COMPILES = flags.DEFINE_integer("compiles", 12, "Compiles of a search, at most.")
PLAIN = flags.DEFINE_bool("plain", False, "Compile without compiler options too.")

GB = 1e9


@dataclasses.dataclass(frozen=True)
class Row:
    """One of MaxText's, and the config of ours beside it.

    Attributes:
      config: the module of ours.
      remat: what theirs keeps.
      gathered, reduced: bytes of results of a step's all-gathers and all-reduces.
      compile_seconds: on two cores.
      former: predicted step of the layout that ours had before the search, seconds.
      share: of their cycles, at most.
      faster: of `former`, at most.
    """

    name: str
    config: Any
    remat: str
    peak: float
    cycles: float
    compile_seconds: float
    former: float
    share: float
    faster: float
    gathered: float = 26.4e9
    reduced: float = 13.5e9


ROWS = (
    Row(
        "v5e",
        llama2_7b_v5e,
        "query, key, value projections",
        10.70e9,
        4.174e9,
        69,
        former=2.959,
        share=0.83,
        faster=0.93,
    ),
    Row(
        "v5p",
        llama2_7b,
        "minimal",
        49.18e9,
        4.041e9,
        106,
        former=2.638,
        share=0.76,
        faster=0.85,
    ),
    Row(
        "v6e",
        llama2_7b_v6e,
        "full",
        24.91e9,
        7.443e9,
        262,
        former=5.903,
        share=0.86,
        faster=0.86,
    ),
)


def configured(row: Row, plain: bool = False) -> cfg.RunConfig:
    """The row's run, as it ships; `plain`: without compiler options."""
    config = row.config.get_config()
    if plain:
        config.layout.compiler_options = ()
    return cfg.parse(config)


def measure(row: Row, plain: bool = False) -> dict[str, Any]:
    """The report of the row, with the seconds of each compile."""
    run = configured(row, plain)
    made = [
        compile.compile_step(run, str(run.layout.plan_topology))
        for _ in range(1 if plain else REPEATS.value)
    ]
    result = report.describe(made[0])
    result["cycles"] = cycles(made[0].text)
    result["compile_seconds"] = [m.seconds.compile for m in made]
    result["compiler_options"] = run.layout.compiler_options
    return result


def cycles(text: str) -> int:
    """The compiler's cycles as MaxText's were counted: without what bears a kernel's
    metadata, a copy of splash attention's log-sum-exp to another layout, that is."""
    return sum(
        (instruction.cycles or 0) * times
        for instruction, _, times in walk(parse(text))
        if "kernel_metadata" not in instruction.rest
    )


def look(row: Row) -> list[dict[str, Any]]:
    """What a search finds for the row within MaxText's peak."""
    config = configured(row)
    topology = chips.parse(str(config.layout.plan_topology))
    size = Size.of(compile.lower_step(config, topology).program)
    found = search.search(
        config,
        topology,
        size,
        report.predict,
        COMPILES.value,
        available=int(row.peak),
    )
    return report.describe_search(found)


def kept(path: Path, make: Any, wanted: bool) -> Any:
    """What the file holds, made first if wanted; None if neither."""
    if not path.exists():
        if not wanted:
            return None
        path.write_text(json.dumps(make(), indent=1))
    return json.loads(path.read_text())


def line(row: Row, result: dict[str, Any]) -> tuple[list[Any], bool]:
    """Ours beside MaxText's, and whether it is within the row's bounds."""
    time, options = result["time"], result["compiler_options"]
    moved = [c for c in time["collectives"] if c["network"] == "ici"]
    bytes_ = sum(c["result_bytes"] for c in moved)
    sent = sum(c["link_bytes"] for c in moved)
    on_links = sum(v for k, v in time["roofline"].items() if k.startswith("ici"))
    calls = sum(k["calls"] for k in time["kernels"])
    seconds = statistics.median(result["compile_seconds"])
    theirs = (row.gathered + 2 * row.reduced) / sent * on_links  # at the same rate
    step = time["step_seconds"]
    pairs = [
        (result["cycles"], row.share * row.cycles),
        (result["memory"]["peak"], row.peak),
        (round(on_links, 3), round(theirs, 3)),
        (step, row.faster * row.former),
    ]
    if not options:
        pairs.append((seconds, 1.2 * row.compile_seconds))
    share = result["cycles"] / row.cycles - 1
    cells = [
        f"{result['topology']}, {', '.join(options) or 'no compiler options'}",
        f"{result['cycles'] / GB:.3f} ({row.cycles / GB:.3f}), {share:+.1%}",
        f"{result['memory']['peak'] / GB:.2f} ({row.peak / GB:.2f})",
        f"{(result['memory']['host'] or 0) / GB:.1f}",
        f"{bytes_ / GB:.1f} ({(row.gathered + row.reduced) / GB:.1f})",
        f"{on_links:.3f} ({theirs:.3f})",
        f"{calls} (128): {time['pallas_seconds']:.3f}",
        f"{seconds:.0f} ({row.compile_seconds:.0f})",
        f"{row.former:.3f} -> {step:.3f} s, {step / row.former - 1:+.1%}",
        f"{time['mfu']:.1%}",
    ]
    return cells, all(ours <= theirs for ours, theirs in pairs)


HEAD = (
    "topology",
    "cycles, 1e9",
    "peak, GB",
    "in the host, GB",
    "collectives, GB",
    "on links, s",
    "Pallas calls: s",
    "compile, s",
    "predicted step",
    "MFU",
)


def main(argv: list[str]) -> None:
    del argv
    folder = Path(WORKDIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    lines, holds = [], []
    for row in ROWS:
        wanted = ONLY.value in row.name
        result = kept(folder / f"{row.name}.json", lambda r=row: measure(r), wanted)
        if result is None or not result["fits"]:
            continue
        cells, good = line(row, result)
        lines.append(cells)
        holds.append(good)
        if result["compiler_options"]:
            path = folder / f"{row.name}-plain.json"
            also = wanted and PLAIN.value
            plain = kept(path, lambda r=row: measure(r, plain=True), also)
            if plain is not None and plain["fits"]:
                lines.append(line(row, plain)[0])
        path = folder / f"{row.name}-search.json"
        found = kept(path, lambda r=row: look(r), wanted and SEARCH.value)
        for r in found or ():
            cycles = f"{r['cycles']:.4g}" if r["cycles"] else "does not fit"
            print(f"{row.name}: {cycles}, {r['step_seconds']} s: {r['flags']}")
    print("MaxText's in parentheses.\n\n" + tables.table(HEAD, lines))
    sys.exit(not (all(holds) and len(holds) == len(ROWS)))


if __name__ == "__main__":
    app.run(main)
