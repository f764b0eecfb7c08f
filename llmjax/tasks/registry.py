"""From a task's config to the task."""

from typing import Protocol, runtime_checkable

import numpy as np

from llmjax.config import CausalLM, RunConfig, SequenceClassification
from llmjax.tasks.causal_lm import CausalLMTask
from llmjax.tasks.classification import SequenceClassificationTask
from llmjax.tasks.task import Task


@runtime_checkable
class Vocabulary(Protocol):
    """What tasks ask of a tokenizer."""

    vocab_size: int
    bos_id: int
    eos_id: int
    token_bytes: np.ndarray


def make_task(config: RunConfig, vocabulary: Vocabulary) -> Task:
    """The task of a run, checked against its model and data.

    Raises:
      ValueError: a vocabulary, architecture or packing that does not fit the task.
    """
    task, model = config.task, config.model
    if model.vocab_size < vocabulary.vocab_size:
        raise ValueError(
            f"model.vocab_size={model.vocab_size} is less than the tokenizer's "
            f"{vocabulary.vocab_size}; set it to that, or to a multiple of 128 above"
        )
    if isinstance(task, CausalLM):
        if model.architecture != "decoder":
            raise ValueError(
                f"task 'causal_lm' needs model.architecture='decoder', "
                f"not {model.architecture!r}"
            )
        # rows of a padded vocabulary stand for no token and no bytes
        extra = model.vocab_size - len(vocabulary.token_bytes)
        token_bytes = np.pad(vocabulary.token_bytes, (0, max(0, extra)))
        return CausalLMTask(task, vocabulary.bos_id, vocabulary.eos_id, token_bytes)
    assert isinstance(task, SequenceClassification)
    if model.architecture == "encoder_decoder" or config.data.packing != "pad":
        raise ValueError(
            "task 'sequence_classification' needs data.packing='pad' and an encoder "
            f"or decoder; got {config.data.packing!r} and {model.architecture!r}"
        )
    return SequenceClassificationTask(task, vocabulary.bos_id)
