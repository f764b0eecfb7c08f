"""Retrieval by vectors against scikit-learn's measures, and correlations."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from llmjax.tasks.embedding import retrieval
from llmjax.tasks.task import Predictions


def parts(Q=23, C=3, D=8):
    """Predictions of rows: some ask the same, some documents are not there."""
    rng = np.random.default_rng(0)
    asks = rng.integers(Q * 2 // 3, size=Q)
    anchors, docs = rng.standard_normal((Q, D)), rng.standard_normal((Q, C, D))
    anchors = np.stack([anchors[k] for k in asks])
    docs[:, 0] += 0.7 * anchors
    ids = np.arange(1, 1 + Q * C * 2).reshape(Q, C, 2)
    ids[3, 2] = 0
    docs[5, 1], ids[5, 1] = docs[4, 0], ids[4, 0]  # a negative that is a positive
    rows = {
        "anchor": anchors.astype(np.float32),
        "docs": docs.astype(np.float32),
        "anchor_id": np.array([[0, 1 + k] for k in asks]).astype(np.uint32),
        "doc_id": ids.astype(np.uint32),
    }
    score = rng.uniform(size=Q).astype(np.float32)
    for start in range(0, Q, 7):
        here = slice(start, start + 7)
        values = {k: v[here] for k, v in rows.items()}
        n = len(values["anchor"])
        yield Predictions(start + np.arange(n), values, {"score": score[here]})


def matrices(size=None):
    """Relevance and similarity of every query to every document, by hand."""
    queries, docs, pairs = {}, {}, []
    for part in parts():
        v = part.values
        for q, qid, ds, dids in zip(
            v["anchor"], v["anchor_id"], v["docs"], v["doc_id"], strict=True
        ):
            queries[tuple(qid)] = q[:size] / np.linalg.norm(q[:size])
            for d, did in zip(ds, dids, strict=True):
                if did.any():
                    docs[tuple(did)] = d[:size] / np.linalg.norm(d[:size])
            pairs.append((tuple(qid), tuple(dids[0])))
    relevant = np.array([[(q, d) in pairs for d in docs] for q in queries], float)
    return relevant, np.array(
        [[a @ b for b in docs.values()] for a in queries.values()]
    )


@pytest.mark.parametrize("size", [None, 3])
@pytest.mark.parametrize("cells", [2**24, 100])
def test_measures_are_scikit_learns(size, cells, monkeypatch):
    monkeypatch.setattr(retrieval, "CELLS", cells)
    report = retrieval.report(parts(), [3, 8])
    relevant, cosine = matrices(size)
    assert (report["queries"], report["documents"]) == relevant.shape
    assert relevant.sum(axis=1).max() > 1
    own = report["truncated"]["3"] if size else report
    ndcg = metrics.ndcg_score(relevant, cosine, k=10)
    ap = [metrics.average_precision_score(r, c) for r, c in zip(relevant, cosine)]  # noqa: B905
    np.testing.assert_allclose(own["ndcg@10"], ndcg, rtol=1e-6)
    np.testing.assert_allclose(own["map"], np.mean(ap), rtol=1e-6)
    order = np.argsort(-cosine, axis=1)
    hits = np.take_along_axis(relevant, order, axis=1)
    first = hits.argmax(axis=1)
    mrr = np.where(first < 10, 1 / (1 + first), 0).mean()
    np.testing.assert_allclose(own["mrr@10"], mrr, rtol=1e-6)
    for k in (1, 10, 100):
        recall = (hits[:, :k].sum(axis=1) / hits.sum(axis=1)).mean()
        np.testing.assert_allclose(own[f"recall@{k}"], recall, rtol=1e-6)
    words = retrieval.describe(report)
    assert f"ndcg@10 {report['ndcg@10']:.4f}" in words and "first 3 numbers" in words


def test_correlations_are_scipys():
    report = retrieval.correlations(parts(), [3])
    whole = [*parts()]
    a, b = (np.concatenate([p.values[k] for p in whole]) for k in ("anchor", "docs"))
    score = np.concatenate([p.labels["score"] for p in whole])
    for size, own in ((8, report), (3, report["truncated"]["3"])):
        x, y = a[:, :size], b[:, 0, :size]
        near = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
        wanted = stats.spearmanr(near, score).statistic
        np.testing.assert_allclose(own["spearman"], wanted, rtol=1e-6)
    assert report["pairs"] == 23
    assert retrieval.correlations([], [3]) == {} == retrieval.report([], [3])


def test_of_equally_near_documents_the_first_comes_first():
    same = np.ones((1, 4), np.float32)
    pool = retrieval.Pool(
        same, np.repeat(same, 5, axis=0), np.int64([0]), np.int64([2])
    )
    assert next(retrieval.ranks(pool)).tolist() == [3]
