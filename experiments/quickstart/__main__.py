"""Pretrains, fine-tunes and samples a model on Python's documentation, and reports.

    python -m experiments.quickstart --workdir=runs/quickstart [--quick]

The text comes with Python and its packages. The stages: prepare, baselines, matmul
peak, pretrain, evaluate, embed (halves of a text are drawn together), fine-tune (and
the same network from scratch), generate, report. Each run continues from what the
workdir holds. `--quick` shrinks everything to a toy that shows the path, not the
result.
"""

import contextlib
import os
import platform
import time
from collections.abc import Iterator
from typing import Any

import flax
import jax
from absl import flags
from etils import epath

from experiments import cli
from experiments.quickstart import plots, report, stages
from experiments.quickstart.configs import TEXTS, configs
from llmjax import config as cfg
from llmjax.data.prepare import prepare
from llmjax.data.prepare.prepare import Corpus
from llmjax.train import run
from llmjax.train.metrics import flops, writers

QUICK = flags.DEFINE_bool("quick", False, "Toy sizes, for tests.")
DIRECTORY = flags.DEFINE_string("directory", None, "Cache of corpora.")

BASELINES = {  # in the picture of fine-tuning -> key of the results
    "majority class": "majority",
    "from scratch": "scratch",
    "TF-IDF": "tfidf",
    "TF-IDF, all texts": "tfidf_all",
}
PROMPT = "Return the sum of the elements of the array"


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
    pretrained = folder / "pretrain"
    config, embedding, finetune_config = configs(folder, QUICK.value, DIRECTORY.value)
    with stage("prepare"):
        corpus = prepare.prepare(config.data)
    with stage("baselines"):
        compressors = stages.compressors(corpus, config.model.vocab_size)
        classifiers = stages.classifiers(corpus, TEXTS)
    with stage("matmul peak"):
        peak, _ = flops.matmul_peak()
    with stage("pretrain"):
        trained = run.run(config, pretrained).result
        cli.stop_unless_finished(trained)
    with stage("evaluate"):
        bits = stages.bits_per_byte(pretrained) | compressors
    with stage("embed"):
        run.run(embedding, folder / "embed")
    with stage("fine-tune"):
        texts = classifiers["tfidf"]["texts"]
        tuned = stages.finetune(finetune_config, folder, texts)
    with stage("generate"):
        text = stages.continuation(pretrained, corpus, PROMPT)
    seconds["total"] = sum(seconds.values())

    confusion = tuned.pop("confusion")
    result = {
        "bits_per_byte": bits,
        "finetune": tuned | classifiers,
        **speed(config, trained["tokens_per_second"], peak),
        "peak_memory_bytes": flops.peak_memory_bytes(),
        "seconds": seconds,
        "sample": {"prompt": PROMPT, "text": text},
        **setting(config, trained["parameters"], corpus),
    }
    plots.confusion(confusion, corpus.class_names, folder / "confusion.png")
    draw_curves(result, folder)
    report.write(result, folder)
    print(report.summary(result))


def speed(config: cfg.RunConfig, rate: float, peak: float) -> dict[str, float]:
    """Speed and MFU of pretraining at `rate` tokens/s; `peak` is in FLOP/s."""
    full, causal = flops.training_flops(config.model, 1, config.data.seq_len)
    return {
        "tokens_per_second": rate,
        "mfu": full * rate / peak,
        "mfu_causal": causal * rate / peak,
        "matmul_peak_flops": peak,
    }


def setting(config: cfg.RunConfig, parameters: int, corpus: Corpus) -> dict[str, Any]:
    """The sizes of the run, its model, corpus and machine."""
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


def draw_curves(result: dict[str, Any], folder: epath.Path) -> None:
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
        references={k: tuned[key]["accuracy"] for k, key in BASELINES.items()},
        metric="accuracy",
        label="accuracy",
        title="Fine-tuning",
    )


if __name__ == "__main__":
    cli.launch(main, required=("workdir",))
