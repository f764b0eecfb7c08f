"""A main's result in words; its JSON goes into `<workdir>/result.json`."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from llmjax.config import wording

_HASH = re.compile(r"[0-9a-f]{32,}")
_SHORT = 8  # values of a list that are shown


def of(result: Mapping[str, Any]) -> str:
    """A result's numbers and words, one a line; tables and hashes are left out."""
    return wording.table(dict(_rows(result, "")))


def training(result: Mapping[str, Any]) -> str:
    """The result of `llmjax.train.run.run`."""
    if not result["finished"]:
        done = f"stopped early at step {result['step']:,}; the same command goes on"
    elif result["stopped_early"]:
        done = f"step {result['step']:,}, since train.patience is used up"
    else:
        done = f"step {result['step']:,}"
    first = result.get("seconds_to_first_step")
    rows = {
        "finished" if result["finished"] else "not finished": done,
        "held out": metrics(result.get("eval", {})),
        "best": _best(result),
        "training": metrics(result.get("train", {}), OF_TRAINING),
        "speed": f"{result.get('tokens_per_second', 0):,.0f} tokens/s"
        + (f", the first step after {wording.duration(first)}" if first else ""),
        "peak memory": wording.size(result["peak_memory_bytes"]),
    }
    following = result.get("next", ())
    return "\n".join([wording.table(rows), *(f"next  {c}" for c in following)])


def _best(result: Mapping[str, Any]) -> str:
    """The best evaluation, where it is not the last."""
    best = result.get("best")
    if not best or best["step"] == result["step"]:
        return ""
    metric = metrics({best["metric"]: best["value"]})
    return f"{metric} at step {best['step']:,}"


def prepared(result: Mapping[str, Any]) -> str:
    """The result of `experiments.prepare_data`: a table for each corpus."""
    return "\n\n".join(map(_corpus, result.get("mixture", [result])))


def _corpus(account: Mapping[str, Any]) -> str:
    documents, dropped = account["documents"], account["dropped"]
    kept, lost = sum(documents.values()), sum(dropped.values())
    things = "record" if account["record_files"] else "document"
    splits = [f"{split} {n:,}" for split, n in documents.items()]
    reasons = [f"{n:,} {reason.replace('_', ' ')}" for reason, n in dropped.items()]
    fields: dict[str, list[str]] = {}
    for name, file in account["token_files"].items():
        field, _, split = name.partition("/")
        count = f"{split} {wording.short(file['tokens'])}"
        fields.setdefault(field, []).append(count)
    return wording.table(
        {
            "corpus": account["corpus"],
            "folder": account["folder"],
            "read": wording.count(kept + lost, things),
            "dropped": f"{lost:,}: {', '.join(reasons)}" if lost else "none",
            "kept": f"{kept:,}: {', '.join(splits)}",
            "labels": ", ".join(account["class_names"]),
            **{f"tokens of {k}": ", ".join(parts) for k, parts in fields.items()},
            "tokenizer": f"{account['vocab_size']:,} tokens",
            "time": wording.duration(sum(account["seconds"].values())),
        }
    )


OF_TRAINING = ("loss", "accuracy", "bits_per_byte")


def metrics(values: Mapping[str, float], names: tuple[str, ...] = ()) -> str:
    """Metrics on one line; those of `names` only, where there are any."""
    chosen = [n for n in names or values if n in values]
    pairs = ((n.replace("_", " "), wording.number(values[n])) for n in chosen)
    return ", ".join(f"{name} {number}" for name, number in pairs)


def _rows(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        name = f"{prefix}{key.replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from _rows(value, f"{name} ")
        elif isinstance(value, list | tuple):
            if value and len(value) <= _SHORT and not any(map(_nested, value)):
                yield name, ", ".join(map(_scalar, value))
        elif value is not None:
            text = _scalar(value)
            if not _HASH.fullmatch(text):
                size = name.endswith("bytes")
                yield name.removesuffix(" bytes"), wording.size(value) if size else text


def _nested(value: Any) -> bool:
    return isinstance(value, Mapping | list | tuple)


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return wording.number(value) if isinstance(value, int | float) else str(value)
