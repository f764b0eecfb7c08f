"""Heads for classes of texts and of tokens that several families have, and their last
projection."""

from typing import Any

from llmjax.config import ClassifierHead, LinearHead
from llmjax.hub.families.entries import linear
from llmjax.hub.table import Classification, Classifier, Entry

CLASS, TAGS = "SequenceClassifier", "TokenClassifier"


def fixed(pooling: Any, form: ClassifierHead) -> Classifier:
    """The one way of a family, whatever its config.json says."""
    own = Classification(pooling, form)

    def to_hf(classification: Classification) -> dict[str, Any]:
        refuse_others(classification, own)
        return {}

    return Classifier(lambda hf: own, to_hf)


def refuse_others(classification: Classification, *own: Classification) -> None:
    """Raises ValueError for a way to classes that is none of the family's own."""
    if classification not in own:
        if classification.pooling == "none":  # of tokens
            raise ValueError(
                f"task.head is {classification.form}; this family has "
                + " or ".join(str(c.form) for c in own)
            )
        raise ValueError(
            f"task.pooling is {classification.pooling!r} and task.head "
            f"{classification.form}; this family has "
            + " or ".join(f"{c.pooling!r} and {c.form}" for c in own)
        )


SCORE = fixed("last", LinearHead(bias=False))
SCORES = Entry("score.weight", "classifier/kernel", "C D -> D C")


TOKENS = fixed("none", LinearHead())
TAG_SCORES = linear("score", "tagger")
TAGGER = linear("classifier", "tagger")


def tags(name: str) -> dict[str, str]:
    """The architecture of a classifier of tokens, `name`ForTokenClassification."""
    return {f"{name}ForTokenClassification": TAGS}


def score(name: str) -> dict[str, str]:
    """The architecture of a decoder's classifier, `name`ForSequenceClassification."""
    return {f"{name}ForSequenceClassification": CLASS}
