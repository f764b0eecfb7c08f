"""The result of a plan as a dictionary for JSON, and as tables in Markdown."""

import dataclasses
import math
import sys
from collections.abc import Sequence
from typing import Any

import jax

from llmjax.config import wording
from llmjax.plan.compiler import buffers
from llmjax.plan.compiler.compile import Compiled
from llmjax.plan.cost import estimate, roofline
from llmjax.plan.cost.roofline import Prediction
from llmjax.plan.hlo import collectives
from llmjax.plan.layouts.changes import flags, lines
from llmjax.plan.layouts.remedies import Trial
from llmjax.plan.layouts.search import Ranked
from llmjax.plan.tables import duration, gib, mesh_axes, table, topology_name, unit

Result = dict[str, Any]


def predict(compiled: Compiled, price: float | None = None) -> Prediction:
    """Predicts the time of a step that fits; `price`: dollars per hour of a chip."""
    return roofline.predict(
        compiled.text,
        compiled.config,
        compiled.topology,
        compiled.program.mesh,
        price,
        compiled.program.task.num_outputs,
    )


def describe(compiled: Compiled, price: float | None = None) -> Result:
    """The plan of a compiled step: verdict, memory and, where it fits, time."""
    usage = buffers.usage(compiled)
    memory, topology = compiled.memory, compiled.topology
    result: Result = {
        "topology": topology.name,
        "platform": topology.platform,
        "num_slices": topology.num_slices,
        "chips": topology.chips,
        "mesh": dict(compiled.program.mesh.shape),
        "rows": compiled.config.data.batch_size,
        "tokens_per_row": compiled.config.data.seq_len,
        "parameters": sum(
            math.prod(leaf.shape)
            for leaf in jax.tree.leaves(compiled.program.abstract.params)
        ),
        "fits": compiled.fits,
        "error": compiled.error,
        "memory": {
            **usage.kinds,
            "peak": usage.peak,
            "capacity": usage.capacity,
            "code": memory.code if memory else None,
            "host": memory.host if memory else None,
        },
        "largest": [dataclasses.asdict(buffer) for buffer in usage.largest],
        "replicated": buffers.replicated(compiled.program),
        "bubble": estimate.bubble(
            compiled.config.layout, compiled.program.mesh.shape["pipeline"]
        ),
        "seconds": dataclasses.asdict(compiled.seconds),
        "versions": {"jax": jax.__version__, "python": sys.version.split()[0]},
    }
    if compiled.fits:
        result["time"] = timing(predict(compiled, price))
    return result


def timing(prediction: Prediction) -> Result:
    """A prediction as a dictionary for JSON."""
    roof = prediction.roofline
    summary = prediction.summary
    return {
        "step_seconds": prediction.step_seconds,
        "compiler_seconds": prediction.compiler_seconds,
        "pallas_seconds": prediction.pallas_seconds,
        "exposed_seconds": prediction.exposed_seconds,
        "estimated_cycles": summary.estimated_cycles,
        "mfu": prediction.mfu,
        "mfu_causal": prediction.mfu_causal,
        "tokens_per_second_per_chip": prediction.tokens_per_second_per_chip,
        "dollars_per_billion_tokens": prediction.dollars_per_billion_tokens,
        "roofline": roof.rows,
        "binds": roof.binds,
        "waits": [[*key, seconds] for key, seconds in prediction.waits.items()],
        "uncounted": list(prediction.uncounted),
        "collectives": collectives.by_kind_and_axis(prediction.collectives),
        "kernels": [
            {
                "kernel": cost.call.kernel,
                "kind": cost.kind,
                "calls": cost.call.calls,
                "seconds": cost.seconds,
                "source": cost.call.source,
            }
            for cost in prediction.kernels
        ],
        "largest": [list(entry) for entry in summary.largest],
        "longest": [list(entry) for entry in prediction.largest],
    }


def describe_remedies(trials: Sequence[Trial]) -> list[Result]:
    """The remedies that were compiled, as dictionaries for JSON."""
    return [
        {
            "why": t.remedy.why,
            "flags": flags(t.remedy.change),
            "slower": t.remedy.slower,
            "fits": t.fits,
            "bytes": t.needed,
            "error": t.error,
        }
        for t in trials
    ]


def describe_search(ranked: Sequence[Ranked]) -> list[Result]:
    """The ranking of a search, best first, as dictionaries for JSON."""
    return [
        {
            "flags": flags(r.change) or "(as it is)",
            "lines": lines(r.change),
            "why": r.why or "as it is",
            "step_seconds": r.prediction.step_seconds if r.prediction else None,
            "mfu": r.prediction.mfu if r.prediction else None,
            "cycles": r.prediction.summary.estimated_cycles if r.prediction else None,
            "bytes": r.compiled_bytes,
            "estimated_seconds": r.candidate.estimate.seconds,
            "estimated_bytes": r.candidate.estimate.bytes,
            "error": r.error,
        }
        for r in ranked
    ]


# --- as text -------------------------------------------------------------------------


def text(result: Result) -> str:
    """The report in Markdown, aligned so that it reads well as plain text."""
    parts = [_head(result), _memory(result), _largest(result)]
    if "time" in result:
        parts += [_time(result["time"], unit(result)), _collectives(result["time"])]
    if result["replicated"]:
        parts.append("Replicated:\n" + "\n".join(result["replicated"]))
    if "remedies" in result:
        parts.append(_remedies(result))
    if "search" in result:
        parts.append(_search(result["search"]))
    return "\n\n".join(part for part in parts if part)


