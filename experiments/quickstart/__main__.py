"""From the text that Python carries to a trained, tuned and talking model, reported.

    python -m experiments.quickstart --workdir=runs/quickstart [--quick]

Prepare, baselines, pretrain, fine-tune (and the same network from scratch), evaluate,
generate, report. Each part goes on from what the workdir holds. `--quick` shrinks
everything to a toy that shows the path, not the result.
"""

import contextlib
import os
import platform
import time
from collections.abc import Iterator
from typing import Any, cast

import flax
import jax
from absl import flags
from etils import epath

from configs.finetune import python_docs as finetune_config
from configs.pretrain import python_docs as pretrain_config
from experiments import cli
from experiments.quickstart import baselines, plots, report
from llmjax import config as cfg
from llmjax.data.prepare import prepare
from llmjax.data.prepare.prepare import Corpus
from llmjax.infer.generate import generate
from llmjax.infer.sampling import Sampling
from llmjax.models.heads.language import LanguageModel
from llmjax.train import evaluation, flops, run, writers
from llmjax.train.log import NotFiniteError

QUICK = flags.DEFINE_bool("quick", False, "A toy size, for tests.")
DIRECTORY = flags.DEFINE_string("directory", None, "Cache of corpora.")

PROMPT = "Return the sum of the elements of the array"
SCRATCH_RATES = (3e-4, 1e-3, 3e-3)


def toy(config: Any) -> Any:
    """The same run in seconds, on the small corpus."""
    config.data.source = "python_docs/small"
    config.data.tokenizer.vocab_size = 512
    config.data.seq_len = 64
    config.model.vocab_size = 512
    config.model.d_model = 32
    config.model.d_ff = 64
    config.model.num_layers = 2
    config.model.num_heads = 2
    config.train.steps = 20
    config.train.log_every = 2
    config.train.eval_every = 20
    config.train.eval_batches = 2
    config.train.checkpoint_every = 20
    config.optimizer.schedule.warmup_steps = 2
    return config


def configs(pretrained: epath.Path) -> tuple[cfg.RunConfig, Any]:
    """The pretraining run, and the ConfigDict of the fine-tuning ones."""
    first, second = pretrain_config.get_config(), finetune_config.get_config()
    for config in (first, second):
        if QUICK.value:
            toy(config)
        if DIRECTORY.value:
            config.data.directory = DIRECTORY.value
    second.init.path = str(pretrained)
    return cfg.parse(first), second


def main() -> None:
    seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(name: str) -> Iterator[None]:
        print(f"quickstart: {name}", flush=True)
        start = time.perf_counter()
        yield
        seconds[name] = time.perf_counter() - start

    folder = epath.Path(cli.WORKDIR.value).expanduser().absolute()
    folder.mkdir(parents=True, exist_ok=True)
    config, tune = configs(folder / "pretrain")
    with stage("prepare"):
        corpus = prepare.prepare(config.data)
    with stage("baselines"):
        compression = baselines.xz_bits_per_byte(
            corpus.texts("train", "text"), corpus.texts("validation", "text")
        )
        unigram = baselines.unigram_bits_per_byte(
            corpus.source("train"), corpus.source("validation"), config.model.vocab_size
        )
        classifiers = classical(corpus)
    with stage("matmul peak"):
        peak, _ = flops.matmul_peak()
    with stage("pretrain"):
        trained = run.run(config, folder / "pretrain")
    with stage("evaluate"):
        bits = bits_per_byte(folder / "pretrain") | compression | {"unigram": unigram}
    with stage("fine-tune"):
        tuned = finetune(tune, folder)
    with stage("generate"):
        sample = {"prompt": PROMPT, "text": continuation(folder / "pretrain", corpus)}
    seconds["total"] = sum(seconds.values())

    confusion = tuned.pop("confusion")
    result = {
        "bits_per_byte": bits,
        "finetune": tuned | classifiers,
        **speed(config, trained["tokens_per_second"], peak),
        "peak_memory_bytes": flops.peak_memory_bytes(),
        "seconds": seconds,
        "sample": sample,
        **description(config, trained["parameters"], corpus),
    }
    plots.confusion(confusion, corpus.class_names, folder / "confusion.png")
    curves(result, folder)
    report.write(result, folder)
    print(report.summary(result))


def speed(config: cfg.RunConfig, rate: float, peak: float) -> dict[str, float]:
    """MFU of pretraining at `rate` tokens/s, against a peak in FLOP/s."""
    full, causal = flops.training_flops(config.model, 1, config.data.seq_len)
    return {
        "tokens_per_second": rate,
        "mfu": full * rate / peak,
        "mfu_causal": causal * rate / peak,
        "matmul_peak_flops": peak,
    }


