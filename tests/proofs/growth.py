"""How compile time grows with depth, and memory and predicted time with chips.

    python -m tests.proofs.growth --workdir=runs/growth [--part=depth|chips|all]

Depth: Llama 2 7B's width at 8, 32 and 128 layers on 256 chips of v5p; the scan compiles
one layer, so the times must lie within 1.3 of each other. Chips: the 7B at 4 rows of
4096 a chip of v5p (v5e: 2048) on 16, 64 and 256 chips, and on twice 256 over two
slices. Writes growth.json (which keeps the other part), growth.md and growth.png; ends
with code 1 where the depths differ by more. Needs the TPU compiler and no TPU; half an
hour on two cores.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from absl import app, flags

from configs.pretrain import llama2_7b
from llmjax import config as cfg
from llmjax.plan import report, tables
from llmjax.plan.compiler import compile
from llmjax.plan.cost import chips

WORKDIR = flags.DEFINE_string("workdir", None, "Where the results go.", required=True)
PART = flags.DEFINE_enum("part", "all", ["depth", "chips", "all"], "Which.")

LIMIT = 1.3
DEPTHS = (8, 32, 128)
PLACES = (
    ("v5p:2x2x4", 1),
    ("v5p:4x4x4", 1),
    ("v5p:4x8x8", 1),
    ("v5p:4x8x8", 2),
    ("v5e:4x4", 1),
    ("v5e:8x8", 1),
    ("v5e:16x16", 1),
    ("v5e:16x16", 2),
)


def depth(layers: int) -> dict[str, Any]:
    """Of the 7B's width, that many layers deep, on chips enough for the deepest."""
    run = cfg.parse(llama2_7b.base())
    layout = dataclasses.replace(run.layout, remat=cfg.FullRemat())
    run = dataclasses.replace(
        run,
        model=dataclasses.replace(run.model, num_layers=layers),
        data=dataclasses.replace(run.data, batch_size=256),
        layout=layout,
    )
    made = compile.compile_step(run, "v5p:4x8x8")
    return {
        "layers": layers,
        "trace_seconds": made.seconds.trace + made.seconds.lower,
        "compile_seconds": made.seconds.compile,
        "fits": made.fits,
    }


def place(name: str, slices: int) -> dict[str, Any]:
    """The 7B with the same work on each chip, on so many of them."""
    topology = chips.parse(name, slices)
    small = topology.chip.name == "v5e"
    run = cfg.parse(llama2_7b.base())
    data = dataclasses.replace(
        run.data, batch_size=4 * topology.chips, seq_len=2048 if small else 4096
    )
    layout = dataclasses.replace(run.layout, data=slices, slices=slices)
    if small:
        layout = dataclasses.replace(layout, remat=cfg.FullRemat())
    run = dataclasses.replace(run, data=data, layout=layout)
    made = compile.compile_step(run, topology)
    row = {
        "topology": f"{name} x {slices}" if slices > 1 else name,
        "chips": topology.chips,
        "fits": made.fits,
        "peak": made.needed,
        "capacity": made.available,
        "compile_seconds": made.seconds.compile,
    }
    if made.fits:
        prediction = report.predict(made)
        row["step_seconds"] = prediction.step_seconds
        row["exposed_seconds"] = prediction.exposed_seconds
        row["mfu"] = prediction.mfu
    return row


def text(results: dict[str, Any]) -> str:
    """Both tables."""
    parts = []
    if "depth" in results:
        depths = [
            (r["layers"], f"{r['trace_seconds']:.1f}", f"{r['compile_seconds']:.1f}")
            for r in results["depth"]
        ]
        columns = ("layers", "trace and lower, s", "compile, s")
        parts.append(tables.table(columns, depths))
    if "chips" in results:
        rows = [
            (
                r["topology"],
                r["chips"],
                tables.gib(r["peak"]) + ("" if r["fits"] else " (does not fit)"),
                tables.duration(r.get("step_seconds")),
                tables.duration(r.get("exposed_seconds")),
                f"{r['mfu']:.1%}" if "mfu" in r else "-",
                f"{r['compile_seconds']:.0f} s",
            )
            for r in results["chips"]
        ]
        head = ("topology", "chips", "peak a chip", "step", "exposed", "MFU", "compile")
        parts.append(tables.table(head, rows))
    return "\n\n".join(parts)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Peak and predicted step against chips, a line per kind of chip."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained", dpi=150)
    memory, time = figure.subplots(1, 2)
    for chip, color in (("v5p", "#0072B2"), ("v5e", "#E69F00")):
        mine = [r for r in rows if r["topology"].startswith(chip)]
        counts = [r["chips"] for r in mine]
        peaks = [r["peak"] / 2**30 for r in mine]
        memory.plot(counts, peaks, "o-", color=color, label=chip)
        if mine:
            limit = mine[0]["capacity"] / 2**30
            memory.axhline(limit, color=color, linestyle=":", label=f"{chip} has")
        timed = [r for r in mine if r["fits"]]
        seconds = [r["step_seconds"] for r in timed]
        time.plot([r["chips"] for r in timed], seconds, "o-", color=color, label=chip)
    for axes, title in (
        (memory, "GiB per chip"),
        (time, "predicted seconds per step"),
    ):
        axes.set_xscale("log", base=2)
        axes.set_xticks([16, 64, 256, 512], ["16", "64", "256", "2 x 256"])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.set_xlabel("chips")
        axes.set_title(title, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(
            fontsize=8, frameon=False, loc="upper right", bbox_to_anchor=(1, 0.9)
        )
    figure.savefig(path)


def main(argv: list[str]) -> None:
    del argv
    folder = Path(WORKDIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "growth.json"
    results: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    if PART.value in ("depth", "all"):
        results["depth"] = [depth(layers) for layers in DEPTHS]
    if PART.value in ("chips", "all"):
        results["chips"] = [place(*where) for where in PLACES]
        draw(results["chips"], folder / "growth.png")
    kept.write_text(json.dumps(results, indent=1) + "\n")
    (folder / "growth.md").write_text(text(results) + "\n")
    print(text(results))
    seconds = [r["compile_seconds"] for r in results.get("depth", ())]
    if seconds and max(seconds) > LIMIT * min(seconds):
        print(f"compile times differ by {max(seconds) / min(seconds):.2f}")
        sys.exit(1)


if __name__ == "__main__":
    app.run(main)
