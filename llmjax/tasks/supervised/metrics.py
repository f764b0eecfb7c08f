"""Metrics of texts that a model wrote, by the libraries that define them.

Exact match and F1 of words are SQuAD's. BLEU and chrF are sacrebleu's (Post 2018), with
the signature that says how they were counted; ROUGE is rouge-score's, with Porter's
stemmer, which knows no letters but a to z. Both come with the extra `eval`.
"""

import importlib
from collections.abc import Sequence
from typing import Any

from llmjax.config import TextMetric
from llmjax.tasks.labelled import squad

LIBRARIES: dict[str, tuple[str, str]] = {  # metric -> module, its name in PyPI
    "bleu": ("sacrebleu", "sacrebleu"),
    "chrf": ("sacrebleu", "sacrebleu"),
    "rouge": ("rouge_score.rouge_scorer", "rouge-score"),
}
ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def check(metrics: Sequence[TextMetric]) -> None:
    """Raises ValueError for a metric whose library is not installed."""
    for name in metrics:
        if name in LIBRARIES:
            _library(name)


def _library(metric: str) -> Any:
    module, package = LIBRARIES[metric]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as e:
        raise ValueError(
            f"task.metrics has {metric!r}, which {package} counts, and {e.name!r} is "
            "not installed; pip install 'llmjax[eval]', or leave it out"
        ) from e


def report(
    metrics: Sequence[TextMetric], texts: Sequence[str], references: Sequence[str]
) -> dict[str, Any]:
    """Metrics of texts against one reference each.

    `exact_match`, `f1`, `rouge1`… are means from 0 to 1; `bleu` and `chrf` go to 100
    and have a `…_signature`.
    """
    out: dict[str, Any] = {"texts": len(texts)}
    pairs = [*zip(texts, references, strict=True)]
    n = max(len(pairs), 1)
    for name in metrics:
        if name in ("bleu", "chrf"):
            out |= _sacrebleu(name, texts, references)
        elif name == "rouge":
            out |= _rouge(pairs)
        else:
            score = squad.exact_match if name == "exact_match" else squad.f1
            out[name] = sum(score(text, right) for text, right in pairs) / n
    return out


def _sacrebleu(
    name: str, texts: Sequence[str], references: Sequence[str]
) -> dict[str, Any]:
    library = _library(name)
    metric = library.BLEU() if name == "bleu" else library.CHRF()
    if not texts:
        return {name: 0.0}
    score = metric.corpus_score([*texts], [[*references]]).score
    return {name: score, f"{name}_signature": str(metric.get_signature())}


def _rouge(pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
    scorer = _library("rouge").RougeScorer([*ROUGE], use_stemmer=True)
    sums = dict.fromkeys(ROUGE, 0.0)
    for text, right in pairs:
        for name, score in scorer.score(right, text).items():
            sums[name] += score.fmeasure
    return {name: total / max(len(pairs), 1) for name, total in sums.items()}


def describe(report: dict[str, Any]) -> str:
    """A line for each metric, signatures behind theirs."""
    names = [k for k in report if k != "texts" and not k.endswith("_signature")]
    lines = [f"on {report['texts']:,} texts"]
    for name in names:
        value = report[name]
        shown = f"{value:.2f}" if name in ("bleu", "chrf") else f"{value:.4f}"
        signature = report.get(f"{name}_signature", "")
        lines.append(f"{name.replace('_', ' '):12}{shown:>8}  {signature}".rstrip())
    return "\n".join(lines)
