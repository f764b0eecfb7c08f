"""Rows of prompts and answers: their tokens, and the records that they come from."""

import dataclasses
import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.config import Label, Number, Text, wording
from llmjax.data.store.corpus import Corpus
from llmjax.data.store.records import RecordSource
from llmjax.data.tokenizers.vocabulary import Vocabulary
from llmjax.tasks.task import Batch

OTHER = "other_"  # prefix of the rejected answer's features
BOTH = ("chosen", "rejected")
_TRUE, _FALSE = ("true", "1"), ("false", "0")


def answered(
    vocabulary: Vocabulary,
    prompt: np.ndarray,
    answer: np.ndarray,
    room: int,
    *,
    begun: bool = False,
    ended: bool = True,
) -> dict[str, np.ndarray]:
    """A row: <bos> prompt answer, of which answer <eos> is predicted.

    The two were encoded apart, so that a prompt has one beginning of tokens whatever
    is answered. All arrays are int32 [n].

    Args:
      vocabulary: of the tokens.
      prompt, answer: int32 [n] each, without special tokens.
      room: tokens that are kept, from the beginning.
      begun: whether the prompt has a beginning of its own, and no <bos> is before it.
      ended: whether <eos> is behind the answer.

    Returns:
      `tokens`, one step ahead `targets`, and `weights`, 1 where a target is of the
      answer.
    """
    bos = np.array([] if begun else [vocabulary.bos_id], np.int32)
    eos = np.array([vocabulary.eos_id] if ended else [], np.int32)
    text = np.concatenate([bos, prompt, answer, eos], dtype=np.int32)
    weights = np.arange(len(text) - 1) >= len(bos) + len(prompt) - 1
    return {
        "tokens": text[:-1][:room],
        "targets": text[1:][:room],
        "weights": weights[:room].astype(np.int32),
    }


# --- on devices ----------------------------------------------------------------------


def interleaved(batch: Batch) -> dict[str, Any]:
    """Pairs [B, T] as rows [2B, T], each chosen one before its rejected one: so a
    device keeps the pairs that it has."""

    def join(a, b):
        return jnp.stack([a, b], axis=1).reshape(-1, *a.shape[1:])

    names = [k.removeprefix(OTHER) for k in batch if k.startswith(OTHER)]
    return {k: join(batch[k], batch[OTHER + k]) for k in names}


def divided(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """[2B, ...] of `interleaved` rows as the chosen ones and the rejected ones."""
    pairs = x.reshape(-1, 2, *x.shape[1:])
    return pairs[:, 0], pairs[:, 1]


def mismatched(batch: Batch) -> dict[str, Any]:
    """Rows with the prompts of a batch and other answers: those of the row before.

    The answer of the last real row is behind the first one's prompt. What does not fit
    behind a longer prompt is cut.
    """
    tokens_BT, T = batch["tokens"], batch["tokens"].shape[1]
    real_BT = batch["segment_ids"] > 0
    answer_BT = real_BT & (batch["weights"] > 0)
    order_B = jnp.argsort(~real_BT[:, 0], stable=True)  # real rows first
    count = jnp.sum(real_BT[:, 0])
    rank_B = jnp.cumsum(real_BT[:, 0]) - 1
    before_B = order_B[(rank_B - 1) % jnp.maximum(count, 1)]
    # a prompt's last token predicts the first one of the answer
    prompt_B1 = jnp.sum(real_BT & ~answer_BT, axis=1, keepdims=True)
    size_B1 = jnp.sum(answer_BT, axis=1, keepdims=True)[before_B]
    place_BT = jnp.arange(T)[None] - prompt_B1
    source_BT = jnp.clip(place_BT + prompt_B1[before_B], 0, T - 1)

    def taken(name):
        return jnp.take_along_axis(batch[name][before_B], source_BT, axis=1)

    here_BT = place_BT < size_B1
    # the token at the place of the answer's first target is the prompt's own last
    own_BT = place_BT <= 0
    return {
        "tokens": jnp.where(own_BT, tokens_BT, taken("tokens")),
        "targets": jnp.where(place_BT < 0, batch["targets"], taken("targets")),
        "weights": ((place_BT >= 0) & here_BT).astype(jnp.int32),
        "segment_ids": jnp.where(here_BT, 1, 0) * real_BT[:, :1],
        "positions": jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32), tokens_BT.shape),
    }


