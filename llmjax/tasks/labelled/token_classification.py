"""Token classification: a tag for each word, and the entities that they mark."""

import dataclasses
import functools
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from llmjax.config import (
    DataConfig,
    LayoutConfig,
    ModelConfig,
    Tags,
    TokenClassification,
    Words,
    wording,
)
from llmjax.data.batches.pipeline import Pipeline, Source
from llmjax.data.batches.windows import Listed, Sentence, Windows, filled
from llmjax.data.prepare import labelled as columns
from llmjax.data.store.corpus import Corpus
from llmjax.data.store.records import RecordSource
from llmjax.models.forward import forward
from llmjax.models.heads.token import TokenClassifier
from llmjax.tasks.labelled import confusion, crf, entities, word_texts
from llmjax.tasks.labelled.labelled import LabelledTask, Way
from llmjax.tasks.labelled.tags import TagSet, misfit, target_of
from llmjax.tasks.losses import cross_entropy, divergence
from llmjax.tasks.routing import Routed, routed, with_routing
from llmjax.tasks.task import (
    Batch,
    Metrics,
    Outputs,
    Predictions,
    Variables,
)


@dataclasses.dataclass(frozen=True, eq=False)
class RecordSentences:
    """The sentences of a split's records.

    Attributes:
      records: of the split.
      words_field, tags_field: fields that are read.
      data, target: tags of the records, and of the model.
      filler: token of a word that has no other.
    """

    records: RecordSource
    words_field: str
    tags_field: str
    data: TagSet
    target: TagSet
    filler: int

    @functools.cached_property
    def _counts(self) -> tuple[np.ndarray, np.ndarray]:
        return self.records.word_counts(self.words_field)

    @property
    def words(self) -> np.ndarray:
        """Words of each, int64 [len]."""
        return self._counts[0]

    @property
    def filled(self) -> int:
        """How many words have no token of their own."""
        return int(self._counts[1].sum())

    @functools.cached_property
    def tokens(self) -> np.ndarray:
        """Tokens of each, int64 [len]."""
        return self.records.field_lengths(self.words_field) + self._counts[1]

    def __getitem__(self, index: int, /) -> Sentence:
        record = self.records[index]
        words = record[self.words_field]
        tags = self.data.written(record[self.tags_field], self.target)
        ids, word_ids = filled(words.ids, words.word_ids, len(words.words), self.filler)
        return Sentence(ids, word_ids, tags)


