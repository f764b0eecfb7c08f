"""The form that the hub has for the model of a run."""

from typing import Any

from llmjax.hub import families
from llmjax.hub.save import check_head, classification, find_family
from llmjax.models.heads.language import LanguageModel
from llmjax.models.heads.multi_token import PredictionHeads
from llmjax.models.heads.pairs import PairModel
from llmjax.models.heads.replaced_tokens import Discriminator, ReplacedTokenDetector


def heads() -> set[str]:
    """The classes of models that some family of the hub has."""
    every = map(families.family, families.MODULES)
    return {head for family in every for head in family.architectures.values()}


def form(model: Any) -> Any:
    """The part of a model that the hub may have a form for; see `heads`.

    Of several prediction heads the first, of a model of sentence pairs the masked
    language model, of a detector of replaced tokens the discriminator.
    """
    if isinstance(model, PredictionHeads | PairModel):
        return LanguageModel(model.cfg, model.layout)
    if isinstance(model, ReplacedTokenDetector):
        return Discriminator(model.cfg, model.layout)
    return model


def exportable(model: Any) -> bool:
    """Whether a family of the hub can express a model."""
    part = form(model)
    try:
        check_head(part)
        find_family(part.cfg, type(part).__name__, classification=classification(part))
    except ValueError:
        return False
    return True