# --- from records --------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """Examples of prompts and answers.

    Attributes:
      lengths: int64 [len], tokens of a prompt and its longest answer, as far as they
        are read.
      read: index -> example.
      cut: how many are longer than a row.
    """

    lengths: np.ndarray
    read: Callable[[int], dict[str, Any]]
    cut: int = 0

    @classmethod
    def fitted(cls, lengths: np.ndarray, read: Any, room: int) -> "Rows":
        """Rows of which so many tokens are read."""
        return cls(np.minimum(lengths, room), read, int((lengths > room).sum()))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self.read(index % len(self))


@dataclasses.dataclass(frozen=True, eq=False)
class Listed:
    """The example of a row in memory."""

    rows: Sequence[Mapping[str, Any]]

    def __call__(self, index: int) -> dict[str, Any]:
        return dict(self.rows[index])


@dataclasses.dataclass(frozen=True, eq=False)
class Read:
    """The example of a record; picklable.

    Attributes:
      records: of the split.
      places: int64 [len], the record of each example.
      fields: name in the example -> field of the records.
      labels: int32 [len], whether each answer is good; None: of pairs.
    """

    records: RecordSource
    places: np.ndarray
    fields: Mapping[str, str]
    labels: np.ndarray | None = None

    def __call__(self, index: int) -> dict[str, Any]:
        record = self.records[int(self.places[index])]
        values = {k: record[field] for k, field in self.fields.items()}
        example = {k: getattr(v, "ids", v) for k, v in values.items()}
        if self.labels is not None:
            example["label"] = self.labels[index]
        return example


@dataclasses.dataclass(frozen=True, eq=False)
class Referenced:
    """Pairs with log-likelihoods by a reference, which are filled in.

    Attributes:
      rows: pairs.
      values: float32 [len, 2], of the chosen and the rejected answers in nats; NaN
        until they are known.
    """

    rows: Rows
    values: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        return self.rows.lengths

    @property
    def cut(self) -> int:
        return self.rows.cut

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        chosen, rejected = self.values[index]
        given = {"chosen_reference": chosen, "rejected_reference": rejected}
        return self.rows[index] | given

    def digest(self) -> str:
        """A hash of the pairs, as far as they are read."""
        hashed = hashlib.sha256(self.lengths.tobytes())
        for index in range(len(self)):
            row = self.rows[index]
            for name in ("prompt", *BOTH):
                hashed.update(np.int64(len(row[name])).tobytes())
                hashed.update(np.asarray(row[name], np.int32).tobytes())
        return hashed.hexdigest()


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """A split's records of preferences, checked.

    Attributes:
      corpus, split: of the records.
      room: tokens of a prompt and its answer that fit into a row.
    """

    corpus: Corpus
    split: str
    room: int

    def pairs(self, fields: Mapping[str, str]) -> Rows:
        """A row for each pair; pairs of one answer are left out, and counted.

        Args:
          fields: of the examples' "prompt", "chosen", "rejected", and others of
            numbers.

        Raises:
          ValueError: the corpus has no such records, an answer is empty or cut to
            nothing, or all pairs are left out.
        """
        records = self._open(fields, {"prompt", "chosen", "rejected"})
        chosen, rejected = fields["chosen"], fields["rejected"]
        same = records.same_texts(chosen, rejected)
        if same.all():
            raise ValueError(
                f"{chosen!r} and {rejected!r} are one text in all records of the split "
                f"{self.split!r}, which prefer nothing; look at data.prepare.fields"
            )
        if number := int(same.sum()):
            said = wording.count(number, "pair")
            print(
                f"split {self.split!r}: {said} left out whose {chosen!r} and "
                f"{rejected!r} are one text; the first is record {int(same.argmax())}",
                file=sys.stderr,
            )
        places = np.flatnonzero(~same)
        self._check_answers(records, fields, ("chosen", "rejected"), places)
        longest = np.maximum(*(records.field_lengths(f) for f in (chosen, rejected)))
        lengths = (records.field_lengths(fields["prompt"]) + longest)[places]
        return Rows.fitted(lengths, Read(records, places, fields), self.room)

    def judged(self, prompt: str, completion: str, label: str) -> Rows:
        """A row for each answer.

        Raises:
          ValueError: as `pairs`, or a label is neither true nor false.
        """
        fields = {"prompt": prompt, "completion": completion}
        records = self._open(fields, set(fields))
        kind: Any = self.corpus.schema.fields.get(label)
        if not isinstance(kind, Label):
            raise self._without(label, Label.kind)
        numbers = np.array([*map(_truth, kind.classes), -1], np.int32)
        classes = records.labels(label)
        good = numbers[classes]
        for k in np.flatnonzero(good < 0)[:1].tolist():
            said = repr(kind.classes[classes[k]]) if classes[k] >= 0 else "nothing"
            raise ValueError(
                f"record {k} of the split {self.split!r} has {said} in the field "
                f"{label!r}; accepted: true or false, 1 or 0"
            )
        places = np.arange(len(records))
        self._check_answers(records, fields, ("completion",), places)
        lengths = sum(records.field_lengths(f) for f in fields.values())
        read = Read(records, places, fields, good)
        return Rows.fitted(np.asarray(lengths), read, self.room)

    def unpaired(self, fields: Mapping[str, str]) -> Rows:
        """Two rows for each pair: its chosen answer, which is good, and the other."""
        pairs = self.pairs(fields)
        assert isinstance(pairs.read, Read)
        records, places = pairs.read.records, pairs.read.places
        lengths = records.field_lengths(fields["prompt"])[places, None] + np.stack(
            [records.field_lengths(fields[k])[places] for k in BOTH], axis=1
        )
        return Rows.fitted(lengths.reshape(-1), Unpaired(pairs.read), self.room)

    def _open(self, fields: Mapping[str, str], texts: set[str]) -> RecordSource:
        """The records, which have all fields."""
        there = self.corpus.schema.fields
        for name, field in fields.items():
            kind = Text if name in texts else Number
            if not isinstance(there.get(field), kind):
                raise self._without(field, kind.kind)
        return self.corpus.records(self.split)

    def _without(self, field: str, kind: str) -> ValueError:
        there = self.corpus.schema.fields.items()
        listed = ", ".join(f"{k} ({t.kind})" for k, t in there)
        return ValueError(
            f"the corpus {self.corpus.manifest['corpus']} has no field {field!r} of "
            f"kind {kind!r}; it has {listed}: name it in data.prepare.fields, or in "
            "the task's field of that name"
        )

    def _check_answers(
        self,
        records: RecordSource,
        fields: Mapping[str, str],
        answers: Sequence[str],
        places: np.ndarray,
    ) -> None:
        """Raises ValueError for an answer without a token, or of which none is read."""
        for name in answers:
            empty = records.field_lengths(fields[name])[places] == 0
            self._refuse(empty, places, f"have an empty {fields[name]!r}", "")
        asked = records.field_lengths(fields["prompt"])[places]
        self._refuse(
            asked > self.room,
            places,
            f"have a {fields['prompt']!r} of up to {int(asked.max(initial=0))} tokens, "
            f"which fills a row of data.seq_len={self.room + 1} so that nothing of an "
            "answer is read",
            "raise data.seq_len, or ",
        )

    def _refuse(
        self, wrong: np.ndarray, places: np.ndarray, what: str, remedy: str
    ) -> None:
        if wrong.any():
            raise ValueError(
                f"{int(wrong.sum()):,} of the {len(wrong):,} records of the split "
                f"{self.split!r} {what}; the first is record "
                f"{places[int(wrong.argmax())]}: {remedy}take them out"
            )


@dataclasses.dataclass(frozen=True, eq=False)
class Unpaired:
    """The answers of pairs, one after the other; picklable."""

    read: Callable[[int], dict[str, Any]]

    def __call__(self, index: int) -> dict[str, Any]:
        pair = self.read(index // 2)
        completion = pair[BOTH[index % 2]]
        label = np.int32(1 - index % 2)
        rest = {k: v for k, v in pair.items() if k not in BOTH}
        return rest | {"completion": completion, "label": label}


def _truth(name: str) -> int:
    """1 for true, 0 for false, -1 for another class."""
    if name.lower() in _TRUE:
        return 1
    return 0 if name.lower() in _FALSE else -1
