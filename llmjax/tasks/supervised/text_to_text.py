"""A text for a text: summaries and translations."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from llmjax.config import DataConfig, FramedText, Text, TextToText
from llmjax.data.batches.pipeline import Pipeline, Source
from llmjax.data.prepare import written
from llmjax.data.store.corpus import Corpus
from llmjax.data.store.records import RecordSource
from llmjax.tasks.objectives.seq2seq import two_streams
from llmjax.tasks.supervised.writing import Asked, Sequences, WritingTask, shifted


@dataclasses.dataclass(frozen=True, eq=False)
class _Record:
    """The example of a record; picklable."""

    records: RecordSource
    source: str
    target: str

    def __call__(self, index: int) -> dict[str, Any]:
        record = self.records[index]
        target = record[self.target]
        ids = record[self.source].ids
        return {"source": ids, "target": target.ids, "text": target.text}


@dataclasses.dataclass(frozen=True, eq=False)
class _Listed:
    """The example of a row in memory."""

    sources: np.ndarray
    targets: np.ndarray

    def __call__(self, index: int) -> dict[str, Any]:
        return {"source": self.sources[index], "target": self.targets[index]}


@dataclasses.dataclass(frozen=True, eq=False)
class TextToTextTask(WritingTask):
    """Targets are predicted, sources read.

    The encoder of an encoder-decoder reads the source with the tokenizer's specials
    around; the decoder begins with `decoder_start` and predicts the target with its
    specials, <eos> at the end, as transformers trains T5 and BART. Without a
    `decoder_start` both have the layout of `llmjax.tasks.objectives.seq2seq`: <eos>
    behind, the decoder begins with <bos>. A decoder reads the tokenizer's beginning,
    the source and, unless a `suffix` tells them apart, <eos>, and predicts the target
    and <eos>; it reads the source from left to right, as when it is asked.

    What is too long is cut at its end, specials aside, and counted.
    """

    inputs = ("source",)
    usual_inputs = written.SOURCES

    @classmethod
    def with_columns(
        cls, task: TextToText, data: DataConfig, *, said: bool
    ) -> DataConfig:
        kind = FramedText(task.prefix, task.suffix)
        names = task.source_field, task.target_field
        return written.with_texts(data, *names, kind, said=said)

    @classmethod
    def with_weights(cls, task: TextToText, start: int | None) -> TextToText:
        if task.decoder_start is not None or start is None:
            return task
        return dataclasses.replace(task, decoder_start=start)

    def check(self) -> None:
        """Raises ValueError for a row that is too short, or texts that don't fit."""
        if self._two_streams and self.run.data.packing != "pad":
            raise ValueError(
                f"data.packing={self.run.data.packing!r} fits one text into a row, and "
                "an encoder_decoder reads two; set it to 'pad'"
            )
        if min(self._rooms) < 1:
            raise ValueError(
                f"data.seq_len={self.run.data.seq_len} or data.encoder_seq_len="
                f"{self.run.data.encoder_seq_len} leaves no room for a text beside "
                "special tokens; raise it"
            )

    # --- examples --------------------------------------------------------------------

    @property
    def _two_streams(self) -> bool:
        return self.run.model.architecture == "encoder_decoder"

    @functools.cached_property
    def _rooms(self) -> tuple[int, int]:
        """Tokens of a source, and of a target, that are read; without specials.

        Of a decoder's row the source may have what its target leaves.
        """
        data, none = self.run.data, np.zeros(0, np.int32)
        own = len(self._target(none))
        if self._two_streams:
            source = (data.encoder_seq_len or data.seq_len) - len(self._source(none))
            target = data.seq_len - own
        else:
            source = data.seq_len + 1 - len(self._source(none)) - own - 1
            target = max(source // 2, 1)
        return source, min(target, self.config.max_target or target)

    def _source(self, ids: np.ndarray) -> np.ndarray:
        """A source with what stands around it, int32."""
        vocabulary = self.vocabulary
        if not self._two_streams:
            end = [] if self.config.suffix else [vocabulary.eos_id]
            return np.append(vocabulary.with_beginning(ids), end).astype(np.int32)
        if self.config.decoder_start is None:
            return np.append(ids, vocabulary.eos_id).astype(np.int32)
        return vocabulary.with_specials(ids)

    def _target(self, ids: np.ndarray) -> np.ndarray:
        """A target with its end, int32."""
        if self._two_streams and self.config.decoder_start is not None:
            ids = self.vocabulary.with_specials(ids)
            if len(ids) and ids[-1] == self.vocabulary.eos_id:
                return ids
        return np.append(ids, self.vocabulary.eos_id).astype(np.int32)

    @property
    def _start(self) -> int:
        start = self.config.decoder_start
        return self.vocabulary.bos_id if start is None else start

    def documents(self, corpus: Corpus, split: str) -> Sequences:
        """The pairs of a split.

        Raises:
          ValueError: the corpus has no such records, was prepared with another prefix,
            or has empty texts.
        """
        config, fields = self.config, corpus.schema.fields
        names = config.source_field, config.target_field
        for name in names:
            if not isinstance(fields.get(name), Text):
                there = ", ".join(f"{k} ({t.kind})" for k, t in fields.items())
                raise ValueError(
                    f"the corpus {corpus.manifest['corpus']} has no field {name!r} of "
                    f"kind 'text'; it has {there}: set task.source_field and "
                    "task.target_field, or data.prepare.fields"
                )
        kind: Any = fields[names[0]]
        framed = getattr(kind, "prefix", ""), getattr(kind, "suffix", "")
        if framed != (config.prefix, config.suffix):
            raise ValueError(
                f"task.prefix={config.prefix!r} and task.suffix={config.suffix!r}, and "
                f"the field {names[0]!r} of the records is prepared with {framed}; say "
                "the same in data.prepare.fields, of kind 'framed_text'"
            )
        records = corpus.records(split)
        source, target = (records.field_lengths(name) for name in names)
        for name, empty in (
            (names[0], records.characters(names[0]) == 0),
            (names[1], target == 0),
        ):
            if empty.any():
                raise ValueError(
                    f"{int(empty.sum()):,} of the {len(empty):,} records of the split "
                    f"{split!r} have an empty {name!r}, the first is record "
                    f"{int(np.argmax(empty))}; take them out"
                )
        return self._fitted(source, target, _Record(records, *names))

    def _fitted(self, source: np.ndarray, target: np.ndarray, read: Any) -> Sequences:
        """Pairs of so many tokens, cut to a row."""
        room, most = self._rooms
        targets = np.minimum(target, most)
        if self._two_streams:
            sources = np.minimum(source, room)
        else:
            sources = np.minimum(source, room + 1 - targets)
        cut = int(((sources < source) | (targets < target)).sum())
        none = np.zeros(0, np.int32)
        before, own = len(self._source(none)), len(self._target(none))
        if self._two_streams:
            lengths = np.maximum(sources + before, targets + own)
        else:
            lengths = sources + before + targets + own - 1
        return Sequences(lengths, read, cut)

    def examples(self, documents: Sequences) -> Source:
        return documents

    def features(
        self, example: Mapping[str, Any], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Of an encoder-decoder `encoder_tokens`, `tokens` and `targets`; of a decoder
        `tokens`, `targets` and `weights`, 1 for the target's."""
        room, most = self._rooms
        target = example["target"][:most]
        if self._two_streams:
            source = self._source(example["source"][:room])
            return two_streams(source, self._target(target), self._start)
        source = self._source(self._within(example["source"], len(target)))
        ids = np.concatenate([source, self._target(target)])
        return shifted(ids, np.arange(len(ids)) >= len(source))

    def _within(self, source: np.ndarray, target: int) -> np.ndarray:
        """The part of a decoder's source that is read beside a target; of one with a
        suffix the end stays, which is the suffix."""
        room = self._rooms[0] + 1 - target
        return source[-room:] if self.config.suffix else source[:room]

    def example_batch(self, rows: int = 1) -> dict[str, np.ndarray]:
        room, most = self._rooms
        rng, n = np.random.default_rng(0), rows + 1
        ids = rng.integers(3, self.vocabulary.vocab_size, (n, room + most))
        ids = ids.astype(np.int32)
        read = _Listed(ids[:, :room], ids[:, room:])
        source = self._fitted(np.full(n, room), np.full(n, most), read)
        fixed: dict[str, Any] = {"batch_sizes": (), "seq_lens": (), "mixture": ()}
        data = dataclasses.replace(self.run.data, batch_size=rows, **fixed)
        return Pipeline(source, self.features, data, self.length).batch(0)

    # --- what is written -------------------------------------------------------------

    def asked(self, example: Mapping[str, Any]) -> Asked:
        room, most = self._rooms
        if self._two_streams:
            start, read = np.array([self._start], np.int32), example["source"][:room]
            encoder = self._source(read)
            return Asked(start, encoder, len(read) < len(example["source"]))
        length = min(len(example.get("target", ())) or most, most)
        read = self._within(example["source"], length)
        return Asked(self._source(read), None, len(read) < len(example["source"]))

    def reference(self, example: Mapping[str, Any]) -> str:
        return str(example["text"]).strip()

    def asked_of(self, row: Mapping[str, Any]) -> Asked:
        text = row["source"]
        if not text.strip():
            raise ValueError("the text is empty; take the row out")
        vocabulary: Any = self.vocabulary
        framed = self.config.prefix + text + self.config.suffix
        return self.asked({"source": vocabulary.encode(framed)})

    @property
    def stop_tokens(self) -> tuple[int, ...]:
        return (self.vocabulary.eos_id,)
