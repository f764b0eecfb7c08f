"""The base of tasks that write: what a model is asked, and what its texts score."""

import abc
import dataclasses
import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from llmjax.data.batches.pipeline import Source
from llmjax.data.store.corpus import Corpus
from llmjax.tasks.objectives.language import LanguageObjective
from llmjax.tasks.supervised import metrics
from llmjax.tasks.task import Predictions

MOST = 80.0  # nats whose exponential is still a number


class Asked(NamedTuple):
    """What a model is to go on with.

    Attributes:
      prompt: ids of the decoder, int32 [n].
      encoder: ids of the encoder, int32 [m]; None: it has none.
      cut: whether there was more to be read.
    """

    prompt: np.ndarray
    encoder: np.ndarray | None = None
    cut: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Sequences:
    """A source of examples, of rows in memory or read on demand.

    Attributes:
      lengths: int64 [len], places of a row that an example takes.
      read: index -> example; picklable.
      cut: how many are longer than a row.
    """

    lengths: np.ndarray
    read: Any
    cut: int = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        return self.read(index % len(self))


@dataclasses.dataclass(frozen=True, eq=False)
class WritingTask(LanguageObjective):
    """A task whose models write texts; a loss on what is to be written alone.

    Its config has `decoding` and `metrics`. Metrics per token: `loss` in nats,
    `accuracy`, and in an evaluation `perplexity`; of the texts that an evaluation
    writes those of `metrics`.
    """

    architectures: ClassVar[tuple[str, ...]] = ("decoder", "encoder_decoder")
    packings = ("first_fit", "pad")
    answer_columns: ClassVar[tuple[str, ...]] = ("prediction", "score")
    writes = True
    usual_inputs: ClassVar[tuple[str, ...]] = ()  # names of columns that are asked

    def source(self, corpus: Corpus, split: str) -> Source:
        """The examples of a split.

        Raises:
          ValueError: as `documents`, or the library of a metric is absent.
        """
        metrics.check(self.config.metrics)
        return super().source(corpus, split)

    def derived(self, means: Mapping[str, float]) -> dict[str, float]:
        """The perplexity of what is to be written."""
        return {"perplexity": math.exp(min(means["loss"], MOST))}

    # --- what is written -------------------------------------------------------------

    @abc.abstractmethod
    def asked(self, example: Mapping[str, Any]) -> Asked:
        """The part of an example that a model goes on with."""

    @abc.abstractmethod
    def reference(self, example: Mapping[str, Any]) -> str:
        """The text that it is to write there."""

    @abc.abstractmethod
    def asked_of(self, row: Mapping[str, Any]) -> Asked:
        """What a row of a file asks, by `inputs`.

        Raises:
          ValueError: it asks nothing.
        """

    @property
    @abc.abstractmethod
    def stop_tokens(self) -> tuple[int, ...]:
        """Ids that end an answer."""

    def text(self, ids: np.ndarray) -> str:
        """The text of tokens, without special ones and white space at its ends."""
        vocabulary: Any = self.vocabulary
        return str(vocabulary.decode(ids)).strip()

    def report(
        self, predictions: Iterable[Predictions], sources: Sequence[Source] = ()
    ) -> dict[str, Any]:
        """The metrics of texts, in `values`, against their references."""
        starts = [0, *itertools.accumulate(map(len, sources))]
        texts: list[str] = []
        references: list[str] = []
        for part in predictions:
            for index, text in zip(part.ids.tolist(), part.values, strict=True):
                k = int(np.searchsorted(starts, index, "right")) - 1
                example = sources[k][index - starts[k]]
                texts.append(text)
                references.append(self.reference(example))
        return metrics.report(self.config.metrics, texts, references)

    def describe(self, report: Mapping[str, Any]) -> str:
        """A line for each metric."""
        return metrics.describe(dict(report))

    def input_columns(self, there: Collection[str]) -> dict[str, str]:
        """The column that the run learned from, or one with a usual name."""
        (name,) = self.inputs
        field = str(getattr(self.config, f"{name}_field"))
        own = [f.columns[0] for f in self.run.data.prepare.fields if f.name == field]
        usual = [*own, name, *self.usual_inputs]
        return {name: next((c for c in usual if c in there), usual[0])}

    def counted(self, answer: Mapping[str, Any]) -> list[str]:
        """Whether anything was written."""
        return ["a text" if answer["prediction"] else "nothing"]


def shifted(ids: np.ndarray, is_answer: np.ndarray) -> dict[str, np.ndarray]:
    """The row of a decoder that predicts its answers: `tokens`, one step ahead
    `targets`, and `weights`, 1 for those of answers."""
    return {
        "tokens": ids[:-1].astype(np.int32),
        "targets": ids[1:].astype(np.int32),
        "weights": is_answer[1:].astype(np.int32),
    }
