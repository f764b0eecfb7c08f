"""The next item: histories and splits, losses, ranks, answers, and mistakes."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics

from llmjax.config import (
    Checkpoint,
    DataConfig,
    FullSoftmax,
    GlobalTime,
    Items,
    LeaveLastOut,
    LossConfig,
    NextItem,
    RunConfig,
    SampledNegatives,
)
from llmjax.data.batches.pipeline import Pipeline
from llmjax.data.prepare import prepare
from llmjax.tasks.items import losses, ranking
from llmjax.tasks.items.histories import Asked, Events, histories
from llmjax.tasks.items.next_item import NextItemTask
from llmjax.tasks.registry import make_task
from llmjax.tasks.task import Predictions
from llmjax.train import initial

# by user in the order of time: ann a b c d, bob b c d, cid a (once)
ROWS = [
    ("ann", "b", 5),
    ("bob", "b", 1),
    ("ann", "a", 2),
    ("bob", "d", 3),
    ("ann", "c", 5),  # at the time of "b", and behind it in the file
    ("cid", "a", 9),
    ("bob", "c", 2),
    ("ann", "d", 8),
]


def run_of(tmp_path, tiny, rows=ROWS, seq_len=4, **fields):
    file = tmp_path / "events.csv"
    lines = [",".join("" if v is None else str(v) for v in row) for row in rows]
    file.write_text("user_id,item_id,timestamp\n" + "\n".join(lines) + "\n")
    data = DataConfig(
        source=str(file),
        directory=str(tmp_path / "cache"),
        seq_len=seq_len,
        batch_size=4,
        packing="pad",
    )
    task = NextItem(**{"top": 2} | fields)
    data = NextItemTask.with_columns(task, data, said=False)
    return RunConfig(dataclasses.replace(tiny, vocab_size=16), task, data)


def bound(tmp_path, tiny, **fields):
    run = run_of(tmp_path, tiny, **fields)
    corpus = prepare.prepare(run.data)
    return make_task(run, corpus.tokenizer), corpus


def named(task, source):
    """The names of the items of each example."""
    each = (source[k]["items"] for k in range(len(source)))
    return ["".join(task.names.get(int(i), "?") for i in items) for items in each]


def batch_of(task, source):
    pipeline = Pipeline(
        source, task.features, task.run.data, task.length, declared=task.declared
    )
    return next(pipeline.evaluation())


def test_the_last_items_are_held_out(tmp_path, tiny, capsys):
    task, corpus = bound(tmp_path, tiny)
    assert task.run.data.tokenizer == Items("item")
    assert [*task.names.values()] == ["a", "b", "c", "d"]
    sources = {s: task.source(corpus, s) for s in ("train", "validation", "test")}
    assert {k: named(task, s) for k, s in sources.items()} == {
        "train": ["ab", "b", "a"],
        "validation": ["abc", "bc"],
        "test": ["abcd", "bcd"],
    }
    said = capsys.readouterr().err  # "c" and "d" are only held out
    assert "split 'test': 2 targets of 2 are items that no event" in said
    batch = batch_of(task, sources["test"])
    a, b, c, d = (task.ids[name] for name in "abcd")
    bos = corpus.tokenizer.bos_id
    assert batch["tokens"][:2].tolist() == [[bos, a, b, c], [bos, b, c, 0]]
    assert batch["targets"][:2].tolist() == [[a, b, c, d], [b, c, d, 0]]
    assert batch["weights"][:2].tolist() == [[0, 0, 0, 1], [0, 0, 1, 0]]
    assert batch["next"].tolist() == [d, d, 0, 0]
    assert batch["valid"].tolist() == [1, 1, 0, 0]
    assert batch_of(task, sources["train"])["weights"].sum() == 4
    with pytest.raises(ValueError, match="no split 'dev'"):
        task.source(corpus, "dev")


def test_nothing_is_learned_behind_a_moment(tmp_path, tiny):
    # times 1 2 2 3 5 5 8 9: the validation begins at 3, the test at 8
    how = GlobalTime(validation=0.375, test=0.25)
    task, corpus = bound(tmp_path, tiny, split=how)
    assert named(task, task.source(corpus, "train")) == ["a", "bc"]
    assert named(task, task.source(corpus, "validation")) == ["ab", "bcd"]
    assert named(task, task.source(corpus, "test")) == ["abcd"]


def events_of(rng, users=9, most=12):
    count = rng.integers(1, most, users)
    who = rng.permutation(np.repeat(np.arange(users), count))
    times = rng.integers(0, 20, len(who)).astype(float)
    return who, rng.integers(4, 30, len(who)), times


@pytest.mark.parametrize("how", [LeaveLastOut(), GlobalTime(0.2, 0.2)])
def test_splits_as_a_loop_has_them(how):
    """The same by Python's stable sort, user by user."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        who, items, times = events_of(rng)
        events = Events.of(who, items, times)
        total = len(times)
        edges = sorted(times)[round(total * 0.6)], sorted(times)[round(total * 0.8)]
        right = {"train": [], "validation": [], "test": []}
        for user in range(who.max() + 1):
            own = [(times[k], items[k]) for k in range(total) if who[k] == user]
            own.sort(key=lambda pair: pair[0])
            seen = [i for _, i in own]
            if isinstance(how, LeaveLastOut):
                held = 2 if len(seen) >= 3 else 0
                right["train"].append(seen[: len(seen) - held])
                if held:
                    right["validation"].append(seen[:-1])
                    right["test"].append(seen)
                continue
            first, second = (sum(t < edge for t, _ in own) for edge in edges)
            if first:
                right["train"].append(seen[:first])
                if second > first:
                    right["validation"].append(seen[: first + 1])
            if second and len(seen) > second:
                right["test"].append(seen[: second + 1])
        for name, rows in right.items():
            source = histories(events, how, name, 99)
            got = [source[k]["items"].tolist() for k in range(len(source))]
            assert got == [list(map(int, row)) for row in rows]
            # of short rows: all of what is learned, and the end of what is held out
            short = histories(events, how, name, 3)
            got = [short[k]["items"].tolist() for k in range(len(short))]
            assert max(map(len, got)) <= 3
            if name == "train":
                assert sum(map(len, got)) == sum(map(len, rows))
            else:
                assert got == [list(map(int, row[-3:])) for row in rows]
                assert short.cut == sum(len(row) > 3 for row in rows)


