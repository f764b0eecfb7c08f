"""Names in sentences: CoNLL-2003, MiniLM against a look-up of each word."""

from collections.abc import Sequence

import numpy as np

from configs.finetune import token_classification
from experiments.finetune_suite import baselines, estimates, texts, toys, tuning
from experiments.finetune_suite import weights as weights_lib
from experiments.finetune_suite.row import Estimate, Outcome, Score, Setting
from llmjax.tasks.labelled.tags import TagSet

AT_LEAST = 0.84


def conll(setting: Setting) -> Outcome:
    """Persons, places, organisations and others in the splits of the task."""
    splits = _toy() if setting.quick else _splits(setting)
    path = weights_lib.encoder(setting)
    tuned = tuning.tune(setting, token_classification.get_config(), splits, path)
    asked = [{"text": row["words"]} for row in splits.test]
    answers = tuning.asked(tuned.program, tuned.params, asked)
    right = [row["tags"] for row in splits.test]
    counts = entity_counts(right, [answer["tags"] for answer in answers])
    pairs = ((row["words"], row["tags"]) for row in splits.train)
    looked_up = baselines.lookup_tags(pairs, (row["words"] for row in splits.test))
    return Outcome(
        metric="F1 of entities",
        found=_f1(counts),
        trivial=Score("no entity at all", 0.0),
        classical=Score(
            "commonest tag of a word", _f1(entity_counts(right, looked_up)).value
        ),
        zero_shot=None,
        wanted=f"at least {AT_LEAST}",
        bound=AT_LEAST,
        speed=tuned.speed,
        sizes=splits.sizes(),
        more={
            "precision": float(counts[:, 0].sum() / max(counts[:, 1].sum(), 1)),
            "recall": float(counts[:, 0].sum() / max(counts[:, 2].sum(), 1)),
        },
    )


def entity_counts(
    right: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]
) -> np.ndarray:
    """Entities of each sentence in both, predicted, and right: int64 [N, 3]."""
    names = sorted({tag for tags in (*right, *predicted) for tag in tags})
    tagset = TagSet(tuple(names))
    number = {name: k for k, name in enumerate(names)}

    def entities(tags: Sequence[str]) -> set[tuple[int, ...]]:
        found = tagset.entities(np.array([number[tag] for tag in tags], np.int64))
        return {tuple(entity) for entity in found.tolist()}

    rows = []
    for own, other in zip(right, predicted, strict=True):
        true, said = entities(own), entities(other)
        rows.append((len(true & said), len(said), len(true)))
    return np.array(rows, np.int64)


def _f1(counts: np.ndarray) -> Estimate:
    return estimates.ratio(2 * counts[:, 0], counts[:, 1] + counts[:, 2])


def _splits(setting: Setting) -> texts.Splits:
    rows = texts.packaged("conll2003", setting)
    watched = texts.some(rows["validation"], texts.VALIDATION)
    splits = texts.Splits(rows["train"], watched, rows["test"])
    tags = "O", *(f"{e}-{t}" for t in ("LOC", "MISC", "ORG", "PER") for e in "BI")

    def named(tag: int | str) -> str:
        return tags[tag] if isinstance(tag, int) else tag

    return splits.map(
        lambda row: {"words": row["tokens"], "tags": [named(t) for t in row["tags"]]}
    )


def _toy() -> texts.Splits:
    rows = []
    for row in toys.sentences(40, ("king", "town")):
        words = row["text"].split()
        tags = {"king": "B-PER", "town": "B-LOC"}
        rows.append({"words": words, "tags": [tags.get(w, "O") for w in words]})
    return texts.Splits(rows[:24], rows[24:32], rows[32:])
