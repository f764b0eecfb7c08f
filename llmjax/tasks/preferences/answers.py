"""The base of tasks whose rows are a prompt and an answer, from fields of records."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import jax
import numpy as np

from llmjax.data.batches.pipeline import Pipeline, Source
from llmjax.data.prepare import labelled as columns
from llmjax.data.store.corpus import Corpus
from llmjax.models.heads.language import Outputs
from llmjax.tasks.losses import blocked_token_losses
from llmjax.tasks.preferences import talks
from llmjax.tasks.preferences.rows import BOTH, Listed, Rows, Split
from llmjax.tasks.task import Batch, Objective


@dataclasses.dataclass(frozen=True, eq=False)
class AnswerTask(Objective):
    """A task whose rows are a prompt and an answer.

    Its config has `prompt_field`, `chosen_field` and `rejected_field`.
    """

    packings = ("pad",)
    reads_loss = False
    inputs: ClassVar[tuple[str, ...]] = ("prompt", "completion")
    reads_words = True  # a list, of messages

    @property
    def pair_fields(self) -> dict[str, str]:
        """Field of the records of each text of a pair."""
        names = ("prompt", *BOTH)
        return {name: getattr(self.config, f"{name}_field") for name in names}

    def check(self) -> None:
        """Raises ValueError for rows without room."""
        if self.text_length < 2:
            raise ValueError(
                f"data.seq_len={self.run.data.seq_len} leaves no room for a prompt "
                "and an answer; raise it"
            )

    def split(self, corpus: Corpus, split: str) -> Split:
        """The records of a split, and what fits into a row."""
        return Split(corpus, split, self.text_length)

    @property
    def around(self) -> int:
        """By how much a conversation is longer than the text whose row is as long."""
        return self.length(0) + 1  # a row lacks the last token

    @property
    def longest_prompt(self) -> int:
        """Tokens of the longest conversation behind which an answer begins."""
        return self.run.data.seq_len

    @property
    def talks(self) -> bool:
        """Whether the run learns from conversations."""
        fields = {f.name: f.type for f in self.run.data.prepare.fields}
        return talks.are_messages(fields, self.pair_fields)

    def pairs(self, corpus: Corpus, split: str, numbers: Mapping[str, str]) -> Rows:
        """A row for each pair of a split, of texts or of conversations.

        Args:
          corpus, split: of the records.
          numbers: name in the example -> field of the records.
        """
        names = self.pair_fields
        if talks.are_messages(corpus.schema.fields, names):
            sides = {side: names[side] for side in BOTH} | dict(numbers)
            return talks.pairs(
                corpus.records(split),
                sides,
                f"the split {split!r}",
                room=self.text_length,
                around=self.around,
                longest=self.longest_prompt,
            )
        return self.split(corpus, split).pairs(names | dict(numbers))

    def examples(self, documents: Rows) -> Source:
        return documents

    def listed(self, examples: Sequence[Mapping[str, Any]], length: int) -> Rows:
        """Examples in memory, all taken to have so many tokens."""
        lengths = np.full(len(examples), length, np.int64)
        return Rows(lengths, Listed(examples))

    def full_batch(self, source: Source, count: int) -> dict[str, np.ndarray]:
        """A batch of so many rows, at the end of a ramp of batch sizes."""
        fixed: dict[str, Any] = {"batch_sizes": (), "seq_lens": (), "mixture": ()}
        data = dataclasses.replace(self.run.data, batch_size=count, **fixed)
        return Pipeline(source, self.features, data, self.length).batch(0)

    def random_texts(self, count: int) -> list[np.ndarray]:
        """Texts of half a row."""
        rng, n = np.random.default_rng(0), self.text_length // 2
        ids = rng.integers(3, self.vocabulary.vocab_size, (count, n))
        return list(ids.astype(np.int32))

    def token_likelihoods(self, outputs: Outputs, batch: Batch) -> jax.Array:
        """The log-likelihood of each target of a batch in nats, float32 [B, T].

        Args:
          outputs: of a language model.
          batch: its rows.
        """
        factors = outputs.x_BTM, outputs.table_VM, outputs.bias_V
        block, targets_BT = self.run.layout.loss_block, batch["targets"]
        return -blocked_token_losses(*factors, targets_BT, block, outputs.softcap)

    # --- rows that are asked ---------------------------------------------------------

    def input_columns(self, there: Collection[str]) -> dict[str, str]:
        """The columns that the run learned from, or others of usual names."""
        own = {f.name: f.column or f.name for f in self.run.data.prepare.fields}
        names = {
            "prompt": (own.get(self.config.prompt_field, ""), *columns.PROMPTS),
            "completion": columns.COMPLETIONS,
        }
        return {
            name: next((column for column in usual if column in there), name)
            for name, usual in names.items()
        }

    def questions(self, rows: Sequence[Mapping[str, Any]]) -> Any:
        """Rows, each with a `prompt` and a `completion`: texts; messages too, of a run
        that learned from conversations.

        Raises:
          ValueError: a prompt leaves no room for its answer.
        """
        vocabulary: Any = self.vocabulary
        room = self.longest_prompt if self.talks else self.text_length
        fields = {f.name: f.type for f in self.run.data.prepare.fields}
        kind: Any = fields.get(self.config.chosen_field)
        examples: list[dict[str, Any]] = []
        for number, row in enumerate(rows):
            values = [row[name] for name in self.inputs]
            whole = {talks.WHOLE: True} if self.talks else {}
            if self.talks:
                prompt, completion = talks.asked(vocabulary, kind, *values)
            elif all(isinstance(value, str) for value in values):
                prompt, completion = map(vocabulary.encode, values)
            else:
                raise ValueError(
                    f"row {number} of these has a list in {' or '.join(self.inputs)}, "
                    "and the run learned from texts; give texts"
                )
            if len(prompt) > room:
                raise ValueError(
                    f"a prompt of {len(prompt)} tokens ({str(values[0])[:40]!r}…) "
                    f"fills a row of {self.run.data.seq_len}, so that nothing of its "
                    "answer is read; raise --max_length, or take it out"
                )
            examples.append({"prompt": prompt, "completion": completion} | whole)
        less = self.around if self.talks else 0
        lengths = [len(e["prompt"]) + len(e["completion"]) - less for e in examples]
        room = self.text_length
        return Rows.fitted(np.array(lengths, np.int64), Listed(examples), room)
