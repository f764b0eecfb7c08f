"""Precision, recall and F1 of entities, as seqeval and conlleval count them.

An entity is right where its words and its type are. seqeval 1.2.2, whose numbers these
are (a test holds them against its own), is not a dependency: it is a source archive of
2020 that needs scikit-learn, and takes lists of all tags at once where sums are needed.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.tasks.labelled import crf
from llmjax.tasks.labelled.confusion import aligned
from llmjax.tasks.labelled.tags import TagSet


def counts(
    right_W: np.ndarray, predicted_W: np.ndarray, tags: TagSet
) -> dict[str, np.ndarray]:
    """Entities of each type that are right, predicted, and both; int64 [types].

    Args:
      right_W, predicted_W: tags of words, -1 between sentences.
      tags: the numbers' meaning.
    """
    right, predicted = tags.entities(right_W), tags.entities(predicted_W)
    both = {*map(tuple, right.tolist())} & {*map(tuple, predicted.tolist())}
    kinds = right[:, 2], predicted[:, 2], np.array([k for _, _, k in both], np.int64)
    sums = [np.bincount(k, None, len(tags.types)) for k in kinds]
    return dict(zip(("right", "predicted", "both"), sums, strict=True))


def report(sums: Mapping[str, np.ndarray], tags: TagSet) -> dict[str, Any]:
    """Precision, recall and F1 over all entities, their mean over types, and by type.

    The mean over types is seqeval's macro average; "support" counts right entities.
    """
    by_type = {
        name: _shares(*(int(sums[k][i]) for k in ("both", "predicted", "right")))
        for i, name in enumerate(tags.types)
        if sums["right"][i] or sums["predicted"][i]
    }
    total = _shares(*(int(sums[k].sum()) for k in ("both", "predicted", "right")))
    macro = float(np.mean([row["f1"] for row in by_type.values()])) if by_type else 0.0
    return {**total, "macro_f1": macro, "types": by_type}


def _shares(both: int, predicted: int, right: int) -> dict[str, Any]:
    return {
        "precision": both / max(predicted, 1),
        "recall": both / max(right, 1),
        "f1": 2 * both / max(predicted + right, 1),
        "support": right,
        "predicted": predicted,
    }


def table(report: Mapping[str, Any]) -> str:
    """A report as text: a row for each type, and one for all."""
    rows = [["", "precision", "recall", "f1", "right", "predicted"]]
    for name, row in [*report["types"].items(), ("all entities", report)]:
        shares = (f"{row[k]:.4f}" for k in ("precision", "recall", "f1"))
        rows.append([name, *shares, f"{row['support']:,}", f"{row['predicted']:,}"])
    return "\n".join(aligned(rows))


def matches(
    right_BT: jax.Array, predicted_BT: jax.Array, words: crf.Words, tags: TagSet
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Entities in rows that are both right and predicted, predicted, and right: three
    sums, of what `counts` counts."""
    kind_C = jnp.asarray(tags.type_C)
    begun, ends, kinds = [], [], []
    for tags_BT in (right_BT, predicted_BT):
        goes_on_BT = _goes_on(tags_BT, words, tags)
        kind_BT = kind_C[tags_BT]
        begun.append(words.here_BT & ~goes_on_BT & (kind_BT >= 0))
        breaks_BT = words.here_BT & ~goes_on_BT
        ends.append(_next(breaks_BT))
        kinds.append(kind_BT)
    same_BT = (ends[0] == ends[1]) & (kinds[0] == kinds[1])
    both_BT = begun[0] & begun[1] & same_BT
    return jnp.sum(both_BT), jnp.sum(begun[1]), jnp.sum(begun[0])


def _goes_on(tags_BT: jax.Array, words: crf.Words, tags: TagSet) -> jax.Array:
    """Whether an entity goes on from the word before."""
    previous_BT = crf.at(tags_BT, words.before_BT)
    table_CC = jnp.asarray(tags.continues_CC)
    return ~words.new_BT & table_CC[previous_BT, tags_BT]


def _next(breaks_BT: jax.Array) -> jax.Array:
    """The place of the next break behind each place; T: there is none."""
    T = breaks_BT.shape[1]
    place_BT = jnp.where(breaks_BT, jnp.arange(T), T)
    here_BT = jax.lax.cummin(place_BT, axis=1, reverse=True)
    return jnp.pad(here_BT, ((0, 0), (0, 1)), constant_values=T)[:, 1:]
