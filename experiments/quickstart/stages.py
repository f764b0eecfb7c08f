"""The stages of the quickstart that train or test a model, each with its results."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from experiments.quickstart import baselines
from experiments.quickstart.configs import finetuning_rate
from llmjax import config as cfg
from llmjax.data.batches.pipeline import Part, Pipeline
from llmjax.data.store.corpus import Corpus
from llmjax.infer.generate import generate, generates
from llmjax.infer.sampling import Sampling
from llmjax.tasks.registry import make_task
from llmjax.train import initial, run
from llmjax.train.checkpoints import weights
from llmjax.train.metrics import evaluation, writers
from llmjax.train.metrics.finite import NotFiniteError

SCRATCH_RATES = (1e-3,)  # at 3e-3 it gives every text one class


def compressors(corpus: Corpus, vocab_size: int) -> dict[str, float]:
    """Bits per byte of the held-out texts, by xz and by token frequencies."""
    xz = baselines.xz_bits_per_byte(
        corpus.texts("train", "text"), corpus.texts("validation", "text")
    )
    unigram = baselines.unigram_bits_per_byte(
        corpus.source("train"), corpus.source("validation"), vocab_size
    )
    return xz | {"unigram": unigram}


def few(available: int, count: int) -> np.ndarray:
    """Places of `count` of the labelled training texts, the same for every classifier.

    At random from a fixed seed; all of them where there are no more.
    """
    return np.random.default_rng(0).permutation(available)[:count]


def classifiers(corpus: Corpus, count: int) -> dict[str, Any]:
    """Majority class and TF-IDF on the masked texts.

    They read each text whole; the model reads only its beginning.

    Args:
      corpus: with classes.
      count: labelled texts that the model is fine-tuned on.

    Returns:
      Of each accuracy, macro-F1, and how many labelled `texts` it has read. `tfidf`
      reads those of the model, `tfidf_all` all of them.
    """
    texts, labels = {}, {}
    for split in ("train", "test"):
        split_labels = corpus.source(split, "masked_text").labels
        split_texts = corpus.texts(split, "masked_text")
        pairs = zip(split_texts, split_labels, strict=True)
        texts[split] = [text for text, label in pairs if label >= 0]
        labels[split] = split_labels[split_labels >= 0]
    test = texts["test"], labels["test"]

    def tfidf(places: np.ndarray) -> dict[str, float]:
        some = [texts["train"][k] for k in places]
        scores = baselines.tfidf(some, labels["train"][places], *test)
        return scores | {"texts": len(some)}

    available = len(texts["train"])
    same = few(available, count)
    majority = baselines.majority(labels["train"][same], test[1])
    return {
        "majority": majority | {"texts": len(same)},
        "tfidf": tfidf(same),
        "tfidf_all": tfidf(np.arange(available)),
    }


def bits_per_byte(pretrained: epath.Path) -> dict[str, float]:
    """Bits per byte of held-out text.

    At the start of pretraining of the batches that it evaluates, after it of the whole
    split.
    """
    program, params, batches = run.load(pretrained)
    end = evaluation.evaluate(program, params, batches)["bits_per_byte"]
    return {"start": writers.read(pretrained)[0]["eval/bits_per_byte"], "end": end}


def finetune(
    config: Any,
    folder: epath.Path,
    count: int,
    rates: Sequence[float] = SCRATCH_RATES,
) -> dict[str, Any]:
    """Fine-tunes from the checkpoint; trains the same network from scratch.

    Both on the same `count` labelled texts. From scratch, the learning rate of `rates`
    that is best on the validation split counts.
    """
    train_on_few(cfg.parse(config), folder / "finetune", count)
    tuned = evaluate_classifier(folder / "finetune")
    tried = []
    config.init = {"kind": "scratch"}
    for rate in rates:
        config.optimizer.learning_rate = rate
        name = folder / f"scratch_{rate:g}"
        try:
            trained = train_on_few(cfg.parse(config), name, count)
            accuracy = trained.result["eval"]["accuracy"]
        except NotFiniteError:
            accuracy = 0.0
        tried.append({"learning_rate": rate, "validation_accuracy": accuracy})
    best = max(tried, key=lambda t: t["validation_accuracy"])["learning_rate"]
    scratch = evaluate_classifier(folder / f"scratch_{best:g}")
    scratch.pop("confusion")
    return tuned | {
        "texts": count,
        "learning_rate": finetuning_rate(),
        "steps": config.train.steps,
        "seeds": 1,
        "spread": None,
        "scratch": scratch | {"texts": count, "learning_rate": best, "tried": tried},
    }


def train_on_few(config: cfg.RunConfig, workdir: epath.Path, count: int) -> run.Run:
    """Trains a classifier on `few` of the labelled texts, epoch after epoch."""
    config = initial.complete(config, workdir)
    ((_, corpus),) = weights.open_corpora(workdir, config.data)
    task = make_task(config, corpus.tokenizer)
    documents = task.documents(corpus, config.data.train_split)
    some = documents.select(few(len(documents), count))
    part = Part("data.source", task.examples(some), task.features, task.length)
    source = Pipeline.of([part], config.data)
    return run.run(config, workdir, source=source)


def evaluate_classifier(workdir: epath.Path) -> dict[str, Any]:
    """Accuracy, macro-F1 and confusion matrix of a classifier on the test split."""
    program, params, batches = run.load(workdir, "test")
    values = evaluation.predictions(program, params, batches)
    report = program.task.report(values, batches.sources)
    return {name: report[name] for name in ("accuracy", "macro_f1", "confusion")}


def continuation(pretrained: epath.Path, corpus: Corpus, prompt: str) -> str:
    """Text that the pretrained model samples after a prompt."""
    program, params, _ = run.load(pretrained)
    model, tokenizer = program.model, corpus.tokenizer
    assert generates(model)
    tokens = [tokenizer.bos_id, *tokenizer.encode(prompt)]
    (sampled,) = generate(
        model,
        params,
        [tokens],
        max_new_tokens=96,
        sampling=Sampling(temperature=0.7, top_p=0.9),
        stop_tokens=(tokenizer.eos_id,),
    )
    return tokenizer.decode(sampled)
