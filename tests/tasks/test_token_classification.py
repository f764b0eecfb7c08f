"""Tags of words: in windows and packed rows, their loss, and what is counted."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.config import (
    Bytes,
    DataConfig,
    LayoutConfig,
    LossConfig,
    NormedHead,
    RunConfig,
    TokenClassification,
)
from llmjax.data.batches.pipeline import Pipeline
from llmjax.data.batches.windows import Listed, Sentence, Windows
from llmjax.data.prepare import labelled, prepare
from llmjax.data.tokenizers.vocabulary import PlainVocabulary
from llmjax.tasks.registry import make_task
from llmjax.tasks.task import Predictions, loss_of

TAGS = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
T = 24


def sentences(lengths, seed=0):
    """Words of one to three tokens with random tags, one word in nine without."""
    rng, out = np.random.default_rng(seed), []
    for words in lengths:
        sizes = rng.integers(1, 4, words)
        word_ids = np.repeat(np.arange(words, dtype=np.int32), sizes)
        ids = rng.integers(3, 40, len(word_ids)).astype(np.int32)
        tags = rng.integers(0, len(TAGS), words)
        tags = np.where(rng.random(words) < 1 / 9, -1, tags).astype(np.int32)
        out.append(Sentence(ids, word_ids, tags))
    return Listed(out)


def make(tiny, packing="pad", loss=None, **fields):
    data = DataConfig(seq_len=T, batch_size=4, packing=packing)
    task = TokenClassification(labels=TAGS, **fields)
    return make_task(
        RunConfig(tiny, task, data, loss=loss or LossConfig()), PlainVocabulary(40)
    )


def batches(task, source):
    data = task.run.data
    return [*Pipeline(source, task.features, data, task.length).evaluation()]


@pytest.mark.parametrize("length", [8, 24, 1000])
def test_windows_tell_each_word_once_and_with_text_around_it(length):
    own = sentences([1, 2, 0, 30, 7])
    windows = Windows(own, length)
    seen = {}
    for k in range(len(windows)):
        example = windows[k]
        assert len(example["tokens"]) == windows.lengths[k] <= length
        sentence = own[int(windows.owners[k])]
        for place in np.flatnonzero(example["word"]):
            number = int(example["word"][place])
            word = number - int(windows.starts[windows.owners[k]])
            assert number not in seen and sentence.tags[word] >= 0
            seen[number] = int(example["label"][place])
            first = int(np.flatnonzero(sentence.word_ids == word)[0])
            assert sentence.ids[first] == example["tokens"][place]
            margin = length // 4 - 3  # within a word of it
            n = len(example["tokens"])
            assert place >= min(margin, first)
            assert n - place >= min(margin, len(sentence.ids) - first)
    wanted = [tag for k in range(5) for tag in own[k].tags if tag >= 0]
    assert [seen[number] for number in sorted(seen)] == wanted
    numbers = [
        n for k in range(5) for n in windows.starts[k] + np.arange(len(own[k].tags))
    ]
    assert len({*numbers, 0}) == 41 and {*seen} <= {*numbers}
    with pytest.raises(ValueError, match="texts of 0 tokens"):
        Windows(own, 0)


def test_the_first_token_of_a_word_carries_its_tag(tiny):
    task = make(tiny)
    sentence = Sentence(
        *(np.int32(x) for x in ([7, 8, 9, 10], [0, 0, 1, 2], [3, -1, 4]))
    )
    made = task.features(Windows(Listed([sentence]), 9)[0], np.random.default_rng(0))
    assert made["tokens"].tolist() == [1, 7, 8, 9, 10, 2]
    assert made["word"].tolist() == [0, 1, 0, 0, 3, 0]
    assert made["label"].tolist() == [0, 3, 0, 0, 4, 0]
    assert task.length(4) == 6


@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize("architecture", ["encoder", "decoder"])
@pytest.mark.parametrize("crf", [False, True])
def test_packed_rows_have_the_loss_of_sentences_alone(
    architecture, crf, tiny, random_params
):
    cfg = dataclasses.replace(tiny, architecture=architecture, num_layers=1)
    loss = LossConfig() if crf else LossConfig(z_loss=0.01, label_smoothing=0.1)
    own = sentences([1, 3, 2, 4, 5, 9, 2, 30])
    sums = {}
    for packing in ("pad", "first_fit"):
        task = make(cfg, packing, loss, crf=crf)
        model = task.model(cfg, LayoutConfig())
        rows = batches(task, task.examples(own))
        params = random_params(model, rows[0])
        score = loss_of(task, model)

        @jax.jit
        def step(params, batch, score=score):
            def total(params):
                total, count, metrics, _ = score(params, {}, {}, batch, None)
                return total, (count, metrics)

            return jax.value_and_grad(total, has_aux=True)(params)

        parts = [step(params, {k: jnp.asarray(v) for k, v in b.items()}) for b in rows]
        sums[packing] = jax.tree.map(lambda *x: sum(x), *parts)
        sums[packing, "batches"] = len(rows)
    assert sums["first_fit", "batches"] < sums["pad", "batches"]
    words = sum(int((s.tags >= 0).sum()) for s in own.sentences)
    (_, (count, metrics)), _ = sums["pad"]
    assert count == metrics["accuracy"][1] == words
    assert 0 < metrics["f1"][0] < metrics["f1"][1]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        sums["pad"],
        sums["first_fit"],
    )
    assert all(jnp.abs(g).max() > 1e-3 for g in jax.tree.leaves(sums["pad"][1]))


@pytest.mark.usefixtures("quick_compile")
def test_the_report_joins_windows_and_keeps_sentences_apart(tiny, random_params):
    """Predicted by a table of words: exact entities, whatever the rows."""
    own = sentences([3, 40, 2, 5, 1], seed=3)
    reports = []
    for packing in ("pad", "first_fit"):
        task = make(tiny, packing)
        parts = []
        for batch in batches(task, task.examples(own)):
            tag = np.where(batch["word"] % 5 == 0, 3, batch["label"])
            labels = {k: batch[k] for k in task.labels}
            ids = np.arange(len(tag))
            parts.append(Predictions(ids, {"tag": tag, "score": tag}, labels))
        reports.append(task.report(parts))
    assert reports[0] == reports[1]
    (report, _), tags = reports, task.tags
    right, changed, number = [], [], 1
    for sentence in own.sentences:
        for tag in [*sentence.tags, -1]:
            right.append(tag)
            changed.append(3 if tag >= 0 and number % 5 == 0 else tag)
            number += 1
    gold, ours = (tags.entities(np.array(x)).tolist() for x in (right, changed))
    both = [entity for entity in gold if entity in ours]
    assert report["support"] == len(gold) and report["predicted"] == len(ours)
    assert report["precision"] == len(both) / len(ours) and len(both) > 5
    assert report["words"] == sum(tag >= 0 for tag in right)
    words = task.describe(report)
    assert words.splitlines()[0].split() == [
        *("precision", "recall", "f1", "right", "predicted")
    ]
    assert words.splitlines()[-1].startswith("all entities")


@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize("crf", [False, True])
def test_predictions_are_tags_with_their_probabilities(crf, tiny, random_params):
    task = make(tiny, crf=crf, **({} if crf else {"head": NormedHead()}))
    model = task.model(tiny, LayoutConfig())
    batch = {k: jnp.asarray(v) for k, v in task.example_batch(2).items()}
    assert batch["word"].max() > 1 and batch["label"].max() == len(TAGS) - 1
    params = random_params(model, batch)
    made = jax.jit(task.predict(model))({"params": params}, batch)
    assert made["tag"].shape == made["score"].shape == (2, T)
    here = np.asarray(batch["word"]) > 0
    scores = np.asarray(made["score"])[here]
    assert (scores > (0 if crf else 1 / len(TAGS))).all() and (scores <= 1.00001).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scheme": "bioes"}, "task.scheme='bioes', and task.labels is of the sc"),
        ({"crf": True, "loss": LossConfig(0.1)}, r"loss.z_loss=0.1 .* task.crf"),
        (
            {"packing": "concat"},
            "needs data.packing='pad' or 'first_fit', not 'concat'",
        ),
    ],
)
def test_what_does_not_fit_is_said(fields, message, tiny):
    with pytest.raises(ValueError, match=message):
        make(tiny, **fields)


@pytest.fixture
def source(tiny, tmp_path):
    """(rows, fields of the task) -> the examples of their records' training split."""

    def made(rows, **fields):
        folder = tmp_path / "data"
        folder.mkdir(exist_ok=True)
        for name in ("train", "valid"):
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / f"{name}.jsonl").write_text(text)
        cache = str(tmp_path / "cache")
        data = DataConfig(str(folder), directory=cache, tokenizer=Bytes())
        data = labelled.with_words(data, "words", "tags", said=False)
        data = dataclasses.replace(data, packing="pad", seq_len=64)
        corpus = prepare.prepare(data)
        cfg = dataclasses.replace(tiny, vocab_size=512)
        run = RunConfig(cfg, TokenClassification(**fields), data)
        return make_task(run, corpus.tokenizer).source(corpus, "train")

    return made


