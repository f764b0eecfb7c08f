"""Conversations: instruction tuning and dialogue, with a loss on answers alone."""

import dataclasses
import functools
import sys
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from llmjax.config import Chat, DataConfig, Messages, wording
from llmjax.data.batches.pipeline import Pipeline, Source
from llmjax.data.prepare import written
from llmjax.data.store import conversations
from llmjax.data.store.corpus import Corpus
from llmjax.data.store.records import RecordSource
from llmjax.data.tokenizers.chats import answers, messages
from llmjax.tasks.supervised.writing import Asked, Sequences, WritingTask, shifted


@dataclasses.dataclass(frozen=True, eq=False)
class _Record:
    """The example of a sequence of a record; picklable."""

    records: RecordSource
    field: str
    owners: np.ndarray
    numbers: np.ndarray

    def __call__(self, index: int) -> dict[str, Any]:
        sequences = self.records[int(self.owners[index])][self.field]
        ids, is_answer = sequences[int(self.numbers[index])]
        return {"tokens": ids, "is_answer": is_answer}


@dataclasses.dataclass(frozen=True, eq=False)
class _Listed:
    """The example of a row of a table in memory."""

    ids: np.ndarray

    def __call__(self, index: int) -> dict[str, Any]:
        ids = self.ids[index]
        return {"tokens": ids, "is_answer": np.arange(len(ids)) >= len(ids) // 2}


@dataclasses.dataclass(frozen=True, eq=False)
class ChatTask(WritingTask):
    """Every token of an answer is predicted once, its end of turn too.

    A sequence begins with what the chat template begins with; the model reads all
    messages, as when it is asked. A conversation whose earlier answers the template
    rewrites has several sequences (`llmjax.data.tokenizers.chats.answers`), each an
    example. With packing "first_fit" whole sequences share rows.
    """

    architectures = ("decoder",)
    inputs = ("messages",)
    optional_inputs = ("tools",)
    reads_words = True  # a list, of messages
    usual_inputs = (*written.MESSAGES, *written.PROMPTS, "text")

    @classmethod
    def with_columns(cls, task: Chat, data: DataConfig, *, said: bool) -> DataConfig:
        return written.with_messages(data, task.messages_field, _kind(task), said=said)

    # --- examples --------------------------------------------------------------------

    def documents(self, corpus: Corpus, split: str) -> Sequences:
        """The sequences of a split that fit, or begin in, a row.

        Raises:
          ValueError: the corpus has no such records, they were prepared for other
            roles, or sequences have no answer within a row.
        """
        self._check_field(corpus)
        config, data = self.config, self.run.data
        records = corpus.records(split)
        index, room = records.sequences(config.messages_field), self.text_length
        long = index.sizes > room
        kept = np.ones(len(long), bool)
        if config.overlong == "drop" and long.any():
            kept = ~long
            print(
                f"split {split!r}: {wording.count(int(long.sum()), 'sequence')} of "
                f"{len(long):,} longer than data.seq_len={data.seq_len}: left out",
                file=sys.stderr,
            )
        unanswered = kept & (index.first >= room)
        if unanswered.any():
            first = int(index.owners[np.argmax(unanswered)])
            raise ValueError(
                f"{int(unanswered.sum()):,} of the {len(long):,} sequences of split "
                f"{split!r} have no answer within data.seq_len={data.seq_len}, the "
                f"first is of record {first}, whose first answer begins at token "
                f"{int(index.first[np.argmax(unanswered)])}; raise it, or leave out "
                "those longer than a row with task.overlong='drop'"
            )
        field = config.messages_field
        read = _Record(records, field, index.owners[kept], index.numbers[kept])
        lengths = np.minimum(index.sizes[kept], room)
        return Sequences(lengths, read, int((long & kept).sum()))

    def _check_field(self, corpus: Corpus) -> None:
        """Raises ValueError for a corpus without such messages, or of other roles."""
        config, fields = self.config, corpus.schema.fields
        kind = fields.get(config.messages_field)
        if not isinstance(kind, Messages):
            there = ", ".join(f"{k} ({t.kind})" for k, t in fields.items())
            raise ValueError(
                f"the corpus {corpus.manifest['corpus']} has no field "
                f"{config.messages_field!r} of kind 'messages'; it has {there}: set "
                "task.messages_field, or data.prepare.fields"
            )
        for name, value in dataclasses.asdict(_kind(config)).items():
            own = getattr(kind, name)
            if name not in ("answer", "tools") and own != value:
                raise ValueError(
                    f"task.{name} is {value!r} and the field {config.messages_field!r} "
                    f"of the records is prepared with {own!r}; say the same in "
                    "data.prepare.fields"
                )

    def examples(self, documents: Sequences) -> Source:
        return documents

    def features(
        self, example: Mapping[str, Any], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        room = self.text_length
        return shifted(example["tokens"][:room], example["is_answer"][:room])

    def length(self, num_tokens: int) -> int:
        return num_tokens - 1

    def example_batch(self, rows: int = 1) -> dict[str, np.ndarray]:
        n, rng = self.text_length, np.random.default_rng(0)
        ids = rng.integers(3, self.vocabulary.vocab_size, (rows + 1, n))
        source = Sequences(np.full(rows + 1, n), _Listed(ids))
        fixed: dict[str, Any] = {"batch_sizes": (), "seq_lens": (), "mixture": ()}
        data = dataclasses.replace(self.run.data, batch_size=rows, **fixed)
        return Pipeline(source, self.features, data, self.length).batch(0)

    # --- what is written -------------------------------------------------------------

    def input_columns(self, there: Collection[str]) -> dict[str, str]:
        """The columns of the conversations and, where there is one, of the tools."""
        columns = super().input_columns(there)
        types = (field.type for field in self.run.data.prepare.fields)
        own = [kind.tools for kind in types if isinstance(kind, Messages)]
        usual = (name for name in (*own, *written.TOOLS) if name in there)
        name = next(usual, None)
        return columns if name is None else columns | {"tools": name}

    def asked(self, example: Mapping[str, Any]) -> Asked:
        """All before the last answer."""
        return Asked(example["tokens"][: _last(example["is_answer"])[0]])

    def reference(self, example: Mapping[str, Any]) -> str:
        return self.text(example["tokens"][slice(*_last(example["is_answer"]))])

    def asked_of(self, row: Mapping[str, Any]) -> Asked:
        vocabulary: Any = self.vocabulary
        talk = messages.of(messages.from_cell(row["messages"]))
        tools = messages.from_cell(row.get("tools") or None)
        if not isinstance(tools, list | None):
            raise ValueError(
                f"tools is {type(tools).__name__}; accepted: a list of functions' JSON "
                "schemas, or null"
            )
        while talk and talk[-1]["role"] in self.config.roles:
            talk.pop()  # of a row that is learned from: its answer is asked for
        if not talk:
            raise ValueError("there is no message to answer; take the row out")
        kind = _kind(self.config)
        return Asked(conversations.prompted(vocabulary, kind, talk, tools or None))

    @functools.cached_property
    def stop_tokens(self) -> tuple[int, ...]:
        """The end of a text, and the tokens that the template puts behind an answer."""
        vocabulary: Any = self.vocabulary
        said = "word"
        talk = [
            {"role": "user", "content": said},
            {"role": "assistant", "content": said},
        ]
        kind = _kind(self.config)
        options = conversations.options(kind, None)
        ids, is_answer = answers.mark(vocabulary, talk, last=True, **options)
        added = {*vocabulary.added_tokens.values()}
        behind = [int(i) for i in ids[is_answer]]
        while behind and behind[-1] not in added:  # white space behind the end
            behind.pop()
        ends = {vocabulary.eos_id}
        while behind and behind[-1] in added:
            ends.add(behind.pop())
        return tuple(sorted(ends))


def _kind(task: Chat) -> Messages:
    """The type of the field of conversations."""
    return Messages(
        roles=task.roles,
        template=task.template,
        thinking=task.thinking,
        faulty=task.faulty,
    )


def _last(is_answer: np.ndarray) -> tuple[int, int]:
    """The last run of marked tokens [start, stop)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], is_answer, [0]])))
    return int(edges[-2]), int(edges[-1])