@dataclasses.dataclass(frozen=True, eq=False)
class TokenClassificationTask(LabelledTask):
    """A tag for each word, from the hidden state of its first token (Devlin 2018, 5.3).

    A sentence longer than a row is read in windows that overlap, and each word's tag
    told once. With packing "first_fit" whole sentences share a row. Precision, recall
    and F1 of entities are sums too, so `train.best_metric` may be "f1": there an entity
    over two windows counts by its parts, in the report as one.
    """

    architectures = ("decoder", "encoder")
    packings = ("pad", "first_fit")
    labels = ("label", "word")
    inputs = ("text",)
    reads_words = True
    answer_columns = ("entities", "tagged", "tags")
    head = TokenClassifier

    @classmethod
    def with_columns(cls, task: Any, data: DataConfig, *, said: bool) -> DataConfig:
        return columns.with_words(data, task.words_field, task.tags_field, said=said)

    @classmethod
    def classes(cls, task: Any, corpora: Sequence[Corpus]) -> tuple[str, ...]:
        there: dict[str, None] = {}
        for corpus in corpora:
            kind = corpus.schema.fields.get(task.tags_field)
            there |= dict.fromkeys(kind.classes if isinstance(kind, Tags) else ())
        return target_of([*there], task.scheme).names if there else ()

    @classmethod
    def way(cls, task: Any) -> Way:
        return "none", task.form

    @classmethod
    def with_way(cls, task: Any, way: Way) -> Any:
        _, form = way
        return task if task.head else dataclasses.replace(task, head=form)

    @classmethod
    def with_labels(cls, task: Any, names: tuple[str, ...]) -> Any:
        named = super().with_labels(task, names)
        if task.scheme or not named.labels:
            return named
        return dataclasses.replace(named, scheme=TagSet(named.labels).scheme)

    @classmethod
    def of_model(cls, model: Any) -> TokenClassification:
        return TokenClassification(labels=model.labels, head=model.form)

    @property
    def num_outputs(self) -> int:
        return self.config.num_classes

    @functools.cached_property
    def tags(self) -> TagSet:
        """The tags of the model; their numbers where none are named."""
        names = map(str, range(self.config.num_classes))
        return TagSet(self.config.labels or tuple(names))

    @functools.cached_property
    def filler(self) -> int:
        """The token of a word that has no other: unknown, or padding."""
        try:
            return self.vocabulary.special_id("<unk>")
        except ValueError:
            return self.vocabulary.pad_id

    def check(self) -> None:
        """Raises ValueError for a scheme that the tags are not of, and for terms of a
        loss over classes where the loss is of whole paths."""
        config = self.config
        if config.labels and config.scheme not in (None, "plain", self.tags.scheme):
            raise ValueError(
                f"task.scheme={config.scheme!r}, and task.labels is of the scheme "
                f"{self.tags.scheme!r} ({', '.join(config.labels[:6])}…); leave one out"
            )
        for name, number in dataclasses.asdict(self.run.loss).items():
            if config.crf and number:
                raise ValueError(
                    f"loss.{name}={number} is a term of a cross entropy over tags, and "
                    "with task.crf the loss is of whole paths; set it to 0"
                )

    # --- examples --------------------------------------------------------------------

    def documents(self, corpus: Corpus, split: str) -> Any:
        """The sentences of a split.

        Raises:
          ValueError: the corpus has no such records, tags that the task has not, or
            that break the scheme of the data.
        """
        config, fields = self.config, corpus.schema.fields
        for name, kind in ((config.words_field, Words), (config.tags_field, Tags)):
            if not isinstance(fields.get(name), kind):
                there = ", ".join(f"{k} ({t.kind})" for k, t in fields.items())
                raise ValueError(
                    f"the corpus {corpus.manifest['corpus']} has no field {name!r} of "
                    f"kind {kind.kind!r}; it has {there}: set task.{kind.kind}_field, "
                    "or data.prepare.fields"
                )
        data = _named(fields[config.tags_field].classes, config.labels)  # type: ignore[union-attr]
        records = corpus.records(split)
        sentences = RecordSentences(
            records,
            config.words_field,
            config.tags_field,
            data,
            self._target(data),
            self.filler,
        )
        self._check_scheme(sentences, split)
        empty = int((sentences.words == 0).sum())
        for number, what in (
            (empty, "record without words is left out"),
            (sentences.filled, "word has no token and is read as an unknown one"),
        ):
            if number:
                print(f"split {split!r}: {number:,} × {what}", file=sys.stderr)
        return sentences

    def _target(self, data: TagSet) -> TagSet:
        """The tags of the model, for those of a corpus."""
        config = self.config
        if not config.labels:
            target = target_of(data.names, config.scheme)
            if config.num_classes != len(target.names):
                raise ValueError(
                    f"task.num_labels={config.num_classes}, and the corpus has "
                    f"{wording.count(len(target.names), 'tag')} "
                    f"({', '.join(target.names)}); set it to {len(target.names)}"
                )
            return target
        if data.plain != self.tags.plain:
            raise ValueError(
                f"the corpus has the tags {', '.join(data.names[:8])}, and task.labels "
                f"{', '.join(self.tags.names[:8])}; accepted: both of entities, or "
                "both plain"
            )
        own = self.tags.names if data.plain else self.tags.types
        there = data.names if data.plain else data.types
        if strangers := [name for name in there if name not in own]:
            what = "tag" if data.plain else "type"
            raise ValueError(
                f"the corpus has the {what} {strangers[0]!r}, and task.labels names "
                f"{', '.join(config.labels)}; add it there, or leave task.labels out"
            )
        return self.tags

    def _check_scheme(self, sentences: RecordSentences, split: str) -> None:
        read, data = self.config.read, sentences.data
        tags_W = sentences.records.classes(sentences.tags_field)
        if (found := misfit(data, tags_W, read)) is None:
            return
        place, scheme = found
        ends = np.cumsum(sentences.words + 1)
        k = int(np.searchsorted(ends, place, "right"))
        words = sentences.records[k][sentences.words_field].words
        w = min(place - (int(ends[k]) - len(words) - 1), len(words) - 1)
        tag = data.names[tags_W[ends[k] - 1 - len(words) + w]]
        near = " ".join(words[max(w - 2, 0) : w + 3])
        raise ValueError(
            f"record {k} of the split {split!r}, word {w} ({near!r}): the tag {tag!r} "
            f"cannot stand there in the scheme {scheme!r}; mend it, or set task.read "
            "to the data's own: 'bio', 'iob1', 'bioes', or 'any' to read an entity at "
            "each change as conlleval does"
        )

    def examples(self, documents: Any) -> Any:
        return Windows(documents, self.text_length)

    def features(
        self, example: Mapping[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """`tokens` with the tokenizer's specials around; `word` and `label` of each as
        `Windows` has them."""
        n = len(example["tokens"])
        places = self.vocabulary.with_specials(-1 - np.arange(n, dtype=np.int32))
        text = places < 0
        features = {"tokens": places.astype(np.int32)}
        features["tokens"][text] = example["tokens"]
        for name in self.labels:
            features[name] = np.zeros(len(places), np.int32)
            features[name][text] = example[name]
        return features

    def length(self, num_tokens: int) -> int:
        return num_tokens + self.vocabulary.num_specials

    def example_batch(self, rows: int = 1) -> dict[str, np.ndarray]:
        fixed: dict[str, Any] = {"batch_sizes": (), "seq_lens": (), "mixture": ()}
        data = dataclasses.replace(self.run.data, batch_size=rows, **fixed)
        rng, n = np.random.default_rng(0), (rows + 1) * data.seq_len
        ids = rng.integers(3, self.vocabulary.vocab_size, (4, n)).astype(np.int32)
        tags = rng.integers(0, self.num_outputs, (4, n)).astype(np.int32)
        words = np.arange(n, dtype=np.int32)
        sentences = [Sentence(i, words, t) for i, t in zip(ids, tags, strict=True)]
        source = self.examples(Listed(sentences))
        return Pipeline(source, self.features, data, self.length).batch(0)

    # --- model and loss --------------------------------------------------------------

    def model(self, cfg: ModelConfig, layout: LayoutConfig) -> nn.Module:
        config = self.config
        return TokenClassifier(
            cfg,
            config.num_classes,
            layout,
            config.form,
            config.crf,
            labels=config.labels,
        )

    def outputs(self, model: nn.Module) -> Outputs:
        return routed(model, "scores")

    def score(
        self, outputs: Routed, batch: Batch, training: bool = False
    ) -> tuple[jax.Array, jax.Array, Metrics]:
        """Metrics per word: `loss` in nats, `accuracy`; in an evaluation `precision`,
        `recall` and `f1` of entities."""
        scores_BTC, beside = outputs.head
        words, label_BT = crf.words_of(batch["word"]), batch["label"]
        here_BT = words.here_BT.astype(jnp.float32)
        count = jnp.sum(here_BT)
        if beside is None:
            loss = self.run.loss
            minimised_BT, nll_BT = cross_entropy(
                scores_BTC, label_BT, loss.z_loss, loss.label_smoothing
            )
            total, nll = (jnp.sum(x * here_BT) for x in (minimised_BT, nll_BT))
        else:
            transitions = crf.Transitions(*beside)
            all_B = crf.log_normaliser(scores_BTC, words, transitions)
            own_B = crf.path_score(scores_BTC, label_BT, words, transitions)
            total = nll = jnp.sum(all_B - own_B)
        tag_BT = _best(scores_BTC, beside, words)
        right = jnp.sum((tag_BT == label_BT) * here_BT)
        metrics = {"loss": (nll, count), "accuracy": (right, count)}
        if not training and not self.tags.plain:
            both, predicted, gold = entities.matches(label_BT, tag_BT, words, self.tags)
            metrics["precision"] = (both, predicted)
            metrics["recall"] = (both, gold)
            metrics["f1"] = (2 * both, predicted + gold)
        return with_routing(outputs, total, count, metrics)

    @property
    def diverges(self) -> bool:  # type: ignore[override]
        return not self.config.crf

    def divergence(self, outputs: Routed, others: Routed, batch: Batch) -> jax.Array:
        apart_BT = divergence(outputs.head[0], others.head[0])
        return jnp.sum(apart_BT * crf.words_of(batch["word"]).here_BT)

    # --- predictions -----------------------------------------------------------------

    def predict(self, model: nn.Module) -> Callable[[Variables, Batch], Any]:
        """The likeliest tag of each token that begins a word, int32 [B, T], and its
        probability; with `crf` of the likeliest path, and of the tag on all paths."""

        def predict(variables, batch):
            (scores_BTC, beside), _ = forward(model, variables, batch, method="scores")
            words = crf.words_of(batch["word"])
            tag_BT = _best(scores_BTC, beside, words)
            if beside is None:
                p_BTC = nn.softmax(scores_BTC)
            else:
                p_BTC = crf.marginals(scores_BTC, words, crf.Transitions(*beside))
            score_BT = jnp.take_along_axis(p_BTC, tag_BT[..., None], axis=2)[..., 0]
            return {"tag": tag_BT, "score": score_BT}

        return predict

    def input_columns(self, there: Collection[str]) -> dict[str, str]:
        """The column of words that the run learned from, where it is there."""
        prepare, field = self.run.data.prepare, self.config.words_field
        names = (f.column or f.name for f in prepare.fields if f.name == field)
        return {"text": next((name for name in names if name in there), prepare.text)}

    def counted(self, answer: Mapping[str, Any]) -> list[str]:
        """The types of its entities, or its tags."""
        return word_texts.said(answer)

    def questions(self, rows: Sequence[Mapping[str, Any]]) -> Any:
        """Sentences of rows, whose `text` is one or a list of words."""
        values = [row["text"] for row in rows]
        return word_texts.asked(values, self.vocabulary, self.filler)

    def decode(self, values: Any, corpus: Corpus | None) -> list[dict[str, Any]]:
        """The tag and the score of each place of a row."""
        pairs = zip(values["tag"], values["score"], strict=True)
        return [{"tag": tags, "score": scores} for tags, scores in pairs]

    def answers(self, source: Source, decoded: Sequence[Any]) -> list[Any]:
        """The entities of each row; see `word_texts.answer`."""
        assert isinstance(source, Windows)
        asked = source.sentences
        assert isinstance(asked, word_texts.Asked)
        tags = [np.zeros(len(spans), np.int64) for spans in asked.spans]
        scores = [np.zeros(len(spans)) for spans in asked.spans]
        rng = np.random.default_rng(0)
        for i, (owner, row) in enumerate(zip(source.owners, decoded, strict=True)):
            word = self.features(source[i], rng)["word"]
            places = np.flatnonzero(word)
            words = word[places] - source.starts[owner]
            tags[owner][words] = row["tag"][places]
            scores[owner][words] = row["score"][places]
        rows = zip(asked.texts, asked.spans, tags, scores, asked.listed, strict=True)
        return [
            word_texts.answer(text, spans, t, s, self.tags, listed)
            for text, spans, t, s, listed in rows
        ]

    def report(
        self, predictions: Iterable[Predictions], sources: Sequence[Source] = ()
    ) -> dict[str, Any]:
        """Accuracy over words; of entities what `entities.report` has, of plain tags
        the confusion matrix."""
        columns = []
        for p in predictions:
            here = p.labels["word"] > 0
            kept = p.labels["word"], p.labels["label"], p.values["tag"]
            columns.append(np.stack([np.asarray(x)[here] for x in kept]))
        number, right, tag = np.concatenate(columns, axis=1).astype(np.int64)
        order = np.argsort(number)
        number, right, tag = number[order], right[order], tag[order]
        if self.tags.plain:
            counts_CC = confusion.confusion(tag, right, self.config.num_classes)
            return confusion.classification_report(counts_CC, self.config.labels)
        gaps = np.flatnonzero(np.diff(number) > 1) + 1
        apart = np.insert(right, gaps, -1), np.insert(tag, gaps, -1)
        sums = entities.counts(*apart, self.tags)
        accuracy = float((right == tag).mean()) if len(tag) else 0.0
        return {
            "accuracy": accuracy,
            "words": len(tag),
            **entities.report(sums, self.tags),
        }

    def describe(self, report: Mapping[str, Any]) -> str:
        """The entities by type, or the confusion matrix of plain tags."""
        if "confusion" in report:
            return confusion.table(np.array(report["confusion"]), report["labels"])
        return entities.table(report)


def _best(scores_BTC: jax.Array, beside: Any, words: crf.Words) -> jax.Array:
    """The likeliest tags of words, int32 [B, T]."""
    if beside is None:
        return jnp.argmax(scores_BTC, axis=-1).astype(jnp.int32)
    path_BT = crf.viterbi(scores_BTC, words, crf.Transitions(*beside))
    return path_BT.astype(jnp.int32)


def _named(names: Sequence[str], labels: Sequence[str]) -> TagSet:
    """The tags of a corpus; by `labels` where it has numbers alone."""
    numbers = all(name.isdecimal() and int(name) < len(labels) for name in names)
    if labels and numbers and not {*names} <= {*labels}:
        return TagSet(tuple(labels[int(name)] for name in names))
    return TagSet(tuple(names))
