"""Answers in texts: other Wikipedia articles are learned, SQuAD's dev is asked."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from configs.finetune import question_answering
from experiments.finetune_suite import baselines, estimates, texts, toys, tuning
from experiments.finetune_suite import weights as weights_lib
from experiments.finetune_suite.row import Outcome, Score, Setting
from llmjax.tasks.labelled import squad

TIMES = 2.0  # the F1 of the sliding window
LONGEST = 800  # characters of a text that is learned from: one window
ASKED = 2000  # questions of the development set, at random
LEARNED, DEV = "squad/new_wiki_v1.0.json.gz", "squad/squaddev_v1.1.json.gz"


def answers(setting: Setting) -> Outcome:
    """SQuAD's F1 on its development set, learned from SQuADShifts' new Wikipedia."""
    splits = _toy() if setting.quick else _splits(setting.data)
    config = question_answering.get_config()
    config.data.seq_len = 192
    config.task.stride = 64
    config.train.steps = 220
    config.optimizer.learning_rate = 2e-4
    config.optimizer.schedule.warmup_steps = 20
    path = weights_lib.encoder(setting)
    tuned = tuning.tune(setting, config, splits, path)
    said = tuning.asked(tuned.program, tuned.params, splits.test)
    right = [row["answers"]["text"] for row in splits.test]
    scores = [squad.scores(a["answer"], r) for a, r in zip(said, right, strict=True)]
    exact, f1 = np.array(scores).T
    window = [
        baselines.sliding_window(row["question"], row["context"]) for row in splits.test
    ]
    slid = np.mean([squad.scores(a, r)[1] for a, r in zip(window, right, strict=True)])
    firsts = (baselines.first_sentence(row["context"]) for row in splits.test)
    first = np.mean([squad.scores(a, r)[1] for a, r in zip(firsts, right, strict=True)])
    return Outcome(
        metric="F1 of words",
        found=estimates.mean(f1),
        trivial=Score("the first sentence", float(first)),
        classical=Score("sliding window", float(slid)),
        zero_shot=None,
        wanted=f"{TIMES:g} times the sliding window's",
        bound=TIMES * float(slid),
        speed=tuned.speed,
        sizes=splits.sizes(),
        more={"exact match": float(exact.mean())},
        notes=(
            f"learned from texts of up to {LONGEST} characters; asked are {ASKED:,} "
            "questions of the development set, drawn at random",
        ),
    )


def _splits(data: Path) -> texts.Splits:
    shifted = [*_questions(data / LEARNED)]
    short = [row for row in shifted if len(row["context"]) <= LONGEST]
    contexts = sorted({row["context"] for row in short})
    watched = set(contexts[:: max(2, len(contexts) // 50)])
    return texts.Splits(
        [row for row in short if row["context"] not in watched],
        [row for row in short if row["context"] in watched],
        texts.some([*_questions(data / DEV)], ASKED),
    )


def _questions(file: Path) -> Iterator[dict[str, Any]]:
    """The questions of a file of SQuAD's form, but for those whose answers do not stand
    at their places."""
    with gzip.open(file, "rt", encoding="utf-8") as opened:
        articles = json.load(opened)["data"]
    for article in articles:
        for paragraph in article["paragraphs"]:
            text = paragraph["context"]
            for asked in paragraph["qas"]:
                given = [
                    a
                    for a in asked["answers"]
                    if text[a["answer_start"] :].startswith(a["text"]) and a["text"]
                ]
                if given:
                    answers = {
                        "text": [a["text"] for a in given],
                        "answer_start": [a["answer_start"] for a in given],
                    }
                    row = {"question": asked["question"], "context": text}
                    yield {**row, "answers": answers}


def _toy() -> texts.Splits:
    rows = []
    for row in toys.sentences(40, ("king", "town")):
        text, label = row["text"], row["label"]
        answer = {"text": [label], "answer_start": [text.index(label)]}
        rows.append({"question": "who is it ?", "context": text, "answers": answer})
    return texts.Splits(rows[:24], rows[24:32], rows[32:])