def test_the_sampled_loss_is_that_of_the_papers():
    rng = np.random.default_rng(0)
    x, table = rng.standard_normal((2, 3, 5)), rng.standard_normal((11, 5))
    targets, wrong = rng.integers(0, 11, (2, 3)), rng.integers(0, 11, (2, 3, 4))
    arrays = *map(jnp.float32, (x, table)), jnp.array(targets), jnp.array(wrong)
    own = losses.sampled(*arrays, 1.0)

    def sigmoid(score):
        return 1 / (1 + np.exp(-score))

    for b in range(2):
        for t in range(3):
            sasrec = -np.log(sigmoid(x[b, t] @ table[targets[b, t]]))
            for item in wrong[b, t]:
                sasrec -= np.log(1 - sigmoid(x[b, t] @ table[item]))
            assert own[b, t] == pytest.approx(sasrec, rel=1e-5)
    # gSASRec, section 5: t = 0 is none, and at t = 1 beta is the share that is drawn
    assert losses.power(4, 11, 0.0) == pytest.approx(1)
    assert losses.power(4, 11, 1.0) == pytest.approx(4 / 10)
    beta = losses.power(4, 11, 0.75)
    powered = losses.sampled(*arrays, beta)
    right = np.einsum("btm,btm->bt", x, table[targets])
    apart = (1 - beta) * np.log(sigmoid(right))
    np.testing.assert_allclose(powered - own, apart, rtol=1e-4)


def test_negatives_are_all_that_a_user_never_had():
    rng, items = np.random.default_rng(0), np.arange(4, 14)
    seen = np.array([4, 7, 8, 13])
    drawn = losses.negatives(rng, items, seen, (6000,))
    ids, counts = np.unique(drawn, return_counts=True)
    assert ids.tolist() == [5, 6, 9, 10, 11, 12]
    assert np.abs(counts / 1000 - 1).max() < 0.15
    assert set(losses.negatives(rng, items, items, (50,))) <= set(items.tolist())


