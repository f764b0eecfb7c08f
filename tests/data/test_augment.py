"""Augmentation of texts: each operation by its rule, WordNet's files by hand."""

import collections
import pickle

import numpy as np
import pytest

from llmjax.config import Augmentation, SequenceClassification
from llmjax.data.augment import words as ops
from llmjax.data.augment.wordnet import PARTS, WordNet
from llmjax.data.augment.words import Augmenter
from llmjax.data.batches.pipeline import Part, Pipeline
from llmjax.tasks.labelled import augmented
from llmjax.tasks.registry import make_task
from tests.tasks.labelled_texts import run_of
from tests.train import toy

# part of speech -> senses, each with its words
SENSES = {
    "noun": [["cat", "true_cat"], ["dog", "domestic_dog", "Canis_familiaris"], ["cat"]],
    "verb": [["run", "go", "pass"], ["chase", "dog"]],
    "adj": [["big", "large(p)"]],
    "adv": [["apace", "quickly"]],
}
LICENCE = "  1 This software and database is being provided to you, by Princeton  \n"
TEXT = "The Dog, big as a house, ran: the dog!"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """WordNet's files with a handful of words, as wndb(5) describes them."""
    folder = tmp_path_factory.mktemp("wordnet")
    for part in PARTS:
        data, places = LICENCE, collections.defaultdict(list)
        for words in SENSES[part]:
            offset = len(data)
            for word in words:
                places[word.lower().split("(")[0]].append(offset)
            listed = " ".join(f"{word} 0" for word in words)
            data += (
                f"{offset:08d} 05 n {len(words):02x} {listed} 001 @ 00001740 n 0000 "
            )
            data += "| a gloss; with dog and cat  \n"
        index = LICENCE
        for word in sorted(places):
            offsets = " ".join(f"{k:08d}" for k in places[word])
            n = len(places[word])
            index += f"{word} {part[0]} {n} 2 @ ~ {n} 1 {offsets}  \n"
        (folder / f"data.{part}").write_text(data)
        (folder / f"index.{part}").write_text(index)
    return str(folder)


def test_synonyms_are_all_lemmas_of_all_senses(folder):
    wordnet = pickle.loads(pickle.dumps(WordNet(folder)))
    assert wordnet.synonyms("dog") == ("domestic dog", "Canis familiaris", "chase")
    assert wordnet.synonyms("Big") == ("large",)
    assert wordnet.synonyms("true cat") == ("cat",)
    assert wordnet.synonyms("pass") == ("run", "go")
    for word in ("aardvark", "zebra", "do", "dogs", "1", ""):
        assert wordnet.synonyms(word) == ()


def test_files_that_are_not_wordnets_are_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no index.noun; .*wordnet-base"):
        WordNet(str(tmp_path))
    for part in PARTS:
        (tmp_path / f"index.{part}").write_text(f"dog {part[0]} 1 0 1 1 00000007\n")
        (tmp_path / f"data.{part}").write_text("0000000 nothing of the kind\n")
    with pytest.raises(ValueError, match=r"byte 7 of data.noun is none of WordNet's"):
        WordNet(str(tmp_path)).synonyms("dog")


def draws(change, count=300):
    rng = np.random.default_rng(0)
    return [change(TEXT.split(), rng) for _ in range(count)]


def test_deletion_leaves_the_order_and_at_least_a_word():
    words = TEXT.split()
    kept = draws(lambda w, rng: ops.deleted(w, 0.3, rng), 2000)
    for some in kept:
        rest = iter(words)
        assert some and all(word in rest for word in some)
    share = np.mean([len(some) for some in kept]) / len(words)
    assert abs(share - 0.7) < 0.01
    assert {len(w) for w in draws(lambda w, rng: ops.deleted(w, 1.0, rng))} == {1}


