"""The base of tasks with classes, and how what a config leaves unsaid is completed."""

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import flax.linen as nn

from llmjax.config import ClassifierHead
from llmjax.data.store.corpus import Corpus
from llmjax.tasks.task import Objective

# Pooling and form of `llmjax.models.heads`; a head of tokens pools "none".
Way = tuple[Literal["mean", "first", "last", "none"], ClassifierHead]


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledTask(Objective):
    """A task whose model has a score for each class.

    Its config has `labels`, `num_labels` and `head`; where they are not said, the run's
    weights and data say them. All class methods take such a config.

    Attributes:
      head: the module with a score for each class.
    """

    head: ClassVar[type[nn.Module]]

    @classmethod
    @abc.abstractmethod
    def classes(cls, task: Any, corpora: Sequence[Corpus]) -> tuple[str, ...]:
        """The names of the classes that a model of these corpora gives."""

    @classmethod
    @abc.abstractmethod
    def way(cls, task: Any) -> Way:
        """The way from hidden states to scores that the config says, or by default."""

    @classmethod
    @abc.abstractmethod
    def with_way(cls, task: Any, way: Way) -> Any:
        """The config with this way, unless it says one."""

    @classmethod
    def with_labels(cls, task: Any, names: tuple[str, ...]) -> Any:
        """The config with these names, unless it says some or another number."""
        if task.labels or not names or task.num_labels not in (None, len(names)):
            return task
        return dataclasses.replace(task, labels=names)

    @classmethod
    def with_counts(cls, task: Any, corpora: Sequence[Corpus], split: str) -> Any:
        """The config with what it counts in the split that is learned from."""
        return task

    @classmethod
    def as_before(cls, task: Any, before: Any) -> Any:
        """The config completed as that of a run that goes on."""
        return cls.with_labels(cls.with_way(task, cls.way(before)), before.labels)

    @classmethod
    def unseen(cls, task: Any, corpora: Sequence[Corpus], split: str) -> list[str]:
        """The classes that no example of a split is of, where that is known."""
        return []
