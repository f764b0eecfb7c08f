"""Classes of texts: films, questions, topics; MiniLM against TF-IDF."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from configs.finetune import text_classification
from experiments.finetune_suite import estimates, texts, toys, tuning, weights
from experiments.finetune_suite.row import Outcome, Score, Setting
from experiments.quickstart import baselines

LENGTH = 64  # tokens of a text


@dataclasses.dataclass(frozen=True)
class Classes:
    """How texts with labels are learned, and what is wanted.

    Attributes:
      steps, rate, batch: of training; a batch is of rows that texts share.
      phrases: class -> words that are near to its texts, for the zero-shot answer.
      at_least: accuracy that is wanted; None: that of TF-IDF and `margin`.
      margin: above TF-IDF.
      note: for the reader.
    """

    steps: int
    rate: float = 2e-4
    batch: int = 12
    phrases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    at_least: float | None = None
    margin: float = 0.0
    note: str = ""


FILMS = Classes(
    steps=320,
    rate=1e-4,
    phrases={"positive": "a good film", "negative": "a bad film"},
    margin=0.03,
)
QUESTIONS = Classes(
    steps=240,
    phrases={
        "ABBR": "what an abbreviation stands for",
        "DESC": "what something means, how or why",
        "ENTY": "which thing, animal, product, colour or language",
        "HUM": "who, which person or group",
        "LOC": "where, which city, country or place",
        "NUM": "how many, how much, when, which number or date",
    },
    at_least=0.93,
    note="the package has no test split of TREC's own: held-out questions are asked",
)
TOPICS = Classes(steps=320, batch=16)


def films(setting: Setting) -> Outcome:
    """Whether a sentence on a film is for or against it; by 20 people, 0.5 or more."""
    if setting.quick:
        return measure(setting, _toy(), FILMS)
    rows = texts.packaged("sentiment/movies", setting)
    clear = {
        split: [row for row in own if abs(row["score"]) >= 0.5]
        for split, own in rows.items()
    }
    return measure(setting, clear, FILMS)


def trec(setting: Setting) -> Outcome:
    """What a question asks for, of six."""
    rows = _toy() if setting.quick else texts.packaged("trec/coarse", setting)
    return measure(setting, rows, QUESTIONS)


def topics(setting: Setting) -> Outcome:
    """What a lead of Wikipedia is about, of eleven."""
    rows = _toy() if setting.quick else texts.packaged("wiki_leads/en", setting)
    named = {split: [row for row in own if row["label"]] for split, own in rows.items()}
    return measure(setting, named, TOPICS)


def measure(
    setting: Setting, rows: Mapping[str, Sequence[texts.Record]], about: Classes
) -> Outcome:
    """Trains on texts with labels and asks those held out.

    Args:
      setting: of the row.
      rows: by split, each with `text` and `label`.
      about: the classes.
    """
    splits = texts.held_out(rows).map(
        lambda row: {"text": row["text"], "label": row["label"]}
    )
    config = text_classification.get_config()
    config.data.packing = "first_fit"
    config.data.batch_size, config.data.seq_len = about.batch, LENGTH
    config.train.steps = about.steps
    config.optimizer.learning_rate = about.rate
    path = weights.encoder(setting)
    tuned = tuning.tune(setting, config, splits, path)
    answers = tuning.asked(tuned.program, tuned.params, splits.test)
    right = [row["label"] for row in splits.test]
    commonest, tfidf = _counted(splits)
    bound = tfidf + about.margin if about.at_least is None else about.at_least
    above = f"{100 * about.margin:g} points above" if about.margin else "above"
    return Outcome(
        metric="accuracy",
        found=estimates.mean(
            [a["label"] == label for a, label in zip(answers, right, strict=True)]
        ),
        trivial=Score("commonest class", commonest),
        classical=Score("TF-IDF + logistic regression", tfidf),
        zero_shot=Score("nearest class name", _near(path, splits, about.phrases)),
        wanted=f"{above} TF-IDF" if about.at_least is None else f"at least {bound:g}",
        bound=bound,
        speed=tuned.speed,
        sizes=splits.sizes(),
        notes=(about.note,) if about.note else (),
    )


def _counted(splits: texts.Splits) -> tuple[float, float]:
    """Accuracy of the commonest class, and of TF-IDF with logistic regression."""
    parts = splits.train, splits.test
    names = sorted({row["label"] for rows in parts for row in rows})
    train, test = (np.array([names.index(r["label"]) for r in rows]) for rows in parts)
    learned, asked = ([row["text"] for row in rows] for rows in parts)
    scores = (
        baselines.majority(train, test),
        baselines.tfidf(learned, train, asked, test),
    )
    commonest, tfidf = (score["accuracy"] for score in scores)
    return commonest, tfidf


def _near(path: str, splits: texts.Splits, phrases: Mapping[str, str]) -> float:
    """The accuracy of the class whose phrase has the nearest vector, untrained.

    A class without a phrase is its own.
    """
    names = sorted({row["label"] for row in splits.train})
    own = tuning.hub_vectors(path, [row["text"] for row in splits.test], LENGTH)
    theirs = tuning.hub_vectors(path, [phrases.get(n, n) for n in names], LENGTH)
    chosen = (own @ theirs.T).argmax(axis=1).tolist()
    right = [row["label"] for row in splits.test]
    return float(np.mean([names[k] == r for k, r in zip(chosen, right, strict=True)]))


def _toy() -> dict[str, list[dict[str, str]]]:
    made = toys.sentences(40, ("bad", "good"))
    return {"train": made[:24], "validation": made[24:32], "test": made[32:]}
