"""Texts and lists of words whose tags are asked for, and the entities found in them.

A text is split into words at white space and around every sign that is neither letter
nor digit, as BERT's tokenizer does; a token belongs to the word of its first character,
and a sign within the token of another word to that word.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llmjax.data.batches.windows import Listed, Sentence, filled
from llmjax.data.store.records import word_ids_of
from llmjax.tasks.labelled.tags import TagSet

_WORD = re.compile(r"[^\W_]+|[^\w\s]|_")


@dataclasses.dataclass(frozen=True, eq=False)
class Asked(Listed):
    """Rows whose tags are asked for.

    Attributes:
      texts: of each; of words, with a space between them.
      spans: the characters [start, stop) of each one's words, int64 [words, 2].
      listed: whether each came as words.
    """

    texts: list[str]
    spans: list[np.ndarray]
    listed: list[bool]


def asked(values: Sequence[str | list[str]], vocabulary: Any, filler: int) -> Asked:
    """Texts or lists of words, encoded.

    Args:
      values: of rows.
      vocabulary: a `Tokenizer`.
      filler: token of a listed word that has no other.
    """
    out = Asked([], [], [], [])
    for value in values:
        text = value if isinstance(value, str) else " ".join(value)
        ids, offsets = vocabulary.encode_with_offsets(text)
        if isinstance(value, str):
            spans, word_ids = _split(text, offsets)
            ids = ids[: len(word_ids)]
        else:
            stops = np.cumsum([len(word) + 1 for word in value], dtype=np.int64) - 1
            starts = stops - [len(word) for word in value]
            spans = np.stack([starts, stops], axis=1).astype(np.int64)
            word_ids = word_ids_of(value, offsets)
            ids, word_ids = filled(ids, word_ids, len(value), filler)
        out.sentences.append(Sentence(ids, word_ids, np.zeros(len(spans), np.int32)))
        out.texts.append(text)
        out.spans.append(spans)
        out.listed.append(not isinstance(value, str))
    return out


def _split(text: str, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The words of a text that have a token, [start, stop) each, and each token's word.

    Tokens of no word, which are white space at the end, are left out.
    """
    found = [match.span() for match in _WORD.finditer(text)]
    spans = np.array(found, np.int64).reshape(-1, 2)
    pieces = (text[start:stop] for start, stop in offsets.tolist())
    blank = np.array([len(p) - len(p.lstrip()) for p in pieces], np.int64)
    places = offsets[:, 0] + blank
    word_ids = np.searchsorted(spans[:, 1], places, "right")
    word_ids = np.maximum.accumulate(word_ids)[word_ids < len(spans)]
    kept, numbers = np.unique(word_ids, return_inverse=True)
    # a word without a token ends the word whose token it is in
    stops = np.append(spans[:, 1], 0)[np.append(kept[1:], len(spans))[: len(kept)] - 1]
    own = np.stack([spans[kept, 0], stops], axis=1)
    return own, numbers.astype(np.int32)


def answer(
    text: str,
    spans: np.ndarray,
    tags_W: np.ndarray,
    scores_W: np.ndarray,
    tags: TagSet,
    listed: bool,
) -> dict[str, Any]:
    """The `entities` of a text, or its words `tagged` where tags mark none.

    An entity has its type, the characters [start, stop) of the text, these characters,
    and the mean of its words' scores. Words that came as a list have their `tags` too,
    and an entity its `words` [first, stop).

    Args:
      text, spans: see `Asked`.
      tags_W, scores_W: the tag of each word, and its probability.
      tags: the meaning of the tags' numbers.
      listed: whether the words came as a list.
    """
    names = [tags.names[k] for k in tags_W]
    if tags.plain:
        rows = zip(names, spans.tolist(), scores_W.tolist(), strict=True)
        words = [{"tag": n, **_place(text, a, b), "score": s} for n, (a, b), s in rows]
        return {"tagged": words, **({"tags": names} if listed else {})}
    found = []
    for first, last, kind in tags.entities(tags_W).tolist():
        place = _place(text, int(spans[first, 0]), int(spans[last - 1, 1]))
        score = float(scores_W[first:last].mean())
        where = {"words": [first, last]} if listed else {}
        found.append({"type": tags.types[kind], **place, **where, "score": score})
    return {"entities": found, **({"tags": names} if listed else {})}


def _place(text: str, start: int, stop: int) -> dict[str, Any]:
    return {"start": start, "stop": stop, "text": text[start:stop]}


def said(answer: Mapping[str, Any]) -> list[str]:
    """The types or tags that an answer has, to count them."""
    if "entities" in answer:
        return [entity["type"] for entity in answer["entities"]]
    return [word["tag"] for word in answer["tagged"]]
