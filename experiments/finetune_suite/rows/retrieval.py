"""Retrieval: a description finds its lead among all of Wikipedia's in the package."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from configs.finetune import text_embedding
from experiments.finetune_suite import baselines, estimates, texts, toys, tuning
from experiments.finetune_suite import weights as weights_lib
from experiments.finetune_suite.row import Outcome, Score, Setting
from llmjax.tasks.embedding import retrieval as measured

MARGIN = 0.03  # above BM25 and the weights as they were
SIZE, KEPT = 64, 0.95  # numbers of a vector, and the share of NDCG that they keep
NDCG = "ndcg@10"


def retrieval(setting: Setting) -> Outcome:
    """NDCG@10 of the descriptions held out, all leads as documents, titles masked."""
    rows = _rows(setting)
    splits = texts.held_out(rows).map(
        lambda row: {"anchor": row["description"], "positive": row["masked"]}
    )
    config = text_embedding.get_config()
    config.data.batch_size, config.data.seq_len = 64, 64
    config.layout.microbatches = 1
    config.task.max_query = 16
    config.task.faulty = "drop"
    D = 16 if setting.quick else 384
    small = 8 if setting.quick else SIZE
    config.task.truncations = ({"size": D}, {"size": small})
    config.train.steps = 100
    config.optimizer.learning_rate = 1e-4
    config.optimizer.schedule.warmup_steps = 10
    path = weights_lib.encoder(setting)
    tuned = tuning.tune(setting, config, splits, path)

    every = [row for own in rows.values() for row in own]
    documents = [*dict.fromkeys(row["masked"] for row in every)]
    pairs = _pairs(splits.test, documents)
    asked, relevant = pairs
    program = tuned.program
    whole, short, base = {}, {}, {}
    for role, given in (("query", asked), ("passage", documents)):
        whole[role] = tuning.vectors(program, tuned.params, role, given)
        base[role] = tuning.vectors(program, tuned.base, role, given)
        short[role] = whole[role][:, :small]
    found = _ndcg(whole["query"], whole["passage"], relevant)
    kept = float(_ndcg(short["query"], short["passage"], relevant).mean())
    before = float(_ndcg(base["query"], base["passage"], relevant).mean())
    counted = float(_ndcg_of(baselines.bm25(documents, asked), relevant).mean())
    estimate = estimates.mean(found)
    share = kept / max(estimate.value, 1e-12)
    return Outcome(
        metric="NDCG@10",
        found=estimate,
        trivial=Score("any order", _by_chance(len(documents))),
        classical=Score("BM25", counted),
        zero_shot=Score("MiniLM untrained on this", before),
        wanted=f"{100 * MARGIN:g} points above BM25 and zero-shot",
        bound=max(counted, before) + MARGIN,
        speed=tuned.speed,
        sizes={**splits.sizes(), "queries": len(asked), "documents": len(documents)},
        more={
            f"NDCG@10 of {small} numbers": kept,
            "of whole vectors'": share,
            "required": {f"{small} numbers keep {KEPT:.0%}": share >= KEPT},
        },
        notes=("equal descriptions are one query; models read 64 tokens of a lead",),
    )


def _rows(setting: Setting) -> dict[str, list[Any]]:
    """The leads that have a description, their titles masked."""
    if setting.quick:
        made = toys.sentences(60, toys.WORDS[6:18])
        own = [
            {"description": f"{r['label']} {k % 5}", "masked": r["text"]}
            for k, r in enumerate(made)
        ]
        return {"train": own[:40], "test": own[40:]}
    rows = texts.packaged("wiki_leads/en", setting)
    return {
        split: [
            {**row, "masked": masked(row["text"], row["title"])}
            for row in own
            if row["description"]
        ]
        for split, own in rows.items()
    }


def masked(text: str, title: str) -> str:
    """A lead whose title, and the words of it that are long, say nothing."""
    plain = re.sub(r"\s*\(.*?\)", "", title)
    long = [word for word in re.findall(r"\w+", plain) if len(word) > 3]
    names = sorted({title, plain, *long}, key=len, reverse=True)
    pattern = "|".join(rf"(?<!\w){re.escape(n)}(?!\w)" for n in names if n)
    return re.sub(pattern, "it", text, flags=re.IGNORECASE) if pattern else text


def _pairs(
    rows: Sequence[texts.Record], documents: Sequence[str]
) -> tuple[list[str], list[np.ndarray]]:
    """Queries, each once, and the places of the documents that answer them."""
    place = {text: k for k, text in enumerate(documents)}
    belonging: dict[str, set[int]] = {}
    for row in rows:
        belonging.setdefault(row["anchor"], set()).add(place[row["positive"]])
    return [*belonging], [np.array(sorted(own)) for own in belonging.values()]


def _ndcg(
    queries_QD: np.ndarray, docs_ND: np.ndarray, relevant: Sequence[np.ndarray]
) -> np.ndarray:
    """NDCG@10 of each query by cosine."""
    counts = [len(own) for own in relevant]
    query_R = np.repeat(np.arange(len(relevant)), counts)
    pool = measured.Pool(queries_QD, docs_ND, query_R, np.concatenate(relevant))
    each = (measured.measures([rank])[NDCG] for rank in measured.ranks(pool))
    return np.array([*each])


def _ndcg_of(scores_QN: np.ndarray, relevant: Sequence[np.ndarray]) -> np.ndarray:
    """NDCG@10 of each query by given scores."""
    out = []
    for scores_N, own in zip(scores_QN, relevant, strict=True):
        order = np.argsort(-scores_N, kind="stable")
        rank = np.flatnonzero(np.isin(order, own)) + 1
        out.append(measured.measures([rank])[NDCG])
    return np.array(out)


def _by_chance(documents: int) -> float:
    """NDCG@10 of one relevant document in a random order."""
    return float((1 / np.log2(1 + np.arange(1, 11))).sum() / max(documents, 10))
