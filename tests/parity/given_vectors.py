"""Losses of vectors that are given, as the library's golden file has them."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.config import (
    CoSENT,
    CosineRegression,
    DataConfig,
    GuidedNegatives,
    ModelConfig,
    Ranking,
    RunConfig,
    TextEmbedding,
    Truncation,
)
from llmjax.data.tokenizers.vocabulary import PlainVocabulary
from llmjax.tasks.embedding.embedding import TextEmbeddingTask
from llmjax.tasks.embedding.losses import Vectors
from tests.parity.goldens import FOLDER

GOLDEN = FOLDER / "embeddings.json"
ROWS, SIZE = 6, 8
Result = tuple[float, dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Case:
    """A loss, and whether rows have a negative."""

    task: TextEmbedding
    negative: bool = False


_FOURS = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
_ALIKE = ("query_to_doc", "query_to_query", "doc_to_doc")
_CUT = (Truncation(8), Truncation(5, 0.5), Truncation(2, 2.0))
CASES = {
    "ranking": Case(TextEmbedding(loss=Ranking(0.1))),
    "ranking with negatives": Case(TextEmbedding(loss=Ranking(0.1)), True),
    "both ways": Case(
        TextEmbedding(loss=Ranking(0.1, ("query_to_doc", "doc_to_query"), "each")), True
    ),
    "four directions": Case(TextEmbedding(loss=Ranking(0.1, _FOURS)), True),
    "guided": Case(
        TextEmbedding(loss=Ranking(0.1, _ALIKE, negatives=GuidedNegatives()))
    ),
    "guided by a margin": Case(
        TextEmbedding(loss=Ranking(0.1, negatives=GuidedNegatives(margin=0.1))), True
    ),
    "guided by a relative margin": Case(
        TextEmbedding(
            loss=Ranking(0.1, negatives=GuidedNegatives(margin=-0.5, scale="relative"))
        ),
        True,
    ),
    "cosent": Case(TextEmbedding(loss=CoSENT(0.1))),
    "cosine": Case(TextEmbedding(loss=CosineRegression())),
    "truncated": Case(TextEmbedding(loss=Ranking(0.1), truncations=_CUT), True),
    "truncated cosent": Case(TextEmbedding(loss=CoSENT(0.1), truncations=_CUT)),
}


def arrays(case: Case) -> dict[str, np.ndarray]:
    """Vectors of texts, float32 [rows, size], those of a guide, and scores."""
    rng = np.random.default_rng(0)
    made: dict[str, np.ndarray] = {}
    for name in ("anchor", "positive", "negative"):
        for prefix in ("", "guide_"):
            values = rng.standard_normal((ROWS, SIZE))
            made[prefix + name] = values.astype(np.float32)
    made["guide_positive"] += np.float32(0.6) * made["guide_anchor"]
    made["score"] = np.array([0.9, 0.1, 0.5, 0.5, 0.0, 1.0], np.float32)
    if not case.negative:
        del made["negative"], made["guide_negative"]
    return made


def ours(case: Case) -> Result:
    """Our loss of given vectors, and its gradient by each."""
    given = arrays(case)
    model = ModelConfig(architecture="encoder", vocab_size=64, d_model=SIZE)
    data = DataConfig(packing="pad", seq_len=8, batch_size=ROWS)
    config = dataclasses.replace(case.task, negatives=int(case.negative))
    task = TextEmbeddingTask(RunConfig(model, config, data), PlainVocabulary(64))
    batch = jax.tree.map(jnp.asarray, task.example_batch(ROWS))
    batch["score"] = jnp.asarray(given["score"])

    def vectors(made: Any, prefix: str = "") -> Vectors:
        names = ("positive", "negative")[: 1 + case.negative]
        docs = [made[prefix + name] for name in names]
        anchor = jnp.asarray(made[f"{prefix}anchor"])
        return Vectors(anchor, jnp.stack(docs, axis=1))

    def mean(made: Any) -> Any:
        outputs = {"vectors": vectors(made), "guide": vectors(given, "guide_")}
        total, count, _ = task.score(outputs, batch, training=True)
        return total / count

    texts = {k: v for k, v in given.items() if k in ("anchor", "positive", "negative")}
    value, grads = jax.jit(jax.value_and_grad(mean))(texts)
    return float(value), jax.device_get(grads)


def difference(one: Result, other: Result) -> float:
    """The largest difference of value and gradients; infinite for other names."""
    if one[1].keys() != other[1].keys():
        return float("inf")
    apart = [np.abs(one[1][k] - other[1][k]).max() for k in one[1]]
    return float(max([abs(one[0] - other[0]), *apart]))


def golden() -> dict[str, Result]:
    """What the library computed once."""
    cases = json.loads(GOLDEN.read_text())["cases"]
    return {
        name: (
            case["value"],
            {k: np.array(g, np.float32) for k, g in case["gradients"].items()},
        )
        for name, case in cases.items()
    }
