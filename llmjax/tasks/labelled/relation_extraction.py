"""Relation extraction: the class of two marked entities of a text."""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import numpy as np

from llmjax.config import (
    DataConfig,
    Label,
    LayoutConfig,
    LinearHead,
    ModelConfig,
    RelationExtraction,
    Spans,
    Text,
)
from llmjax.data.batches.pipeline import Source
from llmjax.data.files import typed_values
from llmjax.data.prepare import labelled as columns
from llmjax.data.store.corpus import Corpus
from llmjax.data.store.records import EncodedText
from llmjax.data.tokenizers.vocabulary import MARKERS
from llmjax.models.heads.relation import RelationClassifier
from llmjax.tasks.labelled import confusion, pairs
from llmjax.tasks.labelled.labelled import Way
from llmjax.tasks.labelled.marked import (
    Marked,
    MarkedList,
    MarkedRecords,
    MarkedTexts,
    Markers,
    fault,
    marked,
    with_markers,
)
from llmjax.tasks.labelled.sequence_classification import SequenceClassificationTask
from llmjax.tasks.task import Predictions

_NAMES = ("text", "head", "tail", "label")


@dataclasses.dataclass(frozen=True, eq=False)
class RelationExtractionTask(SequenceClassificationTask):
    """Four markers around the entities, whose states are scored together.

    They are special tokens: ids that the tokenizer leaves unused, or new ones behind
    it. Of a text that is longer than a row what lies around the entities is read.
    """

    # a decoder's first entity never sees the second
    architectures: ClassVar[tuple[str, ...]] = ("encoder",)
    packings: ClassVar[tuple[str, ...]] = ("pad",)
    specials = MARKERS
    head: ClassVar[type[nn.Module]] = RelationClassifier
    inputs: ClassVar[tuple[str, ...]] = ("text", "head", "tail")
    read_values = ("head", "tail")
    answer_columns = ("head", "relation", "tail", "probability", "probabilities")

    # --- the config ------------------------------------------------------------------

    @classmethod
    def with_columns(cls, task: Any, data: DataConfig, *, said: bool) -> DataConfig:
        names = task.text_field, task.head_field, task.tail_field, task.label_field
        return columns.with_relations(data, *names, said=said)

    @classmethod
    def way(cls, task: Any) -> Way:
        return "none", LinearHead()

    @classmethod
    def with_way(cls, task: Any, way: Way) -> Any:
        return task

    @classmethod
    def of_model(cls, model: Any) -> Any:
        return RelationExtraction(labels=model.labels)

    @classmethod
    def of_pairs(cls, task: Any) -> Any:
        raise ValueError(f"task {task.kind!r} reads no second text beside each text")

    @property
    def _paired(self) -> bool:
        return False

    def field(self, name: str) -> str:
        """The records' field of the text, the head, the tail or the label."""
        return str(getattr(self.config, f"{name}_field"))

    def check(self) -> None:
        """Raises ValueError for a row without room, or as `SequenceClassification`."""
        super().check()
        if self.text_length < 2:
            raise ValueError(
                f"data.seq_len={self.run.data.seq_len} leaves no room for two entities "
                f"beside {self.length(0)} markers and special tokens; raise it"
            )

    # --- examples --------------------------------------------------------------------

    def documents(self, corpus: Corpus, split: str) -> MarkedTexts:
        """The texts of a split that have a label.

        Raises:
          ValueError: the corpus has no such fields, entities that are not one each, of
            white space or overlap, or labels that the task has not.
        """
        types = {"text": Text, "head": Spans, "tail": Spans, "label": Label}
        kinds = {self.field(name): (kind,) for name, kind in types.items()}
        pairs.require_kinds(corpus, kinds, {self.field(n): n for n in _NAMES})
        records = corpus.records(split)
        text, head, tail = (self.field(name) for name in ("text", "head", "tail"))
        values = zip(*map(records.values, (text, head, tail)), strict=True)
        for k, (written, *ends) in enumerate(values):
            spans = [[*zip(e[::2], e[1::2], strict=True)] for e in ends]
            if reason := fault(written, *spans):
                raise ValueError(
                    f"record {k} of the split {split!r} {reason}; mend it, or take it "
                    "out"
                )
        label_N = self.problem.read(records, split)
        known = label_N >= 0
        self.problem.report_left_out(known, split)
        places = np.flatnonzero(known)
        read = MarkedRecords(records, (text, head, tail), places)
        sizes = records.field_lengths(text)[places]
        return MarkedTexts(read, sizes, label_N[places], self.text_length)

    def examples(self, documents: MarkedTexts) -> Source:
        return documents

    def features(
        self, example: Mapping[str, Any], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """`tokens` with markers and the tokenizer's specials, `entities` (1 where a
        token stands for the head, 2 for the tail), and the scalar `label`."""
        vocabulary = self.vocabulary
        ids = [vocabulary.special_id(token) for token in MARKERS]
        markers = Markers((ids[0], ids[1]), (ids[2], ids[3]))
        pooling = self.config.pooling
        text, entities = with_markers(example["marked"], markers, pooling)
        tokens = vocabulary.with_specials(text)
        before = len(vocabulary.with_beginning(text)) - len(text)
        behind = len(tokens) - len(text) - before
        return {
            "tokens": tokens,
            "entities": np.pad(entities, (before, behind)),
            "label": self.problem.feature(example["label"]),
        }

    def length(self, num_tokens: int) -> int:
        return num_tokens + len(MARKERS) + self.vocabulary.num_specials

    def example_batch(self, rows: int = 1) -> dict[str, np.ndarray]:
        rng, n = np.random.default_rng(0), self.text_length
        ids = rng.integers(3, self.vocabulary.vocab_size, (rows, n)).astype(np.int32)
        read = MarkedList([Marked(row, (0, 1), (n - 1, n)) for row in ids])
        labels = self.problem.some_labels(rows)
        source = MarkedTexts(read, np.full(rows, n), labels, n)
        return pairs.full_batch(self, source, rows)

    # --- model and predictions -------------------------------------------------------

    def model(self, cfg: ModelConfig, layout: LayoutConfig) -> nn.Module:
        config = self.config
        return RelationClassifier(cfg, config.num_classes, layout, labels=config.labels)

    @property
    def sample(self) -> dict[str, Any]:
        return {"text": "a b", "head": (0, 1), "tail": (2, 3)}

    def input_columns(self, there: Collection[str]) -> dict[str, str]:
        """The columns that the run learned from, where they are there."""
        fields = {name: self.field(name) for name in self.inputs}
        own = {f.name: f.columns[0] for f in self.run.data.prepare.fields}
        learned = {name: own.get(field, field) for name, field in fields.items()}
        return {k: c if c in there else fields[k] for k, c in learned.items()}

    def read_row(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """A text and the characters of its head and its tail.

        Raises:
          ValueError: see `documents`.
        """
        text, kind = values["text"], Spans("text")
        spans = {}
        for name in self.read_values:
            try:
                each = typed_values.spans(kind, values[name], text)
            except ValueError as e:
                raise ValueError(f"the {name} is {e}") from None
            spans[name] = [(start, stop) for start, stop, _ in each]
        if reason := fault(text, spans["head"], spans["tail"]):
            raise ValueError(f"the row {reason}; mend it, or take it out")
        return {"text": text, "head": spans["head"][0], "tail": spans["tail"][0]}

    def questions(self, rows: Sequence[Mapping[str, Any]]) -> Any:
        vocabulary: Any = self.vocabulary
        texts, names = [], []
        for row in rows:
            text, head, tail = (row[name] for name in self.inputs)
            encoded = EncodedText(text, *vocabulary.encode_with_offsets(text))
            texts.append(marked(encoded, head, tail))
            names.append((text[slice(*head)], text[slice(*tail)]))
        sizes = np.array([len(text.ids) for text in texts], np.int64)
        labels = self.problem.some_labels(len(rows))
        room = self.text_length
        return MarkedTexts(MarkedList(texts), sizes, labels, room, names)

    def decode(self, values: Any, corpus: Corpus | None) -> list[dict[str, Any]]:
        """The relation of each, its probability, and those of all."""
        decoded = super().decode(values, corpus)
        return [{"relation": answer.pop("label"), **answer} for answer in decoded]

    def answers(self, source: Any, decoded: Sequence[Any]) -> list[Any]:
        """Triples: the characters of the head, the relation, those of the tail."""
        return [
            {
                "head": head,
                "relation": answer["relation"],
                "tail": tail,
                "probability": answer["probability"],
                "probabilities": answer["probabilities"],
            }
            for (head, tail), answer in zip(source.names, decoded, strict=True)
        ]

    def counted(self, answer: Mapping[str, Any]) -> list[str]:
        return [answer["relation"]]

    def report(
        self, predictions: Iterable[Predictions], sources: Sequence[Source] = ()
    ) -> dict[str, Any]:
        """See `SingleLabelProblem.report`; and of all relations but `task.none`
        together `precision`, `recall` and `f1`, as TACRED's (Zhang et al. 2017)."""
        report = super().report(predictions, sources)
        if self.config.none not in report["labels"]:
            return report
        none = report["labels"].index(self.config.none)
        counts_CC = np.array(report["confusion"])
        return report | confusion.without(counts_CC, none)

    def describe(self, report: Mapping[str, Any]) -> str:
        words = super().describe(report)
        if "f1" not in report:
            return words
        shown = ", ".join(f"{k} {report[k]:.3f}" for k in ("precision", "recall", "f1"))
        return f"relations without {self.config.none!r}: {shown}\n{words}"
