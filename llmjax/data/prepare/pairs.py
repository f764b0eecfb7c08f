"""The columns of texts that belong together, by the names that they usually have."""

import dataclasses
import json
import re
import sys
from collections.abc import Sequence
from typing import Any

from llmjax.config import DataConfig, Number, RecordField, Text, Texts
from llmjax.data.files import columns, finding, readers
from llmjax.data.files.slices import FileSlice
from llmjax.data.prepare.sources import features_of, is_local

# usual names of columns, in any case
ANCHORS = (
    *("anchor", "query", "question", "sentence1", "sentence_1", "sentence_a"),
    *("text1", "text_1", "premise"),
)
POSITIVES = (
    *("positive", "pos", "answer", "passage", "response", "document"),
    *("sentence2", "sentence_2", "sentence_b", "text2", "text_2", "hypothesis"),
)
SCORES = ("score", "similarity_score", "similarity", "label", "labels")
NEGATIVES = re.compile(r"(hard_)?neg(ative)?s?(_?\d+)?", re.IGNORECASE)


def with_pairs(
    data: DataConfig,
    anchor: str,
    positive: str,
    negatives: str,
    score: str | None,
    *,
    said: bool = True,
) -> DataConfig:
    """`data` with fields for anchors, positives, and negatives or scores.

    Columns that the config names stay; what is chosen is said on standard error.

    Args:
      data: of one source.
      anchor, positive: names of the fields.
      negatives: beginning of the names of fields of negatives.
      score: name of the field; None: pairs have none, but may have negatives.
      said: whether to say it.

    Raises:
      ValueError: no column, or several, could be it; with the columns that are there.
    """
    if data.mixture or data.prepare.fields:
        return data
    slices: Sequence[FileSlice] = ()
    if not is_local(data.source):
        there: Sequence[str] = features_of(data, data.source)
    elif finding.exists(data.source):
        listing = finding.find(data.source)
        there, slices = columns.names(listing), listing.slices
    else:
        return data
    if not there:
        return data
    files = f"data.source={data.source!r}"

    def column_of(name: str, usual: Sequence[str]) -> str:
        remedy = f"data.prepare.fields, as the field {name!r}"
        return only(there, (*usual, name), files, remedy)

    fields = [
        RecordField(anchor, column_of(anchor, ANCHORS)),
        RecordField(positive, column_of(positive, POSITIVES)),
    ]
    if score is not None:
        fields.append(RecordField(score, column_of(score, SCORES), Number()))
    else:
        named = [c for c in there if NEGATIVES.fullmatch(c)]
        listed = _lists(slices, named)
        for k, column in enumerate(named):
            name = negatives if len(named) == 1 else f"{negatives}_{k + 1}"
            kind = Texts() if column in listed else Text()
            fields.append(RecordField(name, column, kind))
    if said:
        words = ", ".join(f"{f.name} in {f.column!r}" for f in fields)
        print(f"data.source={data.source!r}: {words}", file=sys.stderr)
    prepare = dataclasses.replace(data.prepare, fields=tuple(fields))
    return dataclasses.replace(data, prepare=prepare)


def _lists(slices: Sequence[FileSlice], names: Sequence[str]) -> set[str]:
    """The columns whose first row has a list, also as JSON in a cell; of datasets
    those of plural names."""
    if not names:
        return set()
    if not slices:
        return {name for name in names if name.lower().endswith("s")}
    first: Any = next(iter(readers.rows(slices[0], dict.fromkeys(names, ""))), None)
    return {n for n in names if first is not None and _is_list(first.values[n])}


def _is_list(value: Any) -> bool:
    if not isinstance(value, str):
        return isinstance(value, list)
    try:
        return isinstance(json.loads(value), list)
    except ValueError:
        return False


def only(there: Sequence[str], usual: Sequence[str], files: str, remedy: str) -> str:
    """The one column with a usual name.

    Args:
      there: the columns.
      usual: names, in lower case.
      files: what has the columns, in words.
      remedy: where else the column can be named.

    Raises:
      ValueError: none, or several.
    """
    likely = [column for column in there if column.lower() in usual]
    if len(likely) == 1:
        return likely[0]
    reason = (
        f"several of them could be it: {', '.join(map(repr, likely))}"
        if likely
        else f"none is called {', '.join(usual[:4])} or the like"
    )
    raise ValueError(
        f"{files} has the columns {', '.join(map(repr, there))}; name it in {remedy} "
        f"({reason})"
    )
