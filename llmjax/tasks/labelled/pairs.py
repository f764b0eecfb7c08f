"""The base of tasks that read two texts in a row, from fields of records."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import numpy as np

from llmjax.data.batches.pipeline import Pipeline, Source
from llmjax.data.store.corpus import Corpus
from llmjax.tasks.task import Objective


@dataclasses.dataclass(frozen=True, eq=False)
class PairTask(Objective):
    """A task whose rows have two texts and the tokenizer's specials for a pair.

    For each of `inputs` its config says the field of the records: `context_field`.
    """

    packings = ("pad",)
    reads_loss = False  # a score of -1e9 stands for a class that is not there
    kinds: ClassVar[Mapping[str, Any]]  # field, without "_field" -> type of its values

    @property
    def _specials(self) -> int:
        none = np.zeros(0, np.int32)
        return len(self.vocabulary.pair_with_specials(none, none)[0])

    def length(self, num_tokens: int) -> int:
        return num_tokens + self._specials

    def check(self) -> None:
        """Raises ValueError for token types that the model has not, or no room."""
        a = np.zeros(1, np.int32)
        types = int(self.vocabulary.pair_with_specials(a, a)[1].max()) + 1
        if 0 < self.run.model.token_types < types:
            raise ValueError(
                f"the tokenizer tells the texts of a pair apart by {types} token "
                f"types, and model.token_types={self.run.model.token_types}; set it to "
                f"{types}"
            )
        if self.text_length < 2:
            raise ValueError(
                f"data.seq_len={self.run.data.seq_len} leaves no room for two texts "
                f"beside {self._specials} special tokens; raise it"
            )

    def field(self, name: str) -> str:
        """The records' field of one of `kinds`, by the config."""
        return str(getattr(self.config, f"{name}_field"))

    def require_fields(self, corpus: Corpus) -> None:
        """Raises ValueError for a corpus without one of the fields."""
        fields = corpus.schema.fields
        for name, kind in self.kinds.items():
            if not isinstance(fields.get(self.field(name)), kind):
                there = ", ".join(f"{k} ({t.kind})" for k, t in fields.items())
                raise ValueError(
                    f"the corpus {corpus.manifest['corpus']} has no field "
                    f"{self.field(name)!r} of kind {kind.kind!r}; it has {there}: set "
                    f"task.{name}_field, or data.prepare.fields"
                )

    def full_batch(self, source: Source, rows: int) -> dict[str, np.ndarray]:
        """A batch of so many rows, at the end of ramps of batch sizes and lengths."""
        fixed: dict[str, Any] = {"batch_sizes": (), "seq_lens": (), "mixture": ()}
        data = dataclasses.replace(self.run.data, batch_size=rows, **fixed)
        pipeline = Pipeline(
            source, self.features, data, self.length, declared=self.declared
        )
        return pipeline.batch(0)

    def input_columns(self, there: Collection[str]) -> dict[str, str]:
        """The columns that the run learned from, where they are there."""
        own = {f.name: f.column or f.name for f in self.run.data.prepare.fields}
        fields = {name: self.field(name) for name in self.inputs}
        learned = {name: own.get(field, field) for name, field in fields.items()}
        return {k: column if column in there else k for k, column in learned.items()}