def test_metrics_are_scikit_learns():
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((40, 30)).astype(np.float32)
    right = rng.integers(0, 30, 40)
    place = np.asarray(ranking.rank(jnp.array(scores), jnp.array(right)))
    report = ranking.report(place, np.arange(30) < 12, 30, 5)
    truth = np.eye(30)[right]
    assert report["ndcg@5"] == pytest.approx(metrics.ndcg_score(truth, scores, k=5))
    hits = metrics.top_k_accuracy_score(right, scores, k=5, labels=np.arange(30))
    assert report["hr@5"] == pytest.approx(hits)
    mrr = metrics.label_ranking_average_precision_score(truth, scores)
    assert report["mrr"] == pytest.approx(mrr)
    assert report["coverage"] == pytest.approx(0.4)
    # the interval of a share, by the binomial's spread
    low, high = report["hr@5_interval"]
    spread = 1.96 * np.sqrt(hits * (1 - hits) / 40)
    assert high - low == pytest.approx(2 * spread, rel=0.25) and low < hits < high
    assert "NDCG@5" in ranking.describe(report, 5)


def test_a_model_that_knows_nothing_ranks_last():
    scores = jnp.array([[1.0, 1, 1, -jnp.inf], [jnp.nan, 2, 3, -jnp.inf]])
    assert ranking.rank(scores, jnp.array([0, 0])).tolist() == [3, 4]
    assert ranking.rank(scores, jnp.array([3, 2])).tolist() == [4, 2]


@pytest.mark.parametrize("loss", [FullSoftmax(), SampledNegatives(3, 0.5)])
@pytest.mark.parametrize("packing", ["pad", "first_fit"])
def test_scores_of_a_batch(loss, packing, tmp_path, tiny, random_params, quick_compile):
    """Against the model's logits, history by history."""
    task, corpus = bound(tmp_path, tiny, loss=loss, exclude_seen=True, seq_len=8)
    data = dataclasses.replace(task.run.data, packing=packing)
    task = dataclasses.replace(task, run=dataclasses.replace(task.run, data=data))
    model = task.model(task.run.model, task.run.layout)
    batch = jax.tree.map(jnp.asarray, batch_of(task, task.source(corpus, "test")))
    params = random_params(model, batch)
    outputs = task.outputs(model)({"params": params}, batch, None)
    total, count, sums = task.score(outputs, batch)
    values = task.predict(model)({"params": params}, batch)
    valid = batch["valid"] > 0
    ranks, answers = values["rank"][valid], []
    for history in ("abc", "bc"):
        ids = [task.ids[name] for name in history]
        tokens = jnp.array([[corpus.tokenizer.bos_id, *ids]])
        logits = model.apply({"params": params}, {"tokens": tokens})[0][0, -1]
        left = [i for i in task.items.tolist() if i not in ids]
        order = sorted(left, key=lambda i: -logits[i])
        answers.append((order, logits, 1 + order.index(task.ids["d"])))
    assert ranks.tolist() == [place for _, _, place in answers]
    decoded = task.decode(
        {name: np.asarray(v)[valid] for name, v in values.items()}, corpus
    )
    for answer, (order, logits, _) in zip(decoded, answers, strict=True):
        assert answer["items"] == [task.names[i] for i in order][:2]
        right = [float(logits[i]) for i in order][:2]
        assert answer["scores"] == pytest.approx(right, rel=1e-4, abs=1e-5)
    assert float(sums["mrr"][0]) == pytest.approx(sum(1 / p for *_, p in answers))
    assert float(count) == 2 and float(sums["mrr"][1]) == 2
    if isinstance(loss, FullSoftmax):
        nll = [-jax.nn.log_softmax(row)[task.ids["d"]] for _, row, _ in answers]
        assert float(total) == pytest.approx(float(sum(nll)), rel=1e-4)
    part = Predictions(
        np.arange(2), jax.tree.map(lambda v: np.asarray(v)[valid], values), {}
    )
    report = task.report([part])
    assert report["mrr"] == pytest.approx(np.mean(1 / ranks))
    assert report["coverage"] == len({i for a in decoded for i in a["items"]}) / 4


