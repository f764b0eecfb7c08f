"""Schemes of tags, and the counts of entities.

seqeval.json has random tags of right and predicted sentences in two schemes, and the
report that seqeval 1.2.2 makes of them (`classification_report(output_dict=True,
zero_division=0)`).
"""

import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.tasks.labelled import crf, entities
from llmjax.tasks.labelled.tags import TagSet, misfit, target_of

SEQEVAL = json.loads((pathlib.Path(__file__).parent / "seqeval.json").read_text())
BIO = TagSet.of_types(("LOC", "PER"), "bio")
BIOES = TagSet.of_types(("LOC", "PER"), "bioes")


def numbers(tags, words):
    return np.array([tags.names.index(word) for word in words.split()])


@pytest.mark.parametrize("case", SEQEVAL["cases"].values(), ids=SEQEVAL["cases"])
def test_counts_are_those_of_seqeval(case):
    """Also on the device, in rows of several sentences with other tokens between."""
    tags = TagSet(tuple(case["tags"]))
    pairs = [*zip(case["right"], case["predicted"], strict=True)]
    flat = [
        np.concatenate([[*s, -1] for s in side]) for side in zip(*pairs, strict=True)
    ]
    sums = entities.counts(*flat, tags)
    ours, theirs = entities.report(sums, tags), case["report"]
    rows = {"micro avg": ours, **ours["types"]}
    assert theirs["macro avg"]["f1-score"] == pytest.approx(ours["macro_f1"])
    for name, row in rows.items():
        for key, their_key in (("f1", "f1-score"), *((k, k) for k in ("precision",))):
            assert row[key] == pytest.approx(theirs[name][their_key]), name
        assert row["recall"] == pytest.approx(theirs[name]["recall"])
        assert row["support"] == theirs[name]["support"]
    assert 0.3 < ours["f1"] < 0.9 and len(rows) == 4

    rng = np.random.default_rng(1)
    right, predicted, number = np.zeros((3, 4, 160), np.int32)
    start = 1
    for row in range(4):
        place = 0
        for side in pairs[row::4]:
            for k, both in enumerate(zip(*side, strict=True)):
                place += int(rng.integers(1, 3))  # other tokens between
                right[row, place], predicted[row, place] = both
                number[row, place] = start + k
            start += len(side[0]) + 1
    words = crf.words_of(jnp.asarray(number))
    on_device = entities.matches(
        jnp.asarray(right), jnp.asarray(predicted), words, tags
    )
    assert [int(x) for x in on_device] == [
        int(sums[k].sum()) for k in ("both", "predicted", "right")
    ]


def test_every_scheme_tells_the_same_entities():
    wanted = [[0, 2, 1], [2, 3, 1], [4, 5, 0]]
    for tags, words in (
        (BIO, "B-PER I-PER B-PER O B-LOC"),
        (BIO, "I-PER I-PER B-PER O I-LOC"),  # IOB1
        (BIOES, "B-PER E-PER S-PER O S-LOC"),
        (TagSet(("O", "B-LOC", "U-LOC", "B-PER", "L-PER", "U-PER")), None),
    ):
        words = words or "B-PER L-PER U-PER O U-LOC"
        own = numbers(tags, words)
        kinds = [tags.types[k] for *_, k in tags.entities(own)]
        assert kinds == ["PER", "PER", "LOC"]
        assert tags.entities(own)[:, :2].tolist() == [row[:2] for row in wanted]
        for target, says in (
            (BIO, "B-PER I-PER B-PER O B-LOC"),
            (BIOES, "B-PER E-PER S-PER O S-LOC"),
        ):
            assert [target.names[k] for k in tags.written(own, target)] == says.split()
    unknown = np.array([3, -1, 4])
    assert BIO.written(unknown, BIO).tolist() == [3, -1, 3]


@pytest.mark.parametrize(
    ("tags", "words", "read", "found"),
    [
        (BIO, "B-PER I-PER O B-LOC", None, None),
        (BIO, "I-PER I-PER O I-LOC", None, None),  # IOB1
        (BIO, "I-PER I-PER O I-LOC", "bio", (0, "bio")),
        (BIO, "B-PER I-PER O B-LOC", "iob1", (0, "iob1")),
        (BIO, "B-PER O I-LOC", None, (2, "bio")),  # neither
        (BIO, "B-PER O I-LOC", "any", None),
        (BIOES, "B-PER E-PER O S-LOC", None, None),
        (BIOES, "B-PER O S-LOC", None, (1, "bioes")),
        (BIOES, "B-PER E-PER", "bio", (1, "bio")),
    ],
)
def test_a_tag_that_cannot_stand_there_is_found(tags, words, read, found):
    row = np.append(numbers(tags, words), -1)
    assert misfit(tags, row, read) == found


def test_an_entity_that_a_sentence_leaves_open_is_found():
    row = np.append(numbers(BIOES, "O B-PER"), -1)
    assert misfit(BIOES, row, None) == (2, "bioes")


def test_what_a_model_learns_follows_from_the_data():
    assert target_of(("O", "I-LOC", "B-LOC"), None).names == ("O", "I-LOC", "B-LOC")
    assert target_of(("B-LOC", "I-LOC", "O"), None).names == ("O", "B-LOC", "I-LOC")
    assert target_of(("I-LOC", "O"), None).names == ("O", "B-LOC", "I-LOC")
    assert target_of(("B-LOC", "I-LOC", "O"), "bioes").scheme == "bioes"
    assert target_of(("NN", "VB"), None).plain
    with pytest.raises(ValueError, match="corpus has the tag 'NN'; accepted: O, and a"):
        target_of(("NN", "VB"), "bio")
