"""Classes of texts: films, questions, topics; MiniLM against TF-IDF."""

from collections.abc import Mapping, Sequence

import numpy as np

from configs.finetune import text_classification
from experiments.finetune_suite import estimates, texts, toys, tuning, weights
from experiments.finetune_suite.row import Outcome, Score, Setting
from experiments.quickstart import baselines

FILMS = {"positive": "a good film", "negative": "a bad film"}
QUESTIONS = {
    "ABBR": "what an abbreviation stands for",
    "DESC": "what something means, how or why",
    "ENTY": "which thing, animal, product, colour or language",
    "HUM": "who, which person or group",
    "LOC": "where, which city, country or place",
    "NUM": "how many, how much, when, which number or date",
}


def films(setting: Setting) -> Outcome:
    """Whether a sentence on a film is for or against it; by 20 people, 0.5 or more."""
    rows = texts.packaged("sentiment/movies", setting) if not setting.quick else {}
    clear = {
        split: [row for row in own if abs(row["score"]) >= 0.5]
        for split, own in rows.items()
    }
    return measure(setting, clear, FILMS, margin=0.03, steps=320, rate=1e-4)


def trec(setting: Setting) -> Outcome:
    """What a question asks for, of six."""
    rows = texts.packaged("trec/coarse", setting) if not setting.quick else {}
    note = "the package has no test split of TREC's own: held-out questions are asked"
    return measure(setting, rows, QUESTIONS, at_least=0.93, steps=240, note=note)


def topics(setting: Setting) -> Outcome:
    """What a lead of Wikipedia is about, of eleven."""
    rows = texts.packaged("wiki_leads/en", setting) if not setting.quick else {}
    named = {split: [row for row in own if row["label"]] for split, own in rows.items()}
    names = sorted({row["label"] for own in named.values() for row in own})
    phrases = {name: name for name in names}
    return measure(setting, named, phrases, steps=320, length=64, batch=16)


def measure(
    setting: Setting,
    rows: Mapping[str, Sequence[texts.Record]],
    phrases: Mapping[str, str],
    *,
    steps: int,
    at_least: float | None = None,
    margin: float = 0.0,
    rate: float = 2e-4,
    length: int = 64,
    batch: int = 12,
    note: str = "",
) -> Outcome:
    """Trains on texts with labels and asks those held out.

    Args:
      setting: of the row.
      rows: by split, each with `text` and `label`.
      phrases: class -> words that are near to its texts, for the zero-shot answer.
      steps, rate, length, batch: of training.
      at_least: accuracy that is wanted; None: that of TF-IDF and `margin`.
      margin: above TF-IDF.
      note: for the reader.
    """
    if setting.quick:
        made = toys.sentences(40, ("bad", "good"))
        rows = {"train": made[:24], "validation": made[24:32], "test": made[32:]}
        phrases = {"bad": "bad", "good": "good"}
    splits = texts.held_out(rows).map(
        lambda row: {"text": row["text"], "label": row["label"]}
    )
    names = sorted(phrases)
    config = text_classification.get_config()
    config.data.packing = "first_fit"
    config.data.batch_size, config.data.seq_len = batch, length
    config.train.steps = steps
    config.optimizer.learning_rate = rate
    path = weights.encoder(setting)
    tuned = tuning.tune(setting, config, splits, path)
    right = np.array([names.index(row["label"]) for row in splits.test])
    answers = tuning.asked(tuned.program, tuned.params, splits.test)
    hits = [
        a["label"] == row["label"] for a, row in zip(answers, splits.test, strict=True)
    ]
    learned = [names.index(row["label"]) for row in splits.train]
    tfidf = baselines.tfidf(
        [row["text"] for row in splits.train],
        np.array(learned),
        [row["text"] for row in splits.test],
        right,
    )["accuracy"]
    wanted = at_least if at_least is not None else tfidf + margin
    above = f"{100 * margin:g} points above TF-IDF" if margin else "above TF-IDF"
    return Outcome(
        metric="accuracy",
        found=estimates.mean(hits),
        trivial=Score(
            "commonest class", baselines.majority(learned, right)["accuracy"]
        ),
        classical=Score("TF-IDF + logistic regression", tfidf),
        zero_shot=Score("nearest class name", near(path, splits, phrases, length)),
        wanted=f"at least {at_least:g}" if at_least is not None else above,
        bound=wanted,
        speed=tuned.speed,
        sizes=splits.sizes(),
        notes=(note,) if note else (),
    )


def near(
    path: str, splits: texts.Splits, phrases: Mapping[str, str], length: int
) -> float:
    """The accuracy of the class whose phrase has the nearest vector, untrained."""
    own = tuning.hub_vectors(path, [row["text"] for row in splits.test], length)
    theirs = tuning.hub_vectors(path, [*phrases.values()], length)
    chosen = [[*phrases][k] for k in (own @ theirs.T).argmax(axis=1)]
    hits = [c == row["label"] for c, row in zip(chosen, splits.test, strict=True)]
    return float(np.mean(hits))
