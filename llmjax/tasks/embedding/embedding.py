"""Text embedding: vectors that are near for texts that belong together."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from llmjax.config import (
    CoSENT,
    DataConfig,
    GuidedNegatives,
    LayoutConfig,
    ModelConfig,
    Ranking,
    TextEmbedding,
    TextReading,
)
from llmjax.data.batches.pipeline import Pipeline, Source
from llmjax.data.batches.streams import Feature
from llmjax.data.prepare import pairs
from llmjax.data.store.corpus import Corpus
from llmjax.models.forward import REFERENCE
from llmjax.models.heads.encoder import Encoder
from llmjax.tasks.embedding import losses, retrieval, rows
from llmjax.tasks.embedding.losses import Texts, Vectors
from llmjax.tasks.embedding.vectors import Framed, VectorsTask, embed, vectors_task
from llmjax.tasks.routing import routing_loss
from llmjax.tasks.task import Batch, Metrics, Objective, Outputs, Predictions, Variables

ANCHOR = "anchor_"
_STREAM = ("tokens", "segment_ids", "positions")


def prefix(document: int) -> str:
    """The beginning of the names of a document's features; "" of the positive."""
    return f"negative{document}_" if document else ""


@dataclasses.dataclass(frozen=True, eq=False)
class TextEmbeddingTask(Objective):
    """Contrastive learning from pairs, negatives and scores.

    Negatives are those of a row and the documents of all other rows of the global
    batch, whatever devices and microbatches they lie on. A batch has the positive as
    `tokens`, the anchor as `anchor_tokens`, and `negative1_tokens` and so on.
    """

    architectures = ("encoder", "decoder")
    packings = ("pad",)
    reads_loss = False
    whole_batch = True
    labels = ("score",)
    inputs = ("text",)
    answer_columns = ("vector",)
    head = Encoder

    @property
    def num_outputs(self) -> int:
        return 0

    @property
    def needs_reference(self) -> bool:
        """Whether the guide is the model as it was at the beginning."""
        loss = self.config.loss
        filtered = isinstance(loss, Ranking) and loss.negatives
        return isinstance(filtered, GuidedNegatives) and filtered.guide == "initial"

    @property
    def num_negatives(self) -> int:
        """Negatives of a row that are read."""
        config: TextEmbedding = self.config
        if config.scored:
            return 0
        if config.negatives is not None:
            return config.negatives
        fields = {f.name: f.type for f in self.run.data.prepare.fields}
        return len([*rows.negative_fields(config, fields)])

    @property
    def query(self) -> Framed:
        """Prompt and length of anchors."""
        config: TextEmbedding = self.config
        length, seq_len = config.max_query, self.run.data.seq_len
        prompt = config.reading.query_prompt
        return Framed(self.vocabulary, prompt, min(length or seq_len, seq_len))

    @property
    def passage(self) -> Framed:
        """Prompt and length of documents."""
        config: TextEmbedding = self.config
        length, seq_len = config.max_passage, self.run.data.seq_len
        prompt = config.reading.passage_prompt
        return Framed(self.vocabulary, prompt, min(length or seq_len, seq_len))

    @property
    def declared(self) -> Mapping[str, Feature]:  # type: ignore[override]
        """The streams of anchors and negatives."""
        streams = {"anchor": self.query.length}
        for k in range(1, 1 + self.num_negatives):
            streams[prefix(k).rstrip("_")] = self.run.data.seq_len
        return {
            f"{name}_tokens": Feature("token", name, dtype=np.int32, room=room)
            for name, room in streams.items()
        }

    def length(self, num_tokens: int) -> int:
        return num_tokens + int(self.vocabulary.num_specials)

    @classmethod
    def with_columns(cls, task: Any, data: DataConfig, *, said: bool) -> DataConfig:
        names = task.anchor_field, task.positive_field, task.negatives_field
        score = task.score_field if task.scored else None
        return pairs.with_pairs(data, *names, score, said=said)

    @classmethod
    def with_reading(cls, task: Any, reading: TextReading, data: DataConfig) -> Any:
        names = [f.name for f in dataclasses.fields(reading)]
        unsaid = [name for name in names if getattr(task, name, None) is None]
        new = {name: getattr(reading, name) for name in unsaid}
        if (longest := new.pop("max_length")) is not None and longest < data.seq_len:
            for name in ("max_query", "max_passage"):
                if getattr(task, name) is None:
                    new[name] = longest
        return dataclasses.replace(task, **new)

    @classmethod
    def reading_of(cls, task: Any) -> TextReading:
        reading: TextReading = task.reading
        return reading

    @classmethod
    def of_model(cls, model: Any) -> TextEmbedding:
        return TextEmbedding()

    def check(self) -> None:
        """Raises ValueError for truncations, lengths or batches that can't be."""
        config, D = self.config, self.run.model.d_model
        for truncation in config.truncations:
            if truncation.size > D:
                raise ValueError(
                    f"task.truncations has the size {truncation.size}, and a vector of "
                    f"this model has {D} numbers (model.d_model); accepted: up to {D}"
                )
        seq_len = self.run.data.seq_len
        if min(self.query.room, self.passage.room) < 1:
            raise ValueError(
                f"data.seq_len={seq_len}, task.max_query={config.max_query} and "
                f"task.max_passage={config.max_passage} leave no room for a text "
                f"beside {self.vocabulary.num_specials} special tokens; raise them"
            )
        alone = self.run.data.batch_size == 1
        if alone and not self.num_negatives and config.loss.kind != "cosine":
            raise ValueError(
                f"task.loss.kind={config.loss.kind!r} compares the rows of a batch, "
                "and data.batch_size=1 leaves nothing to compare; raise it"
            )

    # --- examples --------------------------------------------------------------------

    def documents(self, corpus: Corpus, split: str) -> Any:
        """The rows of a split; see `rows.of_records`."""
        return rows.of_records(corpus, split, self.config, self.query, self.passage)

    def examples(self, documents: rows.Rows) -> Source:
        return documents

    def features(
        self, example: Mapping[str, Any], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """`tokens` of each text, under its prefix, and the scalar `score`.

        Of more negatives than are read some are drawn; of those that are not there
        there are no tokens.
        """
        count, negatives = self.num_negatives, example["negatives"]
        if len(negatives) > count:
            drawn = rng.choice(len(negatives), count, replace=False)
            negatives = [negatives[k] for k in drawn]
        passage = self.passage
        features = {
            "tokens": passage.framed(example["positive"]),
            f"{ANCHOR}tokens": self.query.framed(example["anchor"]),
        }
        for k in range(count):
            there = k < len(negatives)
            ids = passage.framed(negatives[k]) if there else np.zeros(0, np.int32)
            features[f"{prefix(k + 1)}tokens"] = ids
        return features | {"score": np.asarray(example["score"], np.float32)}

    def example_batch(self, rows_: int = 1) -> dict[str, np.ndarray]:
        size, rng = self.passage.room, np.random.default_rng(0)
        shape = (rows_, 2 + self.num_negatives, size)
        ids = rng.integers(3, self.vocabulary.vocab_size, shape).astype(np.int32)
        examples = [
            {
                "anchor": row[0, : self.query.room],
                "positive": row[1],
                "negatives": [*row[2:]],
                "score": float(k % 2),
            }
            for k, row in enumerate(ids)
        ]
        source = rows.Rows(np.full(rows_, size), rows.Listed(examples))
        fixed: dict[str, Any] = {"batch_sizes": (), "seq_lens": (), "mixture": ()}
        data = dataclasses.replace(self.run.data, batch_size=rows_, **fixed)
        return Pipeline(
            source, self.features, data, self.length, declared=self.declared
        ).batch(0)

    # --- model and loss --------------------------------------------------------------

    def model(self, cfg: ModelConfig, layout: LayoutConfig) -> nn.Module:
        return Encoder(cfg, layout)

    def outputs(self, model: nn.Module) -> Outputs:
        """{"vectors": of all texts, "guide": another's, "router_B": the routers' loss};
        the latter two where there are some. In training alone there is a guide."""
        pooling = self.config.reading.pooling

        def vectors(variables, batch, rng):
            keys = (None, None) if rng is None else jax.random.split(rng)
            anchors = {name: batch[ANCHOR + name] for name in _STREAM}
            docs, C = joined(batch)
            a_BD, sums = embed(model, variables, anchors, pooling, keys[0])
            d_ND, others = embed(model, variables, docs, pooling, keys[1])
            docs_BCD = d_ND.reshape(-1, C, d_ND.shape[-1])
            return Vectors(a_BD, docs_BCD), (sums, others)

        def outputs(variables, batch, rng):
            own = {"params": variables["params"]}
            made, sums = vectors(own, batch, rng)
            out = {"vectors": made}
            if any(sums):
                cfg: Any = getattr(model, "cfg")  # noqa: B009
                loss = sum(routing_loss(cfg, s) for s in sums) / 2
                out["router_B"] = jnp.full(made.anchor_BD.shape[:1], loss)
            if rng is not None and REFERENCE in variables:
                frozen = {"params": variables[REFERENCE]}
                guide, _ = vectors(frozen, batch, None)
                out["guide"] = jax.lax.stop_gradient(guide)
            return out

        return outputs

    def score(
        self, outputs: Mapping[str, Any], batch: Batch, training: bool = False
    ) -> tuple[jax.Array, jax.Array, Metrics]:
        """Metrics per row: `loss`, and of ranking `accuracy` in finding the positive
        among the documents of the batch, and `chance`, that of a guess; of truncated
        vectors too, as `accuracy_64`."""
        valid_B = batch.get("valid", jnp.ones(len(batch["tokens"]), jnp.int32)) > 0
        count = jnp.sum(valid_B).astype(jnp.float32)
        total, metrics = jnp.float32(0), Metrics()
        sizes = {t.size: t.weight for t in self.config.truncations}
        D = outputs["vectors"].anchor_BD.shape[-1]
        known = _texts_of(batch, valid_B)
        for size, weight in (sizes or {D: 1.0}).items():
            vectors = outputs["vectors"].truncated(size)
            # whole vectors of the guide, whatever part is learned
            one, own = self._part(
                vectors, outputs.get("guide"), batch, known, training, count
            )
            total += weight * one
            name = "" if size == D else f"_{size}"
            metrics |= {f"{k}{name}": v for k, v in own.items()}
        metrics["loss"] = (total, count)
        if "router_B" in outputs:
            balance = jnp.sum(jnp.where(valid_B, outputs["router_B"], 0))
            total, metrics["router_loss"] = total + balance, (balance, count)
        return total, count, metrics

    def _part(
        self,
        vectors: Vectors,
        guide: Vectors | None,
        batch: Batch,
        known: Texts,
        training: bool,
        count: jax.Array,
    ) -> tuple[jax.Array, Metrics]:
        """The loss of vectors of one length, summed over rows, and its metrics."""
        loss, valid_B = self.config.loss, known.valid_B
        if isinstance(loss, Ranking):
            guided = isinstance(loss.negatives, GuidedNegatives)
            if not training or not guided:
                guide = None
            elif guide is None:
                guide = jax.lax.stop_gradient(vectors)
            nll_B, right_B = losses.ranking(loss, vectors, known, guide)
            there = jnp.sum(known.there_BC & valid_B[:, None])
            metrics = {
                "accuracy": (jnp.sum(right_B & valid_B), count),
                "chance": (count / jnp.maximum(there, 1), count),
            }
            return jnp.sum(jnp.where(valid_B, nll_B, 0)), metrics
        cosine_B, score_B = losses.cosines(vectors), batch["score"]
        if isinstance(loss, CoSENT):
            value = losses.cosent(cosine_B, score_B, valid_B, loss.temperature)
            return value * count, {}
        apart_B = jnp.square(cosine_B - score_B)
        return jnp.sum(jnp.where(valid_B, apart_B, 0)), {}

    # --- predictions -----------------------------------------------------------------

    def predict(self, model: nn.Module) -> Callable[[Variables, Batch], Any]:
        """The vectors of a batch's texts, float32 [B, D] and [B, C, D], and what tells
        equal texts, uint32 [B, 2] and [B, C, 2]; of documents that are not there 0."""
        outputs = self.outputs(model)

        def predict(variables, batch):
            vectors = outputs(variables, batch, None)["vectors"]
            D = vectors.anchor_BD.shape[-1]
            vectors = vectors.truncated(D)
            known = _texts_of(batch, jnp.ones(len(batch["tokens"]), bool))
            return {
                "anchor": vectors.anchor_BD,
                "docs": vectors.docs_BCD,
                "anchor_id": known.anchor_id_B2,
                "doc_id": jnp.where(known.there_BC[..., None], known.doc_id_BC2, 0),
            }

        return predict

    def answering(self, role: str = "") -> VectorsTask:
        """The task that gives the vectors of the texts of a file."""
        config: TextEmbedding = self.config
        longest = {"query": config.max_query, "passage": config.max_passage}.get(role)
        reading = dataclasses.replace(config.reading, max_length=longest)
        return vectors_task(self, reading, role)

    def report(
        self, predictions: Iterable[Predictions], sources: Sequence[Source] = ()
    ) -> dict[str, Any]:
        """Retrieval of each anchor's positives among all documents of the split, or of
        pairs with scores the correlation of cosine and score; of truncated vectors
        too."""
        config: TextEmbedding = self.config
        sizes = [t.size for t in config.truncations]
        if config.scored:
            return retrieval.correlations(predictions, sizes)
        return retrieval.report(predictions, sizes)

    def describe(self, report: Mapping[str, Any]) -> str:
        """A line for whole vectors, and one for each truncation."""
        return retrieval.describe(report)


def joined(batch: Batch) -> tuple[dict[str, jax.Array], int]:
    """The documents of each row of a batch as rows of their own, one after another, and
    how many each row has."""
    C = 1
    while prefix(C) + "tokens" in batch:
        C += 1
    docs = {}
    for name in _STREAM:
        parts = [jnp.asarray(batch[prefix(c) + name]) for c in range(C)]
        stacked = jnp.stack(parts, axis=1)
        docs[name] = stacked.reshape(-1, *stacked.shape[2:])
    return docs, C


def _texts_of(batch: Batch, valid_B: jax.Array) -> Texts:
    """What is known of a batch's texts."""
    docs, C = joined(batch)
    there_NT = docs["segment_ids"] > 0
    doc_id_N2 = losses.identity(docs["tokens"], there_NT)
    anchor_id_B2 = losses.identity(
        jnp.asarray(batch[f"{ANCHOR}tokens"]), batch[f"{ANCHOR}segment_ids"] > 0
    )
    there_BC = jnp.any(there_NT, axis=1).reshape(-1, C)
    return Texts(valid_B, there_BC, anchor_id_B2, doc_id_N2.reshape(-1, C, 2))
