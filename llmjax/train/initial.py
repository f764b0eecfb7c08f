"""A config completed by the weights that its run starts from, and by its data.

`init.path` brings the architecture, the tokenizer and the special tokens; the classes
of a task are those of the data. A run's own config says all of it.
"""

import dataclasses

from llmjax.config import (
    BPE,
    Bytes,
    Checkpoint,
    RunConfig,
    SequenceClassification,
    TokenizerFile,
)
from llmjax.data.prepare import prepare
from llmjax.data.tokenizers import comparison
from llmjax.data.tokenizers import tokenizer as tokenizer_lib
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.tasks.registry import TASKS
from llmjax.tasks.task import Task
from llmjax.train import architecture
from llmjax.train.checkpoints import weights as weights_lib
from llmjax.train.checkpoints.weights import Weights


def complete(config: RunConfig, *, corpus: bool = True) -> RunConfig:
    """`config` with all that its weights and its data say; complete ones stay the same.

    Args:
      config: of a run; with `init.kind` "checkpoint" its model, its tokenizer and its
        special tokens become those at `init.path`.
      corpus: read the names of classes off the corpus of `config.data`, if prepared.

    Raises:
      ValueError: a field, or a tokenizer, that does not belong to the weights; it names
        the key.
    """
    weights: Weights | None = None
    if isinstance(config.init, Checkpoint):
        init = config.init
        weights = weights_lib.describe(init)
        config = _with_tokenizer(config, weights)
        if init.architecture == "checkpoint":
            config = _with_model(config, weights)
    return _with_labels(config, weights, corpus)


def check_tokenizer(config: RunConfig, task: Task) -> None:
    """Raises ValueError for a task with another tokenizer than the weights at
    `init.path`."""
    init, vocabulary = config.init, getattr(task, "vocabulary", None)
    if not isinstance(init, Checkpoint) or not isinstance(vocabulary, Tokenizer):
        return
    theirs = weights_lib.describe(init).tokenizer
    if theirs is not None and not comparison.agree(theirs, vocabulary, grown=True):
        raise ValueError(
            f"the tokenizer of the data is not that of the weights at init.path="
            f"{init.path!r}: {comparison.difference(theirs, vocabulary)}; prepare the "
            "data again with this config, which takes the weights' own"
        )


def _with_model(config: RunConfig, weights: Weights) -> RunConfig:
    model = architecture.merged(config.model, weights.model, weights.path)
    tokenizer = weights.tokenizer
    if tokenizer is not None and model.vocab_size == weights.model.vocab_size:
        ids = [tokenizer.special_id(s) for s in TASKS[type(config.task)].specials]
        needed = max([0, *(i + 1 for i in ids)])
        if needed > model.vocab_size:  # the task brings special tokens of its own
            model = dataclasses.replace(model, vocab_size=-(-needed // 128) * 128)
    return dataclasses.replace(config, model=model)


def _with_tokenizer(config: RunConfig, weights: Weights) -> RunConfig:
    own, theirs = config.data.tokenizer, weights.tokenizer
    if theirs is None:
        return config
    if isinstance(own, TokenizerFile | Bytes):
        chosen = tokenizer_lib.make(own, ())
        if comparison.agree(theirs, chosen, grown=True):
            return config
        difference = comparison.difference(theirs, chosen)
    elif own in (BPE(), weights.learned):
        file = weights.tokenizer_file(config.data.directory)
        data = dataclasses.replace(config.data, tokenizer=file)
        return dataclasses.replace(config, data=data)
    else:
        difference = "it would be learned from the data"
    raise ValueError(
        f"config key 'data.tokenizer' is of kind {own.kind!r} and not the tokenizer of "
        f"the weights at init.path={weights.path!r} ({difference}); leave it out"
    )


def _with_labels(config: RunConfig, weights: Weights | None, corpus: bool) -> RunConfig:
    task = config.task
    if not isinstance(task, SequenceClassification) or task.labels:
        return config
    theirs = () if weights is None else weights.labels
    names: tuple[str, ...] = theirs
    if corpus:
        try:
            corpora = prepare.open_corpora(config.data)
        except FileNotFoundError:  # not prepared: not known yet
            return config
        own = dict.fromkeys(name for _, part in corpora for name in part.class_names)
        names = theirs if theirs and own.keys() <= set(theirs) else tuple(own)
    if not names or task.num_labels not in (None, len(names)):
        return config
    return dataclasses.replace(config, task=dataclasses.replace(task, labels=names))
