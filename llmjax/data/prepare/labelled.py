"""The columns of labelled texts, where a config leaves them to the files."""

import dataclasses
import sys
from collections.abc import Sequence

from llmjax.config import DataConfig, PrepareConfig
from llmjax.data.files import columns, finding
from llmjax.data.prepare.prepare import is_local

# usual names of columns, in any case
LABELS = ("label", "labels", "class", "category", "target", "sentiment")
TEXTS = ("text", "sentence", "content", "review", "document", "body", "comment")
# of a dataset's rows, and neither text nor class
_OTHERS = ("id", "idx", "index", "split", "")


def with_columns(data: DataConfig, *, said: bool = True) -> DataConfig:
    """`data` with the columns of its texts and labels, read off a local source.

    Columns that the config names stay; what is chosen is said on standard error.

    Args:
      data: of one source.
      said: whether to say it.

    Raises:
      ValueError: no column, or several, could be it; with the columns that are there.
    """
    prepare = data.prepare
    if data.mixture or prepare.fields or prepare.label or not is_local(data.source):
        return data
    if not finding.exists(data.source):
        return data
    there = columns.names(finding.find(data.source))
    if not there:
        return data
    label = _only(there, LABELS, data, "label")
    text = prepare.text
    if text not in there and text == PrepareConfig().text:
        rest = [c for c in there if c != label and c.lower() not in _OTHERS]
        text = rest[0] if len(rest) == 1 else _only(there, TEXTS, data, "text")
    if said:
        print(
            f"data.source={data.source!r}: texts are in the column {text!r}, their "
            f"classes in {label!r}",
            file=sys.stderr,
        )
    prepare = dataclasses.replace(prepare, text=text, label=label)
    return dataclasses.replace(data, prepare=prepare)


def _only(
    there: Sequence[str], usual: Sequence[str], data: DataConfig, field: str
) -> str:
    """The one column with a usual name."""
    likely = [column for column in there if column.lower() in usual]
    if len(likely) == 1:
        return likely[0]
    reason = (
        f"several of them could be it: {', '.join(map(repr, likely))}"
        if likely
        else f"none is called {', '.join(usual[:4])} or the like"
    )
    what = "classes" if field == "label" else "texts"
    raise ValueError(
        f"data.source={data.source!r} has the columns {', '.join(map(repr, there))}; "
        f"name that of the {what} in data.prepare.{field} ({reason})"
    )
