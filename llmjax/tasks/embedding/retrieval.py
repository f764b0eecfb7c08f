"""How well vectors find what belongs together: retrieval metrics, and correlations.

A document is relevant to an anchor or it is not; equal texts are one document, equal
anchors one query. Similarities exist for some queries at a time.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from llmjax.tasks.task import Predictions

CUT = 10  # documents of NDCG and MRR
DEPTHS = (1, 10, 100)  # of recall
CELLS = 2**24  # similarities that exist at a time


@dataclasses.dataclass(frozen=True)
class Pool:
    """Queries, documents, and which belong together.

    Attributes:
      queries_QD, docs_ND: float32.
      query_R, doc_R: int64, the pairs that do, each once, by rising query.
    """

    queries_QD: np.ndarray
    docs_ND: np.ndarray
    query_R: np.ndarray
    doc_R: np.ndarray


def pool(predictions: Iterable[Predictions]) -> Pool:
    """The pool of a task's predictions; see `TextEmbeddingTask.predict`."""
    queries, docs = _Unique(), _Unique()
    pairs = []
    for part in predictions:
        values = part.values
        query = queries.add(values["anchor_id"], values["anchor"])
        B, C = values["doc_id"].shape[:2]
        vectors = values["docs"].reshape(B * C, -1)
        doc = docs.add(values["doc_id"].reshape(B * C, 2), vectors).reshape(B, C)
        pairs.append(np.stack([query, doc[:, 0]], axis=1))
    if not pairs:
        empty = np.zeros(0, np.int64)
        return Pool(np.zeros((0, 1)), np.zeros((0, 1)), empty, empty)
    query_R, doc_R = np.unique(np.concatenate(pairs), axis=0).T
    return Pool(queries.vectors, docs.vectors, query_R, doc_R)


class _Unique:
    """Vectors by the two numbers that tell their texts, each once."""

    def __init__(self) -> None:
        self._places: dict[int, int] = {}
        self._vectors: list[np.ndarray] = []

    def add(self, ids_n2: np.ndarray, vectors_nD: np.ndarray) -> np.ndarray:
        """The place of each vector, int64 [n]; that of (0, 0), which is none, is -1."""
        wide = ids_n2.astype(np.uint64)
        keys = (wide[:, 0] << np.uint64(32) | wide[:, 1]).tolist()
        places = np.full(len(keys), -1, np.int64)
        for k, key in enumerate(keys):
            if key:
                place = self._places.setdefault(key, len(self._vectors))
                if place == len(self._vectors):
                    self._vectors.append(np.array(vectors_nD[k], np.float32))
                places[k] = place
        return places

    @property
    def vectors(self) -> np.ndarray:
        """[n, D]."""
        return np.stack(self._vectors)


def ranks(pool: Pool, size: int | None = None) -> Iterator[np.ndarray]:
    """For each query the ranks, from 1 on, of its relevant documents, rising.

    Of equally near ones the first document of the pool comes first.

    Args:
      pool: of vectors.
      size: numbers of the vectors' beginning that are read; None: all.
    """
    queries_QD, docs_ND = (_unit(x[:, :size]) for x in (pool.queries_QD, pool.docs_ND))
    Q, N = len(queries_QD), len(docs_ND)
    bounds = np.searchsorted(pool.query_R, np.arange(Q + 1))
    rows = max(1, CELLS // max(N, 1))
    for start in range(0, Q, rows):
        cosines_qN = queries_QD[start : start + rows] @ docs_ND.T
        for k, cosine_N in enumerate(cosines_qN, start):
            relevant = pool.doc_R[bounds[k] : bounds[k + 1]]
            own = cosine_N[relevant]
            order = np.lexsort((relevant, -own))
            nearer = (cosine_N[None] > own[order, None]).sum(axis=1)
            earlier = [
                int((cosine_N[: relevant[r]] == own[r]).sum()) for r in order.tolist()
            ]
            yield 1 + nearer + np.array(earlier, np.int64)


def measures(relevant: Iterable[np.ndarray]) -> dict[str, float]:
    """Means over queries of NDCG and MRR of ten documents, recall, and average
    precision of all, of the ranks of their relevant documents."""
    sums: dict[str, float] = {}
    count = 0
    for rank in relevant:
        count += 1
        near, n = rank[rank <= CUT], len(rank)
        ideal = (1 / np.log2(1 + np.arange(1, 1 + min(n, CUT)))).sum()
        values = {
            f"ndcg@{CUT}": (1 / np.log2(1 + near)).sum() / ideal,
            f"mrr@{CUT}": 1 / near[0] if len(near) else 0.0,
            **{f"recall@{k}": (rank <= k).sum() / n for k in DEPTHS},
            "map": (np.arange(1, 1 + n) / rank).mean(),
        }
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + float(value)
    return {name: total / max(count, 1) for name, total in sums.items()}


def report(predictions: Iterable[Predictions], sizes: Sequence[int]) -> dict[str, Any]:
    """Retrieval over all documents of a split.

    Args:
      predictions: of a task.
      sizes: of truncated vectors, which are measured too.
    """
    own = pool(predictions)
    if not len(own.query_R):
        return {}
    out: dict[str, Any] = measures(ranks(own))
    out |= {"queries": len(own.queries_QD), "documents": len(own.docs_ND)}
    D = own.docs_ND.shape[1]
    shorter = {str(s): measures(ranks(own, s)) for s in sorted(sizes) if s < D}
    return out | ({"truncated": shorter} if shorter else {})


def correlations(
    predictions: Iterable[Predictions], sizes: Sequence[int]
) -> dict[str, Any]:
    """Spearman's and Pearson's correlation of cosines and scores."""
    scores: list[np.ndarray] = []
    cosines: dict[int, list[np.ndarray]] = {}
    whole = 0
    for part in predictions:
        a, b = part.values["anchor"], part.values["docs"][:, 0]
        whole = a.shape[1]
        scores.append(part.labels["score"])
        for size in {whole, *sizes}:
            near = (_unit(a[:, :size]) * _unit(b[:, :size])).sum(axis=1)
            cosines.setdefault(size, []).append(near)
    if not scores:
        return {}
    score = np.concatenate(scores)
    out: dict[str, Any] = _correlated(np.concatenate(cosines.pop(whole)), score)
    out["pairs"] = len(score)
    shorter = {
        str(size): _correlated(np.concatenate(cosines[size]), score)
        for size in sorted(cosines)
    }
    return out | ({"truncated": shorter} if shorter else {})


def _correlated(cosine: np.ndarray, score: np.ndarray) -> dict[str, float]:
    """0 where either is the same of all pairs, which leaves nothing to compare."""
    from scipy import stats

    if len(score) < 2 or np.ptp(cosine) == 0 or np.ptp(score) == 0:
        return {"spearman": 0.0, "pearson": 0.0}
    return {
        "spearman": float(stats.spearmanr(cosine, score).statistic),
        "pearson": float(stats.pearsonr(cosine, score).statistic),
    }


def describe(report: Mapping[str, Any]) -> str:
    """A line for whole vectors, and one for each truncation."""
    about = {"queries": "queries", "documents": "documents", "pairs": "pairs"}
    counts = [f"{report[k]:,} {word}" for k, word in about.items() if k in report]
    lines = [f"{_numbers(report)} ({', '.join(counts)})"]
    for size, own in report.get("truncated", {}).items():
        lines.append(f"{_numbers(own)} (the first {size} numbers)")
    return "\n".join(lines)


def _numbers(report: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.4f}" for name, value in report.items() if type(value) is float
    )


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
