r"""Finds hard negatives for pairs of texts: near to an anchor, and not belonging to it.

    python -m experiments.mine_negatives --run=runs/embedding --input=pairs.jsonl \
        --output=triples.jsonl --negatives=4 --ranks=10-100 --margin=0.05

`--run` is the workdir of a run that learned vectors of texts, a folder of the hub or
package:NAME. The input has a column of anchors and one of positives, known by their
usual names (anchor, query, question…; positive, answer, passage…) or named by --text
and --positive. Its positives are the documents; those of equal anchors belong together.

The output, a .jsonl, has the columns of the input that were read and those of --keep,
and `negatives`, a list: of the documents whose ranks are in --ranks, counted without
those that belong to the anchor, those whose cosine to it is below the positive's by
--margin and by --relative_margin of it; the nearest of them, or with --sampling=random
any. A row that has fewer gets fewer, and the number of such rows is printed. The same
command goes on after it was killed.
"""

import contextlib
import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from experiments import cli, predict
from experiments.predict_rows import as_written, rows_of
from llmjax.config import wording
from llmjax.data.files import columns as columns_lib
from llmjax.data.files import finding
from llmjax.data.files.slices import Row
from llmjax.data.prepare import pairs
from llmjax.infer import mining
from llmjax.infer.output import Output
from llmjax.infer.predict import CHUNK, Predictor, chunks, fingerprint

POSITIVE = flags.DEFINE_string("positive", None, "column of the positives")
NEGATIVES = flags.DEFINE_integer("negatives", 1, "of a row", lower_bound=1)
RANKS = flags.DEFINE_string("ranks", "1-50", "of the documents that may be negatives")
MARGIN = flags.DEFINE_float("margin", 0.0, "of cosines, to the positive's")
RELATIVE = flags.DEFINE_float("relative_margin", 0.0, "a share of the positive's")
SAMPLING = flags.DEFINE_enum(
    "sampling", "top", ["top", "random"], "the nearest of what is left, or any"
)
SEED = flags.DEFINE_integer("seed", 0, "of --sampling=random", lower_bound=0)


def main() -> dict[str, Any]:
    choice = choice_of_flags()
    source = predict.open_source(predict.RUN.value or "")
    given = predict.INPUT.value or ""
    columns = columns_of(given)
    rows = [*rows_of(given, columns, predict.KEEP.value)]
    if not rows:
        raise ValueError(f"--input={given} has no rows")
    task = source.task.answering("passage")
    identity = {
        "run": predict.RUN.value,
        "step": source.step,
        "weights": fingerprint(source.config, task, source.params),
        "input": [
            [str(f), f.stat().st_size, f.stat().st_mtime_ns]
            for f in finding.find(given).files
        ],
        "columns": [*columns.values(), *predict.KEEP.value],
        "choice": repr(choice),
    }
    output = Output(Path(predict.OUTPUT.value or "").expanduser(), identity)
    before = output.counts
    short, found = before.get("short", 0), before.get("found", 0)
    with contextlib.closing(output):
        negatives = mined(source, rows, columns, choice, output.rows)
        left = iter(rows[output.rows :])
        while part := [*itertools.islice(left, CHUNK)]:
            lines = [row_of(row, columns, next(negatives)) for row in part]
            found += sum(len(line["negatives"]) for line in lines)
            short += sum(len(line["negatives"]) < choice.count for line in lines)
            output.write(lines, {"short": short, "found": found})
        output.finish()
    return {
        "run": predict.RUN.value,
        "input": given,
        "output": predict.OUTPUT.value,
        "rows": len(rows),
        "negatives": found,
        "short": short,
    }


def choice_of_flags() -> mining.Choice:
    """Which documents become negatives.

    Raises:
      ValueError: a flag that can't be; it names it.
    """
    if predict.ROLE.value:
        raise ValueError("--role is of `predict`; anchors are queries, leave it out")
    ranks = re.fullmatch(r"(\d+)-(\d+)", RANKS.value or "")
    if ranks is None:
        raise ValueError(f"--ranks={RANKS.value}; accepted: as 10-100")
    try:
        return mining.Choice(
            NEGATIVES.value or 1,
            int(ranks[1]),
            int(ranks[2]),
            MARGIN.value or 0.0,
            RELATIVE.value or 0.0,
            SAMPLING.value,  # type: ignore[arg-type]
            SEED.value or 0,
        )
    except ValueError as e:
        raise ValueError(f"--ranks, --negatives or --relative_margin: {e}") from None