def test_swaps_keep_the_words():
    for some in draws(lambda w, rng: ops.swapped(w, 1, rng)):
        moved = [a != b for a, b in zip(some, TEXT.split(), strict=True)]
        assert sorted(some) == sorted(TEXT.split()) and sum(moved) == 2
    assert ops.swapped(["one"], 3, np.random.default_rng(0)) == ["one"]


def test_a_synonym_stands_wherever_its_word_did(folder):
    wordnet = WordNet(folder)
    texts = {" ".join(w) for w in draws(lambda w, r: ops.replaced(w, 1, r, wordnet))}
    assert texts == {
        "The Dog, large as a house, ran: the dog!",
        "The Domestic dog, big as a house, ran: the domestic dog!",
        "The Canis familiaris, big as a house, ran: the Canis familiaris!",
        "The Chase, big as a house, ran: the chase!",
    }


def test_insertions_are_synonyms_of_words_of_the_text(folder):
    wordnet, names = WordNet(folder), set()
    for some in draws(lambda w, r: ops.inserted(w, 2, r, wordnet)):
        added = collections.Counter(some) - collections.Counter(TEXT.split())
        assert added.total() == 2
        names |= set(added)
    assert names == {"large", "domestic dog", "Canis familiaris", "chase"}


def test_operations_are_equally_likely_and_drawn_from_the_generator(folder):
    config = Augmentation(deletion=0.2, swap=0.1, synonyms=0.1, wordnet=folder)
    augmenter = Augmenter.of(config)
    one, other = (
        [augmenter(TEXT, np.random.default_rng([7, k])) for k in range(600)]
        for _ in range(2)
    )
    assert one == other
    swapped = np.mean([sorted(t.split()) == sorted(TEXT.split()) for t in one])
    assert abs(swapped - 1 / 3 - 0.1 / 3) < 0.06  # a deletion may delete nothing
    assert augmenter("", np.random.default_rng(0)) == ""


def test_texts_differ_by_epoch_and_not_by_repetition(tmp_path, tiny):
    rows = [
        {"text": f"w{k} " + "a b c d e f g"[: 3 + k], "label": "xy"[k % 2]}
        for k in range(6)
    ]
    run, corpus = run_of(
        tmp_path,
        tiny,
        rows,
        SequenceClassification(label_field="label"),
        augment=Augmentation(share=1.0, swap=0.3, deletion=0.1),
    )
    task = make_task(run, corpus.tokenizer)
    source = task.source(corpus, "train")
    assert isinstance(augmented.features(task), augmented.Augmented)
    part = Part("data.source", source, augmented.features(task), task.length)

    def epochs(seed):
        data = toy.change(run, data={"shuffle_seed": seed, "batch_size": 6}).data
        pipeline = Pipeline.of([part], data)
        return [pipeline.batch(k)["tokens"] for k in range(3)]

    first, again = epochs(0), epochs(0)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    texts = [{tuple(row[row > 0].tolist()) for row in batch} for batch in first]
    assert texts[0] != texts[1] != texts[2]
    plain = toy.change(run, data={"augment": Augmentation()})
    assert not isinstance(
        augmented.features(make_task(plain, corpus.tokenizer)), augmented.Augmented
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"packing": "first_fit"}, "data.packing='first_fit' fits them into rows"),
        ({"task": None}, "labels of task 'causal_lm' lie at places"),
    ],
)
def test_what_cannot_be_augmented_is_refused(change, says):
    config = toy.change(
        toy.classifier(toy.CONFIG), data={"augment": Augmentation(swap=0.1)}
    )
    if "packing" in change:
        config = toy.change(config, data=change)
    else:
        config = toy.change(config, task=toy.CONFIG.task)
    with pytest.raises(ValueError, match=says):
        augmented.features(toy.task(config))


def test_synonyms_without_a_folder_are_refused():
    with pytest.raises(ValueError, match="synonyms read WordNet, and wordnet is empty"):
        Augmenter.of(Augmentation(synonyms=0.1))