def test_rows_are_answered_whatever_they_had(tmp_path, tiny, capsys):
    task, corpus = bound(tmp_path, tiny)
    written = ["a b", '["a", "b"]', ["a", "b"], "", None, ["x", "d"], list("abcdab")]
    rows = [task.read_row({"history": value}) for value in written]
    source = task.questions(rows)
    assert isinstance(source, Asked)
    ids = [source[k]["items"].tolist() for k in range(len(source))]
    a, b, d = (task.ids[name] for name in "abd")
    assert ids == [[a, b, 0]] * 3 + [[0], [0], [d, 0], [d, a, b, 0]]
    assert source.cut == 1 and source.lengths.tolist() == [3, 3, 3, 1, 1, 2, 4]
    assert "1 item of 7 histories left out" in capsys.readouterr().err
    tokens = batch_of(task, source)["tokens"]
    assert tokens[0].tolist() == [corpus.tokenizer.bos_id, a, b, 0]
    numbered = task.read_row({"history": [1, 2.0, "3 "]})
    assert numbered == {"history": ["1", "2", "3"]}
    for value, words in (
        (7, "the history is int 7"),
        ({"a": 1}, "the history is dict"),
        (["a", None], "None at its place 1"),
        ([["a"]], "place 0 is list and no class"),
        ("[1, ", "the history is no JSON"),
    ):
        with pytest.raises(ValueError, match=words):
            task.read_row({"history": value})


BAD = [
    ([("ann", "a", 1), ("ann", None, 2)], "record 1 has no item"),
    ([("ann", "a", 1), (None, "a", 2)], "record 1 has no user"),
    ([("ann", "a", None)], "'timestamp' is .*no number"),
    ([("ann", "a", "soon")], "'timestamp' is str 'soon' and no number"),
    ([("ann", "a", 1.7e18)], r"the time 17\d+, beyond 2\*\*53"),
    ([("ann", "a", 1), ("ann", "b", 2)], "users with three events or more"),
    ([("ann", "<pad>", 1)], "the item '<pad>' has the name of a special"),
]


@pytest.mark.parametrize(("rows", "words"), BAD)
def test_a_bad_event_is_named(rows, words, tmp_path, tiny):
    run = run_of(tmp_path, tiny, rows, top=1)
    with pytest.raises(ValueError, match=words):
        corpus = prepare.prepare(run.data)
        make_task(run, corpus.tokenizer).source(corpus, "validation")


def test_what_does_not_fit_is_named(tmp_path, tiny):
    task, corpus = bound(tmp_path, tiny)
    for changes, words in (
        ({"task": NextItem(top=5)}, "task.top=5, and the tokenizer has 4 items"),
        (
            {
                "task": NextItem(SampledNegatives(), top=1),
                "loss": LossConfig(z_loss=1.0),
            },
            "loss.z_loss=1",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            make_task(dataclasses.replace(task.run, **changes), corpus.tokenizer)
    assert task.example_batch(2)["tokens"].shape == (2, 4)
    manifest = json.loads(json.dumps(corpus.manifest))
    manifest["dataset"]["documents"]["test"] = 1
    several = dataclasses.replace(corpus, manifest=manifest)
    with pytest.raises(ValueError, match=r"the splits train, test, .* by time"):
        task.source(several, "train")


def test_items_that_the_tokenizer_has_not_are_named(tmp_path, tiny):
    task, _ = bound(tmp_path, tiny)
    (tmp_path / "new").mkdir()
    _, corpus = bound(
        tmp_path / "new", tiny, rows=[("ann", "e", k) for k in range(4)], top=1
    )
    begun = dataclasses.replace(task.run, init=Checkpoint("runs/old"))
    for run, remedy in (
        (task.run, "set data.tokenizer.kind='items'"),
        (begun, "begin without init.path"),
    ):
        own = make_task(run, task.vocabulary)
        with pytest.raises(ValueError, match=f"'e' is not among the 4 .*; {remedy}"):
            own.source(corpus, "train")


def test_the_model_has_room_for_the_items_and_no_more(tmp_path, tiny):
    run = run_of(tmp_path, tiny)
    run = dataclasses.replace(run, model=type(tiny)(num_layers=1))
    assert initial.complete(run, said=()).model.vocab_size == 8192  # not prepared yet
    prepare.prepare(run.data)
    assert initial.complete(run).model.vocab_size == 128
    said = initial.complete(run, said=("model.vocab_size",))
    assert said.model.vocab_size == 8192
