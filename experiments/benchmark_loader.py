"""Times the loader beside plain slices of a memory map; prints a table and JSON.

    taskset -c 0 python -m experiments.benchmark_loader

Three sources of random tokens, their documents' lengths log-normal, are written as
prepared corpora are, packed by first-fit and mixed, and read through the features of
causal language modelling: `tokens`, `targets`, `num_bytes`, `segment_ids`, `positions`.
The plain slices are rows of one map at random places, and the same one token on, with
no documents, order, mixture or task. All in this one thread; the median of `--rounds`.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from experiments import cli
from llmjax.config import DataConfig, ModelConfig, RunConfig
from llmjax.data.batches.pipeline import Part, Pipeline
from llmjax.data.store import tokens
from llmjax.data.tokenizers.vocabulary import PlainVocabulary
from llmjax.tasks.registry import make_task

MILLIONS = flags.DEFINE_float("millions", 30, "Million tokens, over all sources.")
MEAN = flags.DEFINE_integer("mean", 500, "Mean length of a document.")
PACKING = flags.DEFINE_enum(
    "packing", "first_fit", ("concat", "first_fit", "pad"), "See data.packing."
)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Rows of a batch.")
SEQ_LEN = flags.DEFINE_integer("seq_len", 2048, "Tokens of a row.")
ROUNDS = flags.DEFINE_integer("rounds", 5, "Timed rounds of each.")
BATCHES = flags.DEFINE_integer("batches", 20, "Batches of a round.")

V = 32_000
WEIGHTS = {"a": 0.5, "b": 0.3, "c": 0.2}
BLOCK = 10**6  # tokens of a block


def write_corpus(folder: Path, count: int, mean: int, seed: int) -> tokens.TokenSource:
    """A prepared corpus of about `count` random tokens below V."""
    rng = np.random.default_rng(seed)
    blocks = folder / "blocks"
    blocks.mkdir(parents=True)
    files = []
    number = -(-count // BLOCK)
    for k in range(number):
        size = count // number
        # sigma 1: the mean is e ** 0.5 times the median
        lengths = np.ceil(rng.lognormal(np.log(mean) - 0.5, 1.0, size // mean))
        texts = [rng.integers(3, V, int(n), np.int32) for n in lengths]
        labels, sizes = [-1] * len(texts), [len(t) for t in texts]
        files.append(blocks / f"{k}.npz")
        arrays: dict[str, Any] = tokens.block(texts, labels, sizes)
        np.savez(files[-1], **arrays)
    tokens.write(folder / "tokens", tokens.Blocks(files), V, "random")
    for file in files:
        file.unlink()
    return tokens.read(folder / "tokens")


def pipeline(folder: Path, sources: dict[str, tokens.TokenSource]) -> Pipeline:
    """Batches of causal language modelling, by the flags."""
    packing: Any = PACKING.value
    data = DataConfig(
        batch_size=BATCH_SIZE.value,
        seq_len=SEQ_LEN.value,
        packing=packing,
        directory=str(folder),
    )
    run = RunConfig(model=ModelConfig(vocab_size=V), data=data)
    task = make_task(run, PlainVocabulary(V))
    parts = [
        Part(name, source, task.features, task.length, WEIGHTS[name])
        for name, source in sources.items()
    ]
    return Pipeline.of(parts, data)


def plain_slices(path: Path) -> Callable[[int], dict[str, np.ndarray]]:
    """Batch number `step` of rows at random places of one map."""
    line = np.load(path, mmap_mode="r")
    B, T = BATCH_SIZE.value, SEQ_LEN.value

    def batch(step: int) -> dict[str, np.ndarray]:
        places = np.random.default_rng(step).integers(0, len(line) - T - 1, B)
        return {
            "tokens": np.stack([line[i : i + T].astype(np.int32) for i in places]),
            "targets": np.stack(
                [line[i + 1 : i + 1 + T].astype(np.int32) for i in places]
            ),
        }

    return batch


def tokens_per_second(batch: Callable[[int], object]) -> dict[str, float]:
    """min, median and max over the rounds."""
    seconds = []
    step = 0
    for _ in range(ROUNDS.value + 1):  # the first warms up
        start = time.perf_counter()
        for _ in range(BATCHES.value):
            batch(step)
            step += 1
        seconds.append(time.perf_counter() - start)
    places = BATCHES.value * BATCH_SIZE.value * SEQ_LEN.value
    rates = [places / s for s in seconds[1:]]
    return {
        "min": min(rates),
        "median": statistics.median(rates),
        "max": max(rates),
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        count = int(MILLIONS.value * 1e6)
        sources = {
            part: write_corpus(folder / part, int(count * weight), MEAN.value, seed)
            for seed, (part, weight) in enumerate(WEIGHTS.items())
        }
        start = time.perf_counter()
        loader = pipeline(folder, sources)
        first = loader.batch(0)
        opened = time.perf_counter() - start
        (path, *_) = sorted((folder / "a" / "tokens").glob("tokens-*.npy"))
        rates = {
            "loader": tokens_per_second(loader.batch),
            "plain slices": tokens_per_second(plain_slices(path)),
        }
        filled = float(np.mean(first["segment_ids"] > 0))
    print(f"{'':14}{'million tokens/s':>18}")
    for row, rate in rates.items():
        print(f"{row:14}{rate['median'] / 1e6:18.2f}")
    print(
        json.dumps(
            {
                "tokens_per_second": rates,
                "ratio": rates["loader"]["median"] / rates["plain slices"]["median"],
                "filled": filled,
                "seconds_to_first_batch": opened,
                "documents": sum(map(len, sources.values())),
                "tokens": sum(int(s.lengths.sum()) for s in sources.values()),
                "packing": PACKING.value,
                "batch_size": BATCH_SIZE.value,
                "seq_len": SEQ_LEN.value,
            }
        )
    )


if __name__ == "__main__":
    cli.launch(main)
