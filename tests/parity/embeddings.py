"""Text embeddings against sentence-transformers: losses, gradients, folders both ways.

Of vectors that are given the losses and their gradients; of a small model that the
library wrote those of its weights, in microbatches too, against its own gradient
caching; its vectors as ours, and ours as its own that reads what
`experiments.convert` wrote:

    python -m tests.parity.embeddings

`--write` writes the golden file of the default tests: the losses of given vectors.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import sentence_transformers
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.modules import (
    Normalize,
    Pooling,
    Transformer,
)

from llmjax import hub
from llmjax.config import (
    DataConfig,
    LayoutConfig,
    Ranking,
    RunConfig,
    TextEmbedding,
    Truncation,
)
from llmjax.data.batches.pipeline import Pipeline
from llmjax.hub import families, text_vectors
from llmjax.tasks.embedding import rows
from llmjax.tasks.registry import make_task
from llmjax.tasks.task import loss_of
from llmjax.train.gradient_cache import cached
from tests.parity import given_vectors
from tests.parity.given_vectors import CASES, GOLDEN, Case
from tests.parity.pipelines import TEXTS, TOLERANCE, WORDS, config, run, tokenizer

FOURS = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")


class Given(torch.nn.Module):
    """A model whose vectors are its inputs."""

    def __init__(self, size: int):
        super().__init__()
        self.tokenizer, self.size, self.max_seq_length = tokenizer(), size, 8

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        return {"sentence_embedding": features["x"]}

    def get_embedding_dimension(self) -> int:
        return self.size

    def __getitem__(self, _: int) -> Any:
        return self


def loss_of_library(case: Case, model: Any, guide: Any = None) -> Any:
    """The library's loss for a case."""
    own = case.task.loss
    if own.kind == "cosent":
        made: Any = losses.CoSENTLoss(model, scale=1 / own.temperature)
    elif own.kind == "cosine":
        made = losses.CosineSimilarityLoss(model)
    elif own.negatives.kind == "guided":
        made = losses.GISTEmbedLoss(
            model,
            guide,
            temperature=own.temperature,
            margin_strategy=own.negatives.scale,
            margin=own.negatives.margin,
            contrast_anchors="query_to_query" in own.directions,
            contrast_positives="doc_to_doc" in own.directions,
        )
    else:
        made = losses.MultipleNegativesRankingLoss(
            model,
            scale=1 / own.temperature,
            directions=own.directions,
            partition_mode={"joint": "joint", "each": "per_direction"}[own.partition],
        )
    if not case.task.truncations:
        return made
    sizes, weights = zip(
        *((t.size, t.weight) for t in case.task.truncations), strict=True
    )
    return losses.MatryoshkaLoss(model, made, list(sizes), list(weights))


def of_library(case: Case) -> tuple[float, dict[str, np.ndarray]]:
    """The library's loss of given vectors, and its gradient by each."""
    arrays = given_vectors.arrays(case)
    texts = [name for name in ("anchor", "positive", "negative") if name in arrays]
    inputs = {n: torch.tensor(arrays[n], requires_grad=True) for n in texts}
    guides = {n: torch.tensor(arrays[f"guide_{n}"]) for n in texts}
    model = Given(given_vectors.SIZE)

    class Guide(Given):
        def forward(self, features: dict[str, Any]) -> dict[str, Any]:
            return {"sentence_embedding": guides[features["name"]]}

    loss = loss_of_library(case, model, Guide(given_vectors.SIZE))
    features = [{"x": x, "name": n} for n, x in inputs.items()]
    value = loss(features, torch.tensor(arrays["score"]))
    value.backward()
    return float(value.detach()), {n: x.grad.numpy() for n, x in inputs.items()}


def write() -> None:
    """Writes the golden file."""
    cases = {}
    for name, case in CASES.items():
        value, gradients = of_library(case)
        rounded = {k: np.round(g, 9).tolist() for k, g in gradients.items()}
        cases[name] = {"value": value, "gradients": rounded}
    versions = {m.__name__: m.__version__ for m in (sentence_transformers, torch)}
    text = json.dumps({"versions": versions, "cases": cases})
    GOLDEN.write_text(text + "\n")


def given() -> dict[str, float]:
    """The largest difference of each case's value and gradients."""
    found = {}
    for name, case in CASES.items():
        theirs, ours = of_library(case), given_vectors.ours(case)
        found[f"loss {name}"] = given_vectors.difference(ours, theirs)
    return found


# --- a model -------------------------------------------------------------------------


def library_model(folder: Path, pooling: str, normalize: bool) -> SentenceTransformer:
    """A small model of the library, with prompts, also written to a folder."""
    torch.manual_seed(0)
    own = tokenizer()
    transformers.BertModel(config(len(own)), add_pooling_layer=False).save_pretrained(
        folder / "bert"
    )
    own.save_pretrained(folder / "bert")
    body = Transformer(str(folder / "bert"), max_seq_length=18)
    modules = [body, Pooling(body.get_embedding_dimension(), pooling)]
    modules += [Normalize()] if normalize else []
    prompts = {"query": "good: ", "document": "the plot. "}
    model = SentenceTransformer(modules=modules, prompts=prompts, device="cpu")
    model.save(str(folder / "library"))
    return model.eval()


def pairs() -> list[tuple[str, str, str]]:
    """Eight rows of an anchor, a positive and a negative."""
    words = [WORDS[k:] + WORDS[:k] for k in range(8)]
    return [(" ".join(w[:3]), " ".join(w[3:9]), " ".join(w[9:12])) for w in words]