def columns_of(given: str) -> dict[str, str]:
    """The columns of anchors and positives.

    Raises:
      ValueError: no column, or several, could be it.
    """
    columns = {"anchor": predict.TEXT.value, "positive": POSITIVE.value}
    if not finding.exists(given):  # who reads it says so
        return {name: column or name for name, column in columns.items()}
    there = columns_lib.names(finding.find(given))
    usual = {"anchor": pairs.ANCHORS, "positive": pairs.POSITIVES}
    flag = {"anchor": "--text", "positive": "--positive"}
    return {
        name: column or pairs.only(there, usual[name], f"--input={given}", flag[name])
        for name, column in columns.items()
    }


def mined(
    source: predict.Source,
    rows: list[Row],
    columns: Mapping[str, str],
    choice: mining.Choice,
    start: int,
) -> Any:
    """The texts of the negatives of each row from `start` on."""
    anchors = [row.values[columns["anchor"]].strip() for row in rows]
    texts = [row.values[columns["positive"]].strip() for row in rows]
    for row, *both in zip(rows, anchors, texts, strict=True):
        if not all(both):
            name = columns["anchor" if not both[0] else "positive"]
            raise ValueError(f"{row.where()}: the field {name!r} is empty; mend it")
    documents = [*dict.fromkeys(texts)]
    place = {text: k for k, text in enumerate(documents)}
    belonging: dict[str, set[int]] = {}
    for anchor, text in zip(anchors, texts, strict=True):
        belonging.setdefault(anchor, {place.get(anchor, -1)}).add(place[text])
    docs_ND = vectors(source, "passage", documents)
    queries_QD = vectors(source, "query", anchors[start:])
    chosen = mining.mine(
        queries_QD,
        docs_ND,
        [place[text] for text in texts[start:]],
        [frozenset(belonging[anchor]) for anchor in anchors[start:]],
        choice,
        start,
    )
    for places in chosen:
        yield [documents[k] for k in places]


def vectors(source: predict.Source, role: str, texts: list[str]) -> np.ndarray:
    """The vectors of texts, float32 [n, D] of length 1."""
    task = source.task.answering(role)
    batch_size = predict.BATCH_SIZE.value
    predictor = Predictor(source.config, task, source.params, batch_size)
    rows = (Row({"text": text}, f"text {k}".__str__) for k, text in enumerate(texts))
    made = [
        np.array([a["vector"] for a in predictor(part, {"text": "text"})], np.float32)
        for part in chunks(rows, 0)
    ]
    x_nD = np.concatenate([np.zeros((0, source.config.model.d_model)), *made])
    norm = np.maximum(np.linalg.norm(x_nD, axis=1, keepdims=True), 1e-12)
    return np.asarray(x_nD / norm, np.float32)


def row_of(row: Row, columns: Mapping[str, str], negatives: list[str]) -> Any:
    """A row of the output."""
    names = dict.fromkeys([*columns.values(), *predict.KEEP.value])
    if "negatives" in names:
        raise ValueError(
            "--keep=negatives is a column that the output has of its own; rename it in "
            "the input"
        )
    there = {name: as_written(row.values[name], True) for name in names}
    return {**there, "negatives": negatives}


def describe(result: Mapping[str, Any]) -> str:
    """The result in words."""
    rows = {
        "run": result["run"],
        "rows": f"{result['rows']:,} of {result['input']}",
        "negatives": f"{result['negatives']:,}",
        "written to": result["output"],
    }
    if result["short"]:
        rows["fewer"] = f"{wording.count(result['short'], 'row')}: none is left"
    return wording.table(rows)


if __name__ == "__main__":
    cli.launch(main, ("run", "input", "output"), describe)
