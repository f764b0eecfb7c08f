"""A run that takes a second: its config, its batches in memory, its program."""

import dataclasses
from typing import Any

import jax
import numpy as np

from llmjax.config import (
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    SequenceClassification,
    TrainConfig,
    WarmupCosine,
)
from llmjax.data.batches.pipeline import Pipeline
from llmjax.data.store.tokens import from_documents
from llmjax.data.tokenizers.vocabulary import PlainVocabulary
from llmjax.parallel.mesh import make_mesh
from llmjax.tasks.registry import make_task
from llmjax.train import setup

CONFIG = RunConfig(
    model=ModelConfig(vocab_size=64, d_model=16, d_ff=32, num_layers=2, num_heads=2),
    data=DataConfig(batch_size=8, seq_len=16, prefetch=0),
    optimizer=OptimizerConfig(
        learning_rate=1e-2, schedule=WarmupCosine(warmup_steps=2)
    ),
    train=TrainConfig(steps=10, log_every=1, eval_every=4, checkpoint_every=4),
)
# with dropout and averaged weights, which must resume too
NOISY = dataclasses.replace(
    CONFIG,
    model=dataclasses.replace(CONFIG.model, dropout=0.1),
    optimizer=dataclasses.replace(CONFIG.optimizer, ema=0.8),
)
LABELS = 3


@dataclasses.dataclass
class Vocabulary(PlainVocabulary):
    """The numbers of a tokenizer; tokens differ in bytes."""

    vocab_size: int = 64

    def __post_init__(self):
        self.token_bytes = np.arange(64, dtype=np.int32) % 3 + 1


def change(config: RunConfig, **parts: Any) -> RunConfig:
    """`config` with fields of its parts replaced: train={"steps": 3}."""
    changed = {
        name: dataclasses.replace(getattr(config, name), **fields)
        if isinstance(fields, dict)
        else fields
        for name, fields in parts.items()
    }
    return dataclasses.replace(config, **changed)


def classifier(config: RunConfig) -> RunConfig:
    return change(config, task=SequenceClassification(LABELS), data={"packing": "pad"})


def task(config: RunConfig):
    return make_task(config, Vocabulary())


def batches(config: RunConfig, documents: int = 60, seed: int = 0) -> Pipeline:
    """Documents of 3 to 30 tokens, each a count upwards from somewhere."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 31, documents)
    starts = rng.integers(3, 64, documents)
    texts = [(s + np.arange(n)) % 61 + 3 for s, n in zip(starts, lengths, strict=True)]
    labels = (starts % LABELS).tolist()
    source = from_documents(texts, labels, Vocabulary().token_bytes)
    bound = task(config)
    return Pipeline(source, bound.features, config.data, bound.length)


def program(config: RunConfig, devices: int = 1, **parts: Any) -> setup.Program:
    """Built over the first so many devices."""
    mesh = make_mesh(config.layout, jax.devices()[:devices])
    example = batches(config).batch(0)
    return setup.build(config, task(config), example, mesh=mesh, **parts)


class Interrupted:
    """Batches; before that of `step` is given, `act` is called."""

    def __init__(self, batches, step, act):
        self.batches, self.step, self.act = batches, step, act

    def batch(self, step, *process):
        return self.batches.batch(step, *process)

    def evaluation(self, *process):
        return self.batches.evaluation(*process)

    def prefetch(self, start, stop, *process):
        for step, rows in self.batches.prefetch(start, stop, *process):
            if step == self.step:
                self.act()
            yield step, rows


def assert_same_bits(one: Any, other: Any) -> None:
    """Of every leaf of two trees of one structure."""

    def check(path, a, b):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.dtype, a.shape) == (b.dtype, b.shape), path
        assert a.tobytes() == b.tobytes(), jax.tree_util.keystr(path)

    jax.tree_util.tree_map_with_path(check, one, other)


def untimed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of metrics without how long they took."""
    return [
        {k: v for k, v in r.items() if not k.endswith("tokens_per_second")}
        for r in rows
    ]