def weights_gradients(folder: Path, model: SentenceTransformer) -> dict[str, float]:
    """Differences of loss and gradients of all weights, in microbatches too."""
    columns = [*zip(*pairs(), strict=True)]
    names = ("query", "document", "document")
    features = [
        model.preprocess([model.prompts[name] + text for text in texts])
        for name, texts in zip(names, columns, strict=True)
    ]
    found = {}
    for label, make in _losses().items():
        loss, task_loss, microbatches = make(model)
        model.zero_grad()
        value = loss(features, torch.zeros(8))
        value.backward()
        theirs = {
            name: p.grad.numpy()
            for name, p in model[0].model.named_parameters()
            if p.grad is not None
        }
        ours = of_ours(folder / "library", task_loss, microbatches)
        kept = {name: ours[1][name] for name in theirs}
        found[f"weights {label}"] = given_vectors.difference(
            (ours[0], kept), (float(value.detach()), theirs)
        )
    return found


def _losses() -> dict[str, Callable[[Any], Any]]:
    plain, four = TextEmbedding(), TextEmbedding(loss=Ranking(directions=FOURS))
    cut = TextEmbedding(truncations=(Truncation(12), Truncation(5, 0.5)))
    ranking = losses.MultipleNegativesRankingLoss
    caching = losses.CachedMultipleNegativesRankingLoss
    return {
        "ranking": lambda m: (ranking(m), plain, 1),
        "cached": lambda m: (caching(m, mini_batch_size=2), plain, 4),
        "four directions": lambda m: (ranking(m, directions=FOURS), four, 2),
        "truncated": lambda m: (
            losses.MatryoshkaLoss(m, ranking(m), [12, 5], [1, 0.5]),
            cut,
            2,
        ),
    }


def of_ours(
    folder: Path, task_config: TextEmbedding, microbatches: int
) -> tuple[float, dict[str, np.ndarray]]:
    """Our loss of `pairs`, and its gradient by the hub's names of weights."""
    model, params = hub.load(folder)
    reading = text_vectors.read(folder)
    assert reading is not None
    data = DataConfig(seq_len=18, batch_size=8, packing="pad")
    cfg = dataclasses.replace(model.cfg, dropout=0.0, attention_dropout=0.0)
    run_config = RunConfig(cfg, task_config, data, LayoutConfig())
    kind: Any = type(make_task(run_config, hub.tokenizer(folder)))
    task_config = kind.with_reading(task_config, reading, data)
    task_config = dataclasses.replace(task_config, negatives=1)
    run_config = dataclasses.replace(run_config, task=task_config)
    task: Any = make_task(run_config, hub.tokenizer(folder))
    examples = [
        {
            "anchor": task.query.encoded(a),
            "positive": task.passage.encoded(p),
            "negatives": [task.passage.encoded(n)],
            "score": 1.0,
        }
        for a, p, n in pairs()
    ]
    source = rows.Rows(np.full(8, 10), rows.Listed(examples))
    pipeline = Pipeline(
        source, task.features, data, task.length, declared=task.declared
    )
    batch = jax.tree.map(np.asarray, next(pipeline.evaluation()))
    loss: Any = loss_of(task, task.model(cfg, LayoutConfig()))
    if microbatches > 1:
        loss = cached(loss, microbatches)

    def mean(params: Any) -> Any:
        total, count, *_ = loss(params, {}, {}, batch, jax.random.key(0))
        return total / count

    value, grads = jax.jit(jax.value_and_grad(mean))(params)
    family = families.family("bert")
    return float(value), hub.to_hub(family, model.cfg, jax.device_get(grads), bare=True)


ROLES = (("query", "encode_query"), ("passage", "encode_document"))


def vectors(folder: Path, model: SentenceTransformer, roles: Any) -> dict[str, float]:
    """Differences of vectors: of the library's folder, and of one that we wrote."""
    texts = [text for text in TEXTS if text]
    lines = (json.dumps({"text": text}) + "\n" for text in texts)
    (folder / "new.jsonl").write_text("".join(lines))
    run("convert", f"--source={folder}/library", f"--target={folder}/run")
    run("convert", f"--source={folder}/run", f"--target={folder}/ours")
    ours = SentenceTransformer(str(folder / "ours"), device="cpu")
    found = {}
    for role, encode in roles:
        answers = folder / f"{role}.jsonl"
        where = f"--run={folder}/library", f"--input={folder}/new.jsonl"
        run("predict", *where, f"--output={answers}", f"--role={role}")
        made = [json.loads(line)["vector"] for line in answers.read_text().splitlines()]
        for name, other in (("theirs read here", model), ("ours read there", ours)):
            wanted = getattr(other, encode)(texts)
            found[f"{role}, {name}"] = float(np.abs(np.array(made) - wanted).max())
    return found


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", action="store_true")
    if parser.parse_args().write:
        write()
        return 0
    errors = given()
    for pooling, normalize in (("mean", True), ("cls", False), ("lasttoken", True)):
        with tempfile.TemporaryDirectory() as name:
            model = library_model(Path(name), pooling, normalize)
            mean = pooling == "mean"
            own = vectors(Path(name), model, ROLES if mean else ROLES[:1])
            if mean:
                own |= weights_gradients(Path(name), model)
            errors |= {f"{pooling}: {key}": error for key, error in own.items()}
    worst = max(errors, key=lambda key: errors[key])
    bad = [f"{k} {e:.1e}" for k, e in errors.items() if not e <= TOLERANCE]
    print(f"embeddings: {len(errors)} comparisons, the largest difference ", end="")
    print(f"{errors[worst]:.1e} ({worst})")
    for line in bad:
        print(f"  FAILED: {line}, more than {TOLERANCE}")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
