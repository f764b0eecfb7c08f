"""The stages of the quickstart that train or test a model, each with its results."""

from collections.abc import Sequence
from typing import Any

from etils import epath

from experiments.quickstart import baselines
from experiments.quickstart.configs import finetuning_rate
from llmjax import config as cfg
from llmjax.data.prepare.prepare import Corpus
from llmjax.infer.generate import generate, generates
from llmjax.infer.sampling import Sampling
from llmjax.train import run
from llmjax.train.metrics import evaluation
from llmjax.train.metrics.finite import NotFiniteError

SCRATCH_RATES = (3e-4, 1e-3, 3e-3)


def compressors(corpus: Corpus, vocab_size: int) -> dict[str, float]:
    """Bits per byte of the held-out texts, by xz and by token frequencies."""
    xz = baselines.xz_bits_per_byte(
        corpus.texts("train", "text"), corpus.texts("validation", "text")
    )
    unigram = baselines.unigram_bits_per_byte(
        corpus.source("train"), corpus.source("validation"), vocab_size
    )
    return xz | {"unigram": unigram}


def classifiers(corpus: Corpus) -> dict[str, Any]:
    """Majority class and TF-IDF on the masked texts.

    They read each text whole; the model reads only its beginning.
    """
    texts, labels = {}, {}
    for split in ("train", "test"):
        split_labels = corpus.source(split, "masked_text").labels
        split_texts = corpus.texts(split, "masked_text")
        pairs = zip(split_texts, split_labels, strict=True)
        texts[split] = [text for text, label in pairs if label >= 0]
        labels[split] = split_labels[split_labels >= 0]
    return {
        "majority": baselines.majority(labels["train"], labels["test"]),
        "tfidf": baselines.tfidf(
            texts["train"], labels["train"], texts["test"], labels["test"]
        ),
    }


def bits_per_byte(pretrained: epath.Path) -> dict[str, float]:
    """Bits per byte of the whole held-out split, before and after pretraining."""
    program, params, batches = run.load(pretrained)
    untrained = program.init().params
    return {
        "start": evaluation.evaluate(program, untrained, batches)["bits_per_byte"],
        "end": evaluation.evaluate(program, params, batches)["bits_per_byte"],
    }


def finetune(
    config: Any, folder: epath.Path, rates: Sequence[float] = SCRATCH_RATES
) -> dict[str, Any]:
    """Fine-tunes from the checkpoint; trains the same network from scratch.

    From scratch, the learning rate of `rates` that is best on the validation split
    counts.
    """
    run.run(cfg.parse(config), folder / "finetune")
    tuned = evaluate_classifier(folder / "finetune")
    tried = []
    config.init = {"kind": "scratch"}
    for rate in rates:
        config.optimizer.learning_rate = rate
        name = folder / f"scratch_{rate:g}"
        try:
            accuracy = run.run(cfg.parse(config), name).result["eval"]["accuracy"]
        except NotFiniteError:
            accuracy = 0.0
        tried.append({"learning_rate": rate, "validation_accuracy": accuracy})
    best = max(tried, key=lambda t: t["validation_accuracy"])["learning_rate"]
    scratch = evaluate_classifier(folder / f"scratch_{best:g}")
    scratch.pop("confusion")
    return tuned | {
        "learning_rate": finetuning_rate(),
        "steps": config.train.steps,
        "seeds": 1,
        "spread": None,
        "scratch": scratch | {"learning_rate": best, "tried": tried},
    }


def evaluate_classifier(workdir: epath.Path) -> dict[str, Any]:
    """Accuracy, macro-F1 and confusion matrix of a classifier on the test split."""
    program, params, batches = run.load(workdir, "test")
    report = program.task.report(evaluation.predictions(program, params, batches))
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
