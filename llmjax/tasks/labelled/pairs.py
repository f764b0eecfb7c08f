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

    def length(self, num_tokens: int) -> int:
        return num_tokens + specials_of(self)

    def check(self) -> None:
        """Raises ValueError for token types that the model has not, or no room."""
        check_pairs(self)

    def field(self, name: str) -> str:
        """The records' field of one of `kinds`, by the config."""
        return str(getattr(self.config, f"{name}_field"))

    def require_fields(self, corpus: Corpus) -> None:
        """Raises ValueError for a corpus without one of the fields."""
        kinds = {self.field(name): (kind,) for name, kind in self.kinds.items()}
        names = {self.field(name): name for name in self.kinds}
        require_kinds(corpus, kinds, names)

    def full_batch(self, source: Source, rows: int) -> dict[str, np.ndarray]:
        """See `full_batch`."""
        return full_batch(self, source, rows)

    def input_columns(self, there: Collection[str]) -> dict[str, str]:
        """The columns that the run learned from, where they are there."""
        fields = {name: self.field(name) for name in self.inputs}
        return learned_columns(self, fields, there)


def specials_of(task: Objective) -> int:
    """Special tokens around a pair of texts."""
    none = np.zeros(0, np.int32)
    return len(task.vocabulary.pair_with_specials(none, none)[0])


def check_pairs(task: Objective) -> None:
    """Raises ValueError for token types that the model has not, or no room."""
    a, run = np.zeros(1, np.int32), task.run
    types = int(task.vocabulary.pair_with_specials(a, a)[1].max()) + 1
    if 0 < run.model.token_types < types:
        raise ValueError(
            f"the tokenizer tells the texts of a pair apart by {types} token "
            f"types, and model.token_types={run.model.token_types}; set it to "
            f"{types}"
        )
    if task.text_length < 2:
        raise ValueError(
            f"data.seq_len={run.data.seq_len} leaves no room for two texts "
            f"beside {specials_of(task)} special tokens; raise it"
        )


def require_kinds(
    corpus: Corpus, kinds: Mapping[str, tuple[Any, ...]], names: Mapping[str, str]
) -> None:
    """Raises ValueError for a corpus whose records lack a field.

    Args:
      corpus: of records.
      kinds: field -> the types that it may have.
      names: field -> the key of the config, without "_field", that names it.
    """
    fields = corpus.schema.fields
    for field, accepted in kinds.items():
        if not isinstance(fields.get(field), accepted):
            there = ", ".join(f"{k} ({t.kind})" for k, t in fields.items())
            words = " or ".join(repr(kind.kind) for kind in accepted)
            raise ValueError(
                f"the corpus {corpus.manifest['corpus']} has no field "
                f"{field!r} of kind {words}; it has {there}: set "
                f"task.{names[field]}_field, or data.prepare.fields"
            )


def learned_columns(
    task: Objective, fields: Mapping[str, str], there: Collection[str]
) -> dict[str, str]:
    """The column of each text in a file of rows that are asked.

    Args:
      task: of a run.
      fields: name of the text -> field that it is learned from, whose column is taken
        where it is there.
      there: the columns of the file.
    """
    own = {f.name: f.columns[0] for f in task.run.data.prepare.fields}
    learned = {name: own.get(field, field) for name, field in fields.items()}
    return {k: column if column in there else k for k, column in learned.items()}


def full_batch(task: Objective, source: Source, rows: int) -> dict[str, np.ndarray]:
    """A batch of so many rows, at the end of ramps of batch sizes and lengths."""
    fixed: dict[str, Any] = {"batch_sizes": (), "seq_lens": (), "mixture": ()}
    data = dataclasses.replace(task.run.data, batch_size=rows, **fixed)
    pipeline = Pipeline(
        source, task.features, data, task.length, declared=task.declared
    )
    return pipeline.batch(0)


def longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """Tokens that are kept of two texts: the longer one loses tokens before the other.

    As transformers' `truncation="longest_first"`; of texts that are cut to one length,
    the one that was longer keeps a token more, or else the second.
    """
    short, long = sorted((first, second))
    if short + long > room:
        short = min(short, room // 2)
        long = room - short
    return (long, short) if first > second else (short, long)
