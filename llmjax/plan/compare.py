"""Two plans in one table."""

import json
from collections.abc import Sequence
from typing import Any

from etils import epath

from llmjax.plan.report import Result
from llmjax.plan.tables import duration, gib, mesh_axes, table, topology_name


def read(path: epath.PathLike) -> Result:
    """Reads a plan's result.json, or the one in a folder.

    Raises:
      FileNotFoundError: no such file.
      ValueError: the file is not the result of a plan.
    """
    file = epath.Path(path).expanduser()
    if file.is_dir():
        file = file / "result.json"
    if not file.exists():
        raise FileNotFoundError(
            f"--compare: {file} is not there; accepted: two result.json of "
            "experiments.plan, or their folders, with a comma between"
        )
    try:
        result = json.loads(file.read_text())
    except ValueError:
        result = None
    if not isinstance(result, dict) or "memory" not in result:
        raise ValueError(f"--compare: {file} is not a result.json of experiments.plan")
    return result


def compare(a: Result, b: Result) -> str:
    """A table of both plans, with the ratio of each number of `b` to that of `a`."""
    return table(("", _name(a), _name(b), "second / first"), _rows(a, b))


def _name(result: Result) -> str:
    return f"{result.get('config', 'a run')}, {topology_name(result)}"


def _rows(a: Result, b: Result) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [("fits", _fits(a), _fits(b), "")]
    rows.append(("mesh", mesh_axes(a), mesh_axes(b), ""))
    layouts = [_flat(r.get("layout", {})) for r in (a, b)]
    for key in sorted(set(layouts[0]) | set(layouts[1])):
        values = [str(layout.get(key, "-")) for layout in layouts]
        if values[0] != values[1] and key.removesuffix(".stages") not in a["mesh"]:
            rows.append((f"layout.{key}", *values, ""))
    for key in a["memory"]:
        rows.append(_row(key, a["memory"][key], b["memory"].get(key), gib))
    times = [r.get("time", {}) for r in (a, b)]
    for key, show in _TIMES.items():
        first, second = (t.get(key) for t in times)
        rows.append(_row(key.replace("_", " "), first, second, show))
    sent = [_sent(t) for t in times]
    for key in sorted(set(sent[0]) | set(sent[1])):
        rows.append(_row(key, sent[0].get(key, 0), sent[1].get(key, 0), gib))
    first, second = (r["seconds"]["compile"] for r in (a, b))
    rows.append(_row("compile seconds", first, second, duration))
    return rows


def _flat(layout: Result) -> Result:
    """Fields by their dotted keys: "remat.kind"."""
    flat: Result = {}
    for key, value in layout.items():
        inner = value if isinstance(value, dict) else None
        flat |= (
            {key: value} if inner is None else {f"{key}.{k}": inner[k] for k in inner}
        )
    return flat


def _number(value: int | float | None) -> str:
    return "-" if value is None else f"{value:,.4g}"


def _percent(value: int | float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


_TIMES = {
    "step_seconds": duration,
    "compiler_seconds": duration,
    "pallas_seconds": duration,
    "exposed_seconds": duration,
    "estimated_cycles": _number,
    "mfu": _percent,
    "mfu_causal": _percent,
    "tokens_per_second_per_chip": _number,
    "dollars_per_billion_tokens": _number,
}


def _fits(result: Result) -> str:
    return "yes" if result["fits"] else "no"


def _sent(time: Result) -> dict[str, int]:
    """Bytes that a chip sends in a step, by kind and network."""
    sent: dict[str, int] = {}
    for row in time.get("collectives", ()):
        key = f"{row['kind']} over {row['network']}"
        sent[key] = sent.get(key, 0) + row["link_bytes"]
    return sent


def _row(name: str, first: Any, second: Any, show: Any) -> tuple[str, str, str, str]:
    has_ratio = first not in (None, 0) and second is not None
    ratio = f"{second / first:.3f}" if has_ratio else "-"
    return name, show(first), show(second), ratio
