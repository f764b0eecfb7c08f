"""Speed from text to token files, beside the `tokenizers` library alone.

    python -m experiments.benchmark_prepare [--megabytes=50] [--source=PATH]

Without a source, documents of lines that are drawn from python_docs/small at random.
Takes about two minutes on 2 cores, nothing else running; the table also goes into
`<workdir>/result.json`. Expected: "tokens" at least 0.7 of the library alone, the whole
at least 0.35.
"""

import dataclasses
import json
import os
import pathlib
import random
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from absl import flags

from experiments import cli
from llmjax.config import BPE, DataConfig, PrepareConfig
from llmjax.data.prepare import prepare

MEGABYTES = flags.DEFINE_integer("megabytes", 50, "Text to generate without --source.")
SOURCE = flags.DEFINE_string("source", None, "Files to read; see data.source.")
TEXT = flags.DEFINE_string("text", "text", "Their field; see data.prepare.text.")
VOCABULARY = flags.DEFINE_integer("vocab_size", 8192, "Vocabulary of the BPE.")
WORKERS = flags.DEFINE_integer("workers", None, "Processes; by default one per core.")


def main() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = SOURCE.value or str(pathlib.Path(folder) / "text.jsonl")
        if SOURCE.value is None:
            write(pathlib.Path(path), MEGABYTES.value * 10**6)
        data = DataConfig(
            source=path,
            directory=str(pathlib.Path(folder) / "cache"),
            tokenizer=BPE(VOCABULARY.value),
            prepare=PrepareConfig(text=TEXT.value, workers=WORKERS.value),
        )
        start = time.perf_counter()
        corpus = prepare.prepare(data)
        seconds = dict(corpus.manifest["seconds"])
        seconds["whole"] = time.perf_counter() - start
        size = sum(corpus.manifest["dataset"]["bytes"].values())
        files = corpus.manifest["token_files"].values()
        tokens = sum(account["tokens"] for account in files)
        seconds["tokenizers alone"] = alone(corpus)
    return table(seconds, size, tokens)


def write(path: pathlib.Path, size: int) -> None:
    """Documents as long as python_docs/small's own, of its lines drawn at random."""
    data = dataclasses.replace(DataConfig(), source="python_docs/small")
    texts = list(prepare.prepare(data).texts("train"))
    lines = [line for text in texts for line in text.split("\n") if line.strip()]
    lengths = [max(3, text.count("\n")) for text in texts]
    rng = random.Random(0)
    with path.open("w") as f:
        while f.tell() < size:
            document = "\n".join(rng.choices(lines, k=rng.choice(lengths)))
            f.write(json.dumps({"text": document}) + "\n")


def alone(corpus: prepare.Corpus) -> float:
    """Seconds that the library takes for the same texts, on all cores."""
    import tokenizers

    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    library = tokenizers.Tokenizer.from_file(str(corpus.folder / "tokenizer.json"))
    total = 0.0
    for split in corpus.manifest["dataset"]["documents"]:
        for batch in batches(corpus.texts(split)):
            start = time.perf_counter()
            library.encode_batch_fast(batch)
            total += time.perf_counter() - start
    return total


def batches(texts: Any, size: int = 1000) -> Iterator[list[str]]:
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == size:
            yield batch
            batch = []
    yield batch


def table(seconds: dict[str, float], size: int, tokens: int) -> dict[str, Any]:
    """Prints and gives the rates of each stage."""
    rows = {}
    print(f"{size / 1e6:.1f} MB of text, {tokens / 1e6:.1f} million tokens")
    print("stage             seconds    MB/s  tokens/s  of the library")
    for stage, taken in seconds.items():
        taken = max(taken, 1e-3)
        share = seconds["tokenizers alone"] / taken
        rows[stage] = {
            "seconds": taken,
            "mb_per_second": size / 1e6 / taken,
            "tokens_per_second": tokens / taken,
            "of_the_library": share,
        }
        print(
            f"{stage:16} {taken:8.2f} {size / 1e6 / taken:7.2f} {tokens / taken:9.0f} "
            f"{share:10.2f}"
        )
    return {"bytes": size, "tokens": tokens, "stages": rows}


if __name__ == "__main__":
    cli.launch(main)