def test_tags_by_number_are_named_by_the_task(source, capsys):
    rows = [{"tokens": ["a", "b", "c"], "tags": [3, 4, 0]}, {"tokens": [], "tags": []}]
    windows = source(rows, labels=TAGS)
    assert (
        len(windows) == 1 and "1 × record without words is" in capsys.readouterr().err
    )
    assert windows[0]["label"][windows[0]["word"] > 0].tolist() == [3, 4, 0]
    bioes = ("O", "B-LOC", "I-LOC", "E-LOC", "S-LOC")
    named = source([{"tokens": ["a", "b"], "tags": ["I-LOC", "I-LOC"]}], labels=bioes)
    assert named[0]["label"][named[0]["word"] > 0].tolist() == [1, 3]  # of IOB1


@pytest.mark.parametrize(
    ("tags", "fields", "message"),
    [
        (["B-X", "O"], {"labels": TAGS}, "has the type 'X', and task.labels names O"),
        (["NN", "O"], {"labels": TAGS}, "accepted: both of entities, or both plain"),
        (["B-X", "O"], {"num_labels": 7}, "num_labels=7, and the corpus has 3 tags"),
        (
            ["O", "I-X"],
            {"read": "bio", "num_labels": 3},
            r"record 0 .*, word 1 \('a b'",
        ),
        (
            ["O", "O"],
            {"words_field": "x"},
            "no field 'x' of kind 'words'; it has words",
        ),
    ],
)
def test_a_corpus_that_does_not_fit_is_named(tags, fields, message, source):
    with pytest.raises(ValueError, match=message):
        source([{"tokens": ["a", "b"], "tags": tags}], **fields)