def description(
    config: cfg.RunConfig, parameters: int, corpus: Corpus
) -> dict[str, Any]:
    """What was trained, on what, and where."""
    data, train = config.data, corpus.source("train")
    return {
        "steps": config.train.steps,
        "tokens": config.train.steps * data.batch_size * data.seq_len,
        "model": {
            "parameters": parameters,
            "layers": config.model.L,
            "d_model": config.model.d_model,
            "heads": config.model.num_heads,
            "vocabulary": config.model.vocab_size,
        },
        "corpus": {
            "name": corpus.manifest["corpus"],
            "documents": len(train),
            "bytes": train.num_bytes,
        },
        "environment": {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "flax": flax.__version__,
            "platform": jax.default_backend(),
            "cpu_count": os.cpu_count(),
        },
    }


def curves(result: dict[str, Any], folder: epath.Path) -> None:
    """Draws pretraining and fine-tuning by step."""
    bits, tuned = result["bits_per_byte"], result["finetune"]
    plots.curves(
        writers.read(folder / "pretrain"),
        folder / "pretraining.png",
        references={k: bits[k] for k in ("unigram", "xz", "xz_given_train")},
    )
    plots.curves(
        writers.read(folder / "finetune"),
        folder / "finetuning.png",
        references={k: tuned[k]["accuracy"] for k in ("majority", "tfidf")},
        metric="accuracy",
        label="accuracy",
        title="Fine-tuning",
    )


def classical(corpus: Corpus) -> dict[str, Any]:
    """Majority class and TF-IDF on the masked texts, whole; the model reads a start."""
    texts, labels = {}, {}
    for split in ("train", "test"):
        every = corpus.source(split, "masked_text").labels
        texts[split] = [
            text
            for text, label in zip(
                corpus.texts(split, "masked_text"), every, strict=True
            )
            if label >= 0
        ]
        labels[split] = every[every >= 0]
    return {
        "majority": baselines.majority(labels["train"], labels["test"]),
        "tfidf": baselines.tfidf(
            texts["train"], labels["train"], texts["test"], labels["test"]
        ),
    }


def bits_per_byte(pretrained: epath.Path) -> dict[str, float]:
    """Of the whole held-out split, before and after pretraining."""
    program, params, batches = run.load(pretrained)
    untrained = program.init().params
    return {
        "start": evaluation.evaluate(program, untrained, batches)["bits_per_byte"],
        "end": evaluation.evaluate(program, params, batches)["bits_per_byte"],
    }


def finetune(config: Any, folder: epath.Path) -> dict[str, Any]:
    """From the checkpoint, and from scratch at the best of three learning rates."""
    run.run(cfg.parse(config), folder / "finetune")
    tuned = tested(folder / "finetune")
    tried = []
    config.init = {"kind": "scratch"}
    for rate in SCRATCH_RATES[1:2] if QUICK.value else SCRATCH_RATES:
        config.optimizer.learning_rate = rate
        name = folder / f"scratch_{rate:g}"
        try:
            accuracy = run.run(cfg.parse(config), name)["eval"]["accuracy"]
        except NotFiniteError:
            accuracy = 0.0
        tried.append({"learning_rate": rate, "validation_accuracy": accuracy})
    best = max(tried, key=lambda t: t["validation_accuracy"])["learning_rate"]
    scratch = tested(folder / f"scratch_{best:g}")
    scratch.pop("confusion")
    tuning = cfg.parse(finetune_config.get_config()).optimizer
    return tuned | {
        "learning_rate": tuning.learning_rate,
        "steps": config.train.steps,
        "seeds": 1,
        "spread": None,
        "scratch": scratch | {"learning_rate": best, "tried": tried},
    }


def tested(workdir: epath.Path) -> dict[str, Any]:
    """Accuracy, macro-F1 and confusion of a classifier on the test split."""
    program, params, batches = run.load(workdir, "test")
    return program.task.report(evaluation.predictions(program, params, batches))


def continuation(pretrained: epath.Path, corpus: Corpus) -> str:
    """What the model makes of the prompt."""
    program, params, _ = run.load(pretrained)
    tokenizer = corpus.tokenizer
    prompt = [tokenizer.bos_id, *tokenizer.encode(PROMPT)]
    (tokens,) = generate(
        cast(LanguageModel, program.model),
        params,
        [prompt],
        max_new_tokens=96,
        sampling=Sampling(temperature=0.7, top_p=0.9),
        stop_tokens=(tokenizer.eos_id,),
    )
    return tokenizer.decode(tokens)


if __name__ == "__main__":
    cli.launch(main, required=("workdir",))
