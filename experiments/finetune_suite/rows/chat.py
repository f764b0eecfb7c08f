"""Dialogue: the second speaker's turns in chats, by SmolLM2-135M with LoRA."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from configs.finetune import chat as chat_config
from experiments.finetune_suite import baselines, estimates, texts, toys, tuning
from experiments.finetune_suite import weights as weights_lib
from experiments.finetune_suite.row import Outcome, Score, Setting
from llmjax.parallel import mesh as mesh_lib

LESS = 0.15  # of the perplexity before training
TURNS, CHARACTERS = 10, 600  # of a chat that are read
ASKED = 60  # chats


def chitchat(setting: Setting) -> Outcome:
    """Perplexity of answers' tokens in chats between strangers."""
    splits = _toy() if setting.quick else _splits(setting)
    config = chat_config.get_config()
    config.peft.kind = "lora"
    config.peft.rank = 4 if setting.quick else 16
    config.peft.alpha = 32.0
    config.peft.targets = ("query", "key", "value", "attention/out")
    config.task.overlong = "drop"  # few: a chat is cut at whole turns before
    config.data.batch_size, config.data.seq_len = (1, 64) if setting.quick else (4, 256)
    config.train.steps = 30
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule.warmup_steps = 5
    path = weights_lib.decoder(setting)
    tuned = tuning.tune(setting, config, splits, path)
    nats, counts = _nats(tuned, tuned.params)
    before, _ = _nats(tuned, tuned.base)
    untuned = math.exp(before.sum() / counts.sum())
    return Outcome(
        metric="perplexity of answers",
        found=estimates.ratio(nats, counts, math.exp),
        trivial=Score("frequency of a token", _unigram(tuned, splits)),
        classical=None,
        zero_shot=Score("SmolLM2 as it was", untuned),
        wanted=f"{100 * LESS:g} % below zero-shot",
        bound=(1 - LESS) * untuned,
        lower=True,
        speed=tuned.speed,
        sizes=splits.sizes(),
        more={"of zero-shot's": math.exp((nats - before).sum() / counts.sum())},
        notes=("the interval resamples batches of four rows of whole chats",),
    )


def _nats(tuned: tuning.Tuned, params: Any) -> tuple[np.ndarray, np.ndarray]:
    """Nats and answers' tokens of each batch of the test rows."""
    program, sums = tuned.program, []
    with mesh_lib.use(program.mesh):
        for rows in tuned.batches.evaluation():
            metrics = program.evaluate(params, {}, {}, program.place(rows))
            sums.append([float(x) for x in metrics["loss"]])
    nats, counts = np.array(sums).T
    return nats, counts


def _unigram(tuned: tuning.Tuned, splits: texts.Splits) -> float:
    """The perplexity of the test answers by how often training answers have a token."""
    vocabulary: Any = tuned.program.task.vocabulary  # type: ignore[attr-defined]

    def answers(rows: Sequence[texts.Record]) -> list[np.ndarray]:
        said = [m["content"] for row in rows for m in row["messages"][1::2]]
        return [
            np.append(ids, vocabulary.eos_id) for ids in vocabulary.encode_batch(said)
        ]

    size = tuned.program.config.model.vocab_size
    nats = baselines.unigram_nats(answers(splits.train), size)
    asked = np.concatenate(answers(splits.test))
    return math.exp(float(nats[asked].mean()))


def _splits(setting: Setting) -> texts.Splits:
    rows = texts.packaged("chitchat", setting)
    chats = {k: [t for r in own if (t := talk(r["text"]))] for k, own in rows.items()}
    held = texts.held_out(chats)
    return texts.Splits(held.train, held.validation[:16], texts.some(held.test, ASKED))


def talk(text: str) -> texts.Record | None:
    """A chat's first turns as messages, the last one an answer; None: too few."""
    lines = [line.strip() for line in text.split("\n") if line.strip()][:TURNS]
    ends = itertools.accumulate(map(len, lines))
    turns = [line for line, end in zip(lines, ends, strict=True) if end <= CHARACTERS]
    turns = turns[: len(turns) // 2 * 2]
    if len(turns) < 4:
        return None
    roles = ("user", "assistant")
    said = [{"role": roles[k % 2], "content": turn} for k, turn in enumerate(turns)]
    return {"messages": said}


def _toy() -> texts.Splits:
    rows = []
    for row in toys.sentences(68, ("good", "bad")):
        asked = {"role": "user", "content": row["text"]}
        rows.append({"messages": [asked, {"role": "assistant", "content": "it is"}]})
    return texts.Splits(rows[:16], rows[16:20], rows[20:])