def _head(result: Result) -> str:
    memory = result["memory"]
    verdict = "fits" if result["fits"] else "DOES NOT FIT"
    seconds = result["seconds"]
    took = f"{seconds['compile']:.0f} s" if seconds["compile"] is not None else "-"
    return (
        f"{result.get('config', 'The run')} on {topology_name(result)}: {verdict}, "
        f"{gib(memory['peak'])} of {gib(memory['capacity'])} per {unit(result)}\n"
        f"{wording.short(result['parameters'])} parameters, "
        f"{result['chips']} {unit(result)}s, "
        f"mesh {mesh_axes(result) or 'of one'}, "
        f"{result['rows']} rows of {result['tokens_per_row']} tokens; "
        f"compiled in {took}" + _bubble(result)
    )


def _bubble(result: Result) -> str:
    idle = result.get("bubble", 0.0)
    return f"\nThe pipeline's stages wait {idle:.1%} of the time." if idle else ""


def _memory(result: Result) -> str:
    memory = result["memory"]
    rows = [
        (kind, gib(memory[kind]), f"{memory[kind] / memory['capacity']:.1%}")
        for kind in (*buffers.KINDS, "peak", "capacity")
    ]
    if memory["host"]:
        rows.append(("in the host's memory", gib(memory["host"]), ""))
    return table((f"bytes per {unit(result)}", "", "of capacity"), rows)


def _largest(result: Result) -> str:
    rows = [
        (b["name"], b["kind"], b["shape"], gib(b["bytes"]), b["source"])
        for b in result["largest"]
    ]
    shape = f"shape on a {unit(result)}"
    return table(("largest buffers", "kind", shape, "size", "line"), rows)


def _time(time: Result, unit: str) -> str:
    computed = "matmuls and fusions" if unit == "GPU" else "the compiler's estimate"
    cycles = time["estimated_cycles"]  # of GPUs the compiler gives none
    tokens = f"{time['tokens_per_second_per_chip']:,.0f}"
    dollars = f"{time['dollars_per_billion_tokens']:,.0f}"
    rows = [
        ("step", duration(time["step_seconds"])),
        (f"  {computed}", duration(time["compiler_seconds"])),
        ("  attention kernels", duration(time["pallas_seconds"])),
        ("  exposed communication", duration(time["exposed_seconds"])),
        *_waits(time),
        ("MFU", f"{time['mfu']:.1%}"),
        ("MFU, causal attention counted as half", f"{time['mfu_causal']:.1%}"),
        (f"tokens per second and {unit}", tokens),
        ("dollars per 1e9 tokens", dollars),
        *([("estimated cycles", f"{cycles:.4g}")] if cycles else []),
        *((f"roofline: {name}", duration(s)) for name, s in time["roofline"].items()),
        ("bottleneck", time["binds"]),
    ]
    return table(("predicted", ""), rows)


def _waits(time: Result) -> list[tuple[str, str]]:
    """The three longest waits, and the kernels without a cost model."""
    waits = sorted(time.get("waits", ()), key=lambda wait: -wait[-1])
    rows = [
        (f"    {kind} over {axis} ({network})", duration(seconds))
        for kind, axis, network, seconds in waits[:3]
        if seconds > 0
    ]
    return rows + [
        (f"    no model of {k}", "counts 0") for k in time.get("uncounted", ())
    ]


def _collectives(time: Result) -> str:
    rows = [
        (
            row["kind"],
            row["axis"],
            row["network"],
            row["calls"],
            gib(row["result_bytes"]),
            gib(row["link_bytes"]),
        )
        for row in time["collectives"]
    ]
    head = ("collective", "axis", "network", "calls", "results", "sent")
    return table(head, rows) if rows else ""


def _remedies(result: Result) -> str:
    worst = result["largest"][0]
    rows = [
        (
            r["why"],
            "fits" if r["fits"] else r["error"] or "no",
            gib(r["bytes"]),
            f"{r['slower']:.2f}x",
            r["flags"],
        )
        for r in result["remedies"]
    ]
    missing = gib(result["memory"]["peak"] - result["memory"]["capacity"])
    return (
        f"It lacks {missing} a {unit(result)}. The largest buffer is {worst['name']} "
        f"({worst['shape']}, {gib(worst['bytes'])}). Compiled, the cheapest first:\n\n"
        + table(("change", "compiled", "peak", "predicted step", "flags"), rows)
    )


def _search(ranking: Sequence[Result]) -> str:
    rows = [
        (
            place,
            duration(r["step_seconds"]),
            f"{r['mfu']:.1%}" if r["mfu"] is not None else "does not fit",
            gib(r["bytes"]),
            duration(r["estimated_seconds"]),
            gib(r["estimated_bytes"]),
            r["why"],
            r["flags"],
        )
        for place, r in enumerate(ranking, 1)
    ]
    head = ("", "step", "MFU", "peak", "by formula", "by formula", "last change")
    text = table((*head, "flags"), rows)
    winner = next((r for r in ranking if r["step_seconds"] is not None), None)
    if winner is None:
        return text
    if not winner["lines"]:
        return f"{text}\n\nNone of these is faster than the run as it is."
    return (
        f"{text}\n\nTake the first: {winner['flags']}\n\nIn a config file:\n\n"
        f"```python\n{winner['lines']}\n```"
    )
