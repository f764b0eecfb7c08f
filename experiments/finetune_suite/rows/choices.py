"""Choices: which of four descriptions belongs to a lead of Wikipedia."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from configs.finetune import multiple_choice
from experiments.finetune_suite import baselines, estimates, texts, toys, tuning
from experiments.finetune_suite import weights as weights_lib
from experiments.finetune_suite.row import Outcome, Score, Setting

AT_LEAST = 0.80
CHOICES = 4


def choices(setting: Setting) -> Outcome:
    """The right description, and three of other leads of the same split."""
    if setting.quick:
        made = toys.sentences(40, toys.WORDS[6:16])
        described = [{"text": r["text"], "description": r["label"]} for r in made]
        rows: Any = {"train": described[:24], "test": described[24:]}
    else:
        rows = texts.packaged("wiki_leads/en", setting)
    splits = texts.held_out(
        {
            split: with_others([row for row in own if row["description"]])
            for split, own in rows.items()
        }
    )
    config = multiple_choice.get_config()
    config.data.seq_len = 48
    config.train.steps = 110
    config.optimizer.learning_rate = 2e-4
    config.optimizer.schedule.warmup_steps = 20
    path = weights_lib.encoder(setting)
    tuned = tuning.tune(setting, config, splits, path)
    answers = tuning.asked(tuned.program, tuned.params, splits.test)
    right = np.array([row["label"] for row in splits.test])
    chosen = np.array([answer["choice"] for answer in answers])
    leads = [row["question"] for row in splits.test]
    listed = [row["choices"] for row in splits.test]
    counted = [c.argmax() for c in baselines.tfidf_cosines(leads, listed)]
    return Outcome(
        metric="accuracy",
        found=estimates.mean(chosen == right),
        trivial=Score("a guess", 1 / CHOICES),
        classical=Score("TF-IDF, nearest", float(np.mean(counted == right))),
        zero_shot=Score(
            "nearest vector", float(np.mean(near(path, leads, listed) == right))
        ),
        wanted=f"at least {AT_LEAST:.2f}",
        bound=AT_LEAST,
        speed=tuned.speed,
        sizes=splits.sizes(),
    )


def with_others(rows: Sequence[texts.Record]) -> list[texts.Record]:
    """Questions of leads: its own description among three different ones of others."""
    rng = np.random.default_rng(0)
    out: list[texts.Record] = []
    for row in rows:
        own = row["description"]
        others: list[str] = []
        while len(others) < CHOICES - 1:
            other = rows[int(rng.integers(len(rows)))]["description"]
            if other != own and other not in others:
                others.append(other)
        label = int(rng.integers(CHOICES))
        listed = [*others[:label], own, *others[label:]]
        out.append({"question": row["text"], "choices": listed, "label": label})
    return out


def near(path: str, leads: Sequence[str], listed: Sequence[Sequence[str]]) -> Any:
    """The choice with the nearest vector, before training."""
    own = tuning.hub_vectors(path, leads, 48)
    flat = [text for some in listed for text in some]
    theirs = tuning.hub_vectors(path, flat, 48).reshape(len(leads), CHOICES, -1)
    return np.einsum("nd,ncd->nc", own, theirs).argmax(axis=1)
