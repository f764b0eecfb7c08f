"""Classes of texts and tokens in config.json: their names, and the meaning of scores.

transformers counts classes by `id2label`; without it there are `num_labels`, or 2, and
they are named LABEL_0, LABEL_1, …
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from llmjax.config import LinearHead, NormedHead
from llmjax.hub.table import Classification, Family
from llmjax.models.heads.classifier import SINGLE, SequenceClassifier
from llmjax.models.heads.token import TokenClassifier

HEADS = (SequenceClassifier, TokenClassifier)
PROBLEMS = (SINGLE, "multi_label_classification", "regression")


@dataclasses.dataclass(frozen=True)
class Classes:
    """The classes of a model on disk.

    Attributes:
      classification: the way to their scores.
      labels: their names.
      problem: what the scores mean, one of `PROBLEMS`; None: there is one score, and
        nothing says it.
    """

    classification: Classification
    labels: tuple[str, ...]
    problem: str | None

    def model(self, cfg: Any, origin: Any) -> SequenceClassifier | TokenClassifier:
        """The module, without weights."""
        pooling, form = self.classification
        if pooling == "none":
            assert isinstance(form, LinearHead | NormedHead)
            return TokenClassifier(
                cfg, len(self.labels), form=form, labels=self.labels, origin=origin
            )
        return SequenceClassifier(
            cfg,
            len(self.labels),
            pooling,
            form=form,
            labels=self.labels,
            problem=self.problem,
            origin=origin,
        )


def read(family: Family, hf: dict[str, Any], head: str) -> Classes:
    """The classes of a config.json.

    Raises:
      ValueError: names that can't be, or a way to scores that we can't go.
    """
    way = family.way(head)
    assert way is not None
    labels = _labels(hf)
    if head == TokenClassifier.__name__:  # whatever problem_type says
        return Classes(way.to_ours(hf), labels, SINGLE)
    problem = hf.get("problem_type")
    if problem is None and len(labels) > 1:
        problem = SINGLE
    if problem not in (None, *PROBLEMS):
        raise ValueError(
            f"problem_type is {problem!r}; accepted: {', '.join(map(repr, PROBLEMS))}"
        )
    return Classes(way.to_ours(hf), labels, problem)


def _labels(hf: dict[str, Any]) -> tuple[str, ...]:
    named = hf.get("id2label")
    if named is None:
        count = hf.get("num_labels", 2)
        if type(count) is not int or not 0 < count <= 10**6:
            raise ValueError(f"num_labels is {count!r}; accepted: a number from 1 on")
        return unnamed(count)
    places = [str(i) for i in range(len(named))]
    if not named or not isinstance(named, dict) or {*map(str, named)} != {*places}:
        raise ValueError(
            f"id2label is {str(named)[:80]}; accepted: a name for each class from 0 on"
        )
    by_place = {str(place): str(name) for place, name in named.items()}
    return tuple(by_place[place] for place in places)


def unnamed(count: int) -> tuple[str, ...]:
    """The names of classes that have none, as transformers has them."""
    return tuple(f"LABEL_{i}" for i in range(count))


def keys(labels: Sequence[str], problem: str | None) -> dict[str, Any]:
    """The keys of config.json: the reverse of `read`.

    transformers trains one score without a `problem_type` as a number, and its pipeline
    reads it as the logit of a probability: such a model must say which it is.
    """
    unsaid = problem is None or (problem == SINGLE and len(labels) > 1)
    return names(labels) | ({} if unsaid else {"problem_type": problem})


def names(labels: Sequence[str]) -> dict[str, Any]:
    """The keys of config.json that name classes."""
    return {
        "id2label": {str(i): name for i, name in enumerate(labels)},
        "label2id": {name: i for i, name in enumerate(labels)},
    }
