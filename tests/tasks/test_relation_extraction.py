"""Relations: markers and cuts, the score of two entities, metrics, and mistakes."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from sklearn import metrics

from llmjax.config import Bytes, DataConfig, RelationExtraction, RunConfig
from llmjax.data.batches.pipeline import Pipeline
from llmjax.data.prepare import prepare
from llmjax.data.store.records import EncodedText
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.data.tokenizers.vocabulary import MARKERS, SPECIALS
from llmjax.models.heads.relation import RelationClassifier
from llmjax.models.transformer import Transformer
from llmjax.tasks.labelled import confusion
from llmjax.tasks.labelled.marked import Marked, Markers, cut, marked, with_markers
from llmjax.tasks.labelled.relation_extraction import RelationExtractionTask
from llmjax.tasks.registry import make_task
from llmjax.tasks.task import Predictions
from tests.train import folders

ROWS = [
    {"text": "Rome is in Italy.", "head_span": [0, 4], "tail_span": [11, 16]},
    {"text": "Italy has Rome.", "head_span": "[10, 14]", "tail_span": [[0, 5]]},
    {"text": "x" * 20 + "Rome" + "y" * 40 + "Oslo" + "z" * 9},
]
ROWS[2] |= {"head_span": {"start": 20, "end": 24}, "tail_span": [64, 68]}
RELATIONS = ("capital", "capital", "no_relation")


def run_of(tmp_path, tiny, rows, **fields):
    file = tmp_path / "train.jsonl"
    named = [{**r, "relation": n} for r, n in zip(rows, RELATIONS, strict=False)]
    file.write_text("".join(json.dumps(row) + "\n" for row in named))
    data = DataConfig(
        source=str(file),
        directory=str(tmp_path / "cache"),
        tokenizer=Bytes(),
        seq_len=32,
        batch_size=4,
        packing="pad",
    )
    whole = dataclasses.replace(data.prepare, validation=0.0, test=0.0)
    labels = {"labels": ("capital", "no_relation")}
    task = RelationExtraction(**labels | fields)
    data = dataclasses.replace(data, prepare=whole)
    data = RelationExtractionTask.with_columns(task, data, said=False)
    model = dataclasses.replace(tiny, architecture="encoder", vocab_size=512)
    return RunConfig(model, task, data)


@pytest.fixture(params=["start", "mean"])
def bound(request, tmp_path, tiny):
    run = run_of(tmp_path, tiny, ROWS, pooling=request.param)
    corpus = prepare.prepare(run.data)
    return make_task(run, corpus.tokenizer), corpus


def test_entities_are_marked_and_the_room_is_around_them(bound):
    task, corpus = bound
    source = task.source(corpus, "train")
    assert (len(source), source.cut) == (3, 1)
    pipeline = Pipeline(source, task.features, task.run.data, task.length)
    batch = next(pipeline.evaluation())
    show = corpus.tokenizer.decode
    texts = [show(row) for row in batch["tokens"]]
    assert texts[0].rstrip("\0") == "[E1]Rome[/E1] is in [E2]Italy[/E2]."
    assert texts[1].rstrip("\0") == "[E2]Italy[/E2] has [E1]Rome[/E1]."
    # 26 tokens of text: 13 around either entity
    assert texts[2] == "xxxx[E1]Rome[/E1]yyyyyyyyy[E2]Oslo[/E2]zzzzz"
    for number, name in ((1, "Rome"), (2, "Italy")):
        tokens = batch["tokens"][0][batch["entities"][0] == number]
        marker = f"[E{number}]"
        assert show(tokens) == (marker if task.config.pooling == "start" else name)


@pytest.mark.parametrize("seed", range(4))
def test_no_cut_loses_an_entity_that_has_room(seed):
    rng = np.random.default_rng(seed)
    for _ in range(200):
        size, room = int(rng.integers(4, 60)), int(rng.integers(2, 40))
        a, b, c, d = np.sort(rng.choice(size + 1, 4, replace=False)).tolist()
        text = Marked(np.arange(size), (a, b), (c, d))
        if rng.random() < 0.5:
            text = Marked(text.ids, text.tail, text.head)
        short = cut(text, room)
        assert len(short.ids) <= room and (np.diff(short.ids) > 0).all()
        if size <= room or max(b, d) - min(a, c) <= room:
            assert len(short.ids) == min(size, room)
        for whole, kept in ((text.head, short.head), (text.tail, short.tail)):
            ids = short.ids[slice(*kept)]
            assert ids.tolist() == list(range(whole[0], whole[0] + len(ids)))
            if whole[1] - whole[0] <= room // 2:
                assert len(ids) == whole[1] - whole[0]


def test_a_token_of_both_entities_is_of_the_first():
    offsets = np.array([[0, 2], [2, 6], [6, 8]])
    text = EncodedText("abcdefgh", np.array([7, 8, 9], np.int32), offsets)
    assert marked(text, (4, 8), (0, 4)) == (text.ids, (2, 3), (0, 2))
    inside = marked(text, (2, 4), (4, 6))  # the second has no token of its own
    tokens, entities = with_markers(inside, Markers((1, 2), (3, 4)), "mean")
    assert tokens.tolist() == [7, 1, 8, 2, 3, 4, 9]
    assert entities.tolist() == [0, 0, 1, 0, 2, 0, 0]


def test_the_score_is_of_both_states_beside_each_other(tiny, random_params):
    cfg = dataclasses.replace(tiny, architecture="encoder")
    tokens = jnp.array([[5, 6, 7, 8, 9, 1]])
    entities = jnp.array([[2, 0, 1, 1, 0, 0]])
    model, batch = RelationClassifier(cfg, 3), {"tokens": tokens, "entities": entities}
    params = random_params(model, batch)
    body = Transformer(cfg).apply({"params": params["transformer"]}, batch)[0][0]
    head, tail = np.asarray(body)[2:4].mean(0), np.asarray(body)[0]
    own = params["classifier"]
    right = np.concatenate([head, tail]) @ own["kernel"] + own["bias"]
    got = model.apply({"params": params}, batch)
    np.testing.assert_allclose(got[0], right, rtol=1e-5, atol=1e-5)
    swapped = batch | {"entities": jnp.array([[1, 0, 2, 2, 0, 0]])}
    assert np.abs(model.apply({"params": params}, swapped) - got).max() > 1e-2


def test_metrics_leave_out_entities_without_a_relation(bound):
    task, _ = bound
    rng = np.random.default_rng(0)
    right, said = rng.integers(0, 2, (2, 50))
    values = {"label": said, "probabilities": np.eye(2)[said]}
    report = task.report([Predictions(np.arange(50), values, {"label": right})])
    # all that scikit-learn needs, of three classes too
    scores = metrics.precision_recall_fscore_support(
        right, said, labels=[0], average="micro"
    )
    assert [report[k] for k in ("precision", "recall", "f1")] == pytest.approx(
        scores[:3]
    )
    assert report["macro_f1"] == metrics.f1_score(right, said, average="macro")
    assert "'no_relation': precision" in task.describe(report)
    right, said = rng.integers(0, 4, (2, 90))
    got = confusion.without(confusion.confusion(said, right, 4), 2)
    scores = metrics.precision_recall_fscore_support(
        right, said, labels=[0, 1, 3], average="micro"
    )
    assert [*got.values()] == pytest.approx(scores[:3])
    assert confusion.without(np.zeros((2, 2), int), 0)["f1"] == 0


def test_an_answer_is_a_triple(bound):
    task, _ = bound
    each = [dict(zip(task.inputs, row.values(), strict=True)) for row in ROWS]
    rows = [*map(task.read_row, each)]
    source = task.examples(task.questions(rows))
    values = {"label": np.array([0, 1, 1]), "probabilities": np.full((3, 2), 0.5)}
    answers = task.answers(source, task.decode(values, None))
    heads = [[*a.values()][:4] for a in answers]
    assert heads[0] == ["Rome", "capital", "Italy", 0.5]
    assert heads[2] == ["Rome", "no_relation", "Oslo", 0.5]
    assert task.counted(answers[0]) == ["capital"]


BAD = [
    ([], [0, 4], "0 spans for its head"),
    ([[0, 4], [5, 7]], [11, 16], "2 spans for its head"),
    ([0, 12], [11, 16], r"entities that overlap, \[0, 12\) and \[11, 16\)"),
    ([4, 5], [11, 16], r"the head \[4, 5\), which is white space"),
    ([0, 99], [11, 16], r"a span \[0, 99\) that is not in the 17 characters"),
    ([4, 4], [11, 16], "not in the 17 characters"),
    ("Rome", [11, 16], "no JSON"),
    (None, [11, 16], "nothing and no list of spans"),
    ([0.0, 4.0], [11, 16], "no span"),
]


@pytest.mark.parametrize(("head", "tail", "words"), BAD)
def test_a_bad_row_is_named(head, tail, words, bound, tmp_path, tiny):
    bad = {"text": ROWS[0]["text"], "head_span": head, "tail_span": tail}
    run = run_of(tmp_path, tiny, [ROWS[0], bad])
    with pytest.raises(ValueError, match=words) as e:
        corpus = prepare.prepare(run.data)
        make_task(run, corpus.tokenizer).documents(corpus, "train")
    assert "record 1" in str(e.value) or "train.jsonl, line 2" in str(e.value)
    task, _ = bound
    with pytest.raises(ValueError, match=words):
        task.read_row({"text": bad["text"], "head": head, "tail": tail})


def test_a_class_that_the_task_has_not_and_a_row_without_room(tmp_path, tiny):
    run = run_of(tmp_path, tiny, ROWS, labels=("a", "b"))
    corpus = prepare.prepare(run.data)
    with pytest.raises(ValueError, match=r"record 0 .* the class 'capital'"):
        make_task(run, corpus.tokenizer).documents(corpus, "train")
    data = dataclasses.replace(run.data, seq_len=7)
    with pytest.raises(ValueError, match="no room for two entities"):
        make_task(dataclasses.replace(run, data=data), corpus.tokenizer)
    with pytest.raises(ValueError, match="'encoder'"):
        model = dataclasses.replace(run.model, architecture="decoder")
        make_task(dataclasses.replace(run, model=model), corpus.tokenizer)


def test_markers_take_ids_that_a_tokenizer_leaves_unused():
    plain = Tokenizer(folders.bert_tokenizer())
    first = plain.vocab_size + SPECIALS.index("[E1]")
    assert [*map(plain.special_id, MARKERS)] == [*range(first, first + 4)]
    described = json.loads(plain.json)
    vocab = described["model"]["vocab"]
    for k in range(5):
        vocab[f"[unused{k}]"] = len(vocab)
    free = Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(described)))
    ids = [*map(free.special_id, MARKERS)]
    assert ids == [vocab[f"[unused{k}]"] for k in (1, 2, 3, 4)]
    assert max(ids) < free.vocab_size
    assert free.special_id("<extra_id_0>") >= free.vocab_size
    assert not set(ids) & set(free.encode("[unused1] [E1]").tolist())


def test_its_loss_falls(bound, quick_compile):
    task, _ = bound
    model = task.model(task.run.model, task.run.layout)
    batch = jax.tree.map(jnp.asarray, task.example_batch(3))
    params = model.init(jax.random.key(0), batch)["params"]

    def loss(params):
        outputs = task.outputs(model)({"params": params}, batch, None)
        total, count, _ = task.score(outputs, batch)
        return total / count

    value, slope = jax.jit(jax.value_and_grad(loss))(params)
    after = loss(jax.tree.map(lambda p, g: p - 0.01 * g, params, slope))
    assert after < value
