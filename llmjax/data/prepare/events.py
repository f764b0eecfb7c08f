"""The columns of events, by the names that they usually have."""

import dataclasses
import sys

from llmjax.config import (
    DataConfig,
    FieldType,
    Items,
    Label,
    Number,
    RecordField,
    TokenizerFile,
)
from llmjax.data.prepare.labelled import columns_of
from llmjax.data.prepare.pairs import only

USERS = ("user", "user_id", "userid", "customer", "customer_id", "session_id")
ITEMS = ("item", "item_id", "itemid", "movie_id", "movieid", "product_id", "asin")
TIMES = ("time", "timestamp", "ts", "unixreviewtime")


def with_events(
    data: DataConfig, user: str, item: str, time: str, *, said: bool = True
) -> DataConfig:
    """`data` with fields for who had what and when, read off the source, none of its
    events held out, and a token for each item.

    Fields that the config names stay; what is chosen is said on standard error.

    Args:
      data: of one source.
      user, item, time: names of the fields.
      said: whether to say it.

    Raises:
      ValueError: no column, or several, could be it; with the columns that are there.
    """
    whole = dataclasses.replace(data.prepare, validation=0.0, test=0.0)
    data = dataclasses.replace(data, prepare=whole)
    if not isinstance(data.tokenizer, Items | TokenizerFile):
        data = dataclasses.replace(data, tokenizer=Items(item))
    if data.prepare.fields or not (there := columns_of(data)):
        return data
    files = f"data.source={data.source!r}"
    types: dict[str, tuple[tuple[str, ...], FieldType]] = {
        user: (USERS, Label()),
        item: (ITEMS, Label()),
        time: (TIMES, Number()),
    }
    own = {column.lower() for column in there}
    fields = []
    for name, (usual, kind) in types.items():
        names = (name.lower(),) if name.lower() in own else usual
        remedy = f"data.prepare.fields, as the field {name!r}"
        fields.append(RecordField(name, only(there, names, files, remedy), kind))
    if said:
        words = ", ".join(f"{f.name} in {f.column!r}" for f in fields)
        print(f"{files}: {words}", file=sys.stderr)
    prepare = dataclasses.replace(data.prepare, fields=tuple(fields))
    return dataclasses.replace(data, prepare=prepare)
