"""A run's task and an example batch for it, made of random text instead of a corpus."""

import dataclasses
from typing import Any

import numpy as np

from llmjax.config import RunConfig, SequenceClassification
from llmjax.data.batches.pipeline import Part, Pipeline
from llmjax.data.store.tokens import from_documents
from llmjax.data.tokenizers.vocabulary import SPECIALS, PlainVocabulary
from llmjax.tasks.registry import make_task
from llmjax.tasks.task import Task
from llmjax.train.setup import HostBatch


def example(config: RunConfig) -> tuple[Task, HostBatch]:
    """The task, and one row of random text from the run's own pipeline.

    Of a ramp of batch sizes or lengths, the last stage is planned.

    Raises:
      ValueError: see `make_task`.
    """
    ends: dict[str, Any] = {"batch_sizes": (), "seq_lens": (), "mixture": ()}
    data = dataclasses.replace(config.data, **ends)
    config = dataclasses.replace(config, data=data)
    room = max(16, config.model.vocab_size - len(SPECIALS))
    vocabulary = PlainVocabulary(min(room, config.model.vocab_size))
    task = make_task(config, vocabulary)
    rng = np.random.default_rng(0)
    length = 2 * max(data.seq_len, data.encoder_seq_len or 0)
    texts = [rng.integers(3, vocabulary.vocab_size, length) for _ in range(4)]
    of = config.task
    classes = of.num_labels if isinstance(of, SequenceClassification) else 1
    labels = [i % classes for i in range(len(texts))]
    documents = from_documents(texts, labels, vocabulary.token_bytes)
    part = Part("a random text", task.source(documents), task.features, task.length)
    pipeline = Pipeline.of([part], data)
    return task, pipeline.batch(0, 0, data.batch_size)
