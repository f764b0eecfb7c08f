"""Relations, next items and few examples, a command each: learned and predicted."""

import csv
import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments.recommend import beside
from experiments.recommend.baselines import BASELINES
from llmjax.data.prepare import prepare
from llmjax.tasks.items.next_item import NextItemTask
from llmjax.tasks.registry import make_task
from llmjax.train.checkpoints import reading
from tests.experiments.forked import Mains
from tests.train import folders

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def mains(tmp_path_factory):
    mains = Mains(tmp_path_factory.mktemp("mains"))
    yield mains
    mains.close()


def relations(count, seed):
    """Of "a" and "b" the relation is the order in which they stand."""
    rng = np.random.default_rng(seed)
    for k in range(count):
        text = "".join(rng.choice([*"cdefg"], int(rng.integers(2, 6))))
        text = f"a {text} b" if k % 2 else f"b {text} a"
        first, last = [0, 1], [len(text) - 1, len(text)]
        head, tail = (first, last) if k % 2 else (last, first)
        relation = "before" if k % 2 else "no_relation"
        row = {"text": text, "e1": head, "e2": tail, "relation": relation}
        yield row


def test_relations_become_triples(mains, tmp_path, random_params):
    folders.bert(tmp_path / "bert", random_params)
    (tmp_path / "data").mkdir()
    for seed, name in enumerate(("train", "dev", "test")):
        rows = relations(64 if name == "train" else 16, seed)
        file = tmp_path / "data" / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = mains.run(
        "finetune",
        "--config=configs/finetune/relation_extraction.py",
        f"--config.init.path={tmp_path}/bert",
        f"--config.data.source={tmp_path}/data",
        f"--config.data.directory={tmp_path}/cache",
        f"--workdir={tmp_path}/run",
        "--config.data.batch_size=16",
        "--config.data.seq_len=20",
        "--config.train.steps=40",
        "--config.train.eval_every=20",
        "--config.train.checkpoint_every=20",
        "--config.optimizer.learning_rate=5e-3",
        "--config.optimizer.schedule.warmup_steps=4",
    )
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "run" / "result.json").read_text())["report"]
    assert report["labels"] == ["before", "no_relation"]
    assert report["f1"] == report["macro_f1"] == 1.0
    assert report["macro_f1_interval"] == [1.0, 1.0]
    (tmp_path / "ask.csv").write_text(
        'text,e1,e2\na cc b,"[0, 1]","[5, 6]"\na cc b,"[5, 6]","[0, 1]"\n'
    )
    ask = ("predict", f"--run={tmp_path}/run", f"--input={tmp_path}/ask.csv")
    done = mains.run(*ask, f"--output={tmp_path}/triples.tsv")
    assert done.code == 0, done.err
    with (tmp_path / "triples.tsv").open() as file:
        rows = [*csv.DictReader(file, delimiter="\t")]
    names = ("head", "relation", "tail")
    triples = [[row[name] for name in names] for row in rows]
    assert triples == [["a", "before", "b"], ["b", "no_relation", "a"]]
    assert all(float(row["probability"]) > 0.5 for row in rows)
    with (tmp_path / "ask.csv").open("a") as file:
        file.write('a cc b,"[0, 9]","[5, 6]"\n')
    done = mains.run(*ask, f"--output={tmp_path}/other.tsv")
    assert done.code == 2 and "line 4" in done.err and "the head is" in done.err
    done = mains.run("convert", f"--source={tmp_path}/run", f"--target={tmp_path}/hub")
    assert done.code == 2 and "no class of transformers" in done.err


def write_events(file, users=40, items=8):
    """Each user goes on from a first item to the next ones."""
    rng = np.random.default_rng(0)
    lines = ["user,item,time"]
    for user in range(users):
        first = int(rng.integers(items))
        lines += [f"u{user},i{(first + k) % items},{k}" for k in range(6)]
    file.write_text("\n".join(lines) + "\n")


def test_the_next_item_is_recommended(mains, tmp_path):
    write_events(tmp_path / "events.csv")
    done = mains.run(
        "finetune",
        "--config=configs/finetune/next_item.py",
        f"--config.data.source={tmp_path}/events.csv",
        f"--config.data.directory={tmp_path}/cache",
        f"--workdir={tmp_path}/run",
        "--config.model.d_model=16",
        "--config.model.d_ff=16",
        "--config.model.num_layers=1",
        "--config.model.dropout=0.0",
        "--config.task.top=3",
        "--config.data.seq_len=8",
        "--config.data.batch_size=16",
        "--config.train.steps=60",
        "--config.train.eval_every=60",
        "--config.train.checkpoint_every=60",
        "--config.train.best_metric=ndcg@3",
        "--config.optimizer.learning_rate=1e-2",
        "--config.optimizer.schedule.warmup_steps=5",
    )
    assert done.code == 0, done.err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["eval"]["ndcg@3"] == pytest.approx(result["report"]["ndcg@3"])
    done = mains.run("evaluate", f"--run={tmp_path}/run", "--split=test")
    assert done.code == 0, done.err
    assert "NDCG@3" in done.out and "over 40 users" in done.out
    rows = [{"id": 1, "history": ["i1", "i2"]}, {"id": 2, "history": []}]
    rows.append({"id": 3, "history": ["gone", "i7"]})
    (tmp_path / "ask.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    ask = ("predict", f"--run={tmp_path}/run", f"--input={tmp_path}/ask.jsonl")
    done = mains.run(*ask, f"--output={tmp_path}/out.jsonl", "--keep=id")
    assert done.code == 0, done.err
    assert "1 item of 3 histories left out" in done.err
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    first, empty, last = map(json.loads, lines)
    assert first["items"][0] == "i3" and last["items"][0] == "i0"
    assert len(empty["items"]) == len(set(empty["items"])) == 3 and last["id"] == 3
    assert first["scores"] == sorted(first["scores"], reverse=True)
    with (tmp_path / "ask.jsonl").open("a") as file:
        file.write('{"id": 4, "history": 5}\n')
    done = mains.run(*ask, f"--output={tmp_path}/other.jsonl", "--keep=id")
    assert done.code == 2 and "line 4" in done.err and "history is int 5" in done.err


def test_a_few_texts_become_a_classifier(mains, tmp_path, random_params):
    folders.bert(tmp_path / "bert", random_params)
    rows = [("good", "x"), ("good good", "x"), ("c c", "y"), ("c a", "y")]
    with (tmp_path / "few.csv").open("w") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    command = (
        f"--train={tmp_path}/few.csv",
        f"--test={tmp_path}/few.csv",
        f"--base={tmp_path}/bert",
        f"--workdir={tmp_path}/run",
        "--rounds=4",
        "--head_steps=40",
    )
    done = mains.run("setfit", *command)
    assert done.code == 0, done.err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result == {"texts": 4, "pairs": 32, "accuracy": 1.0, "macro_f1": 1.0}
    body, classifier = (
        reading.read(str(tmp_path / "run" / name))[2]["transformer"]
        for name in ("body", "classifier")
    )
    body.pop("pooler", None), classifier.pop("pooler", None)
    for a, b in zip(*map(jax.tree.leaves, (body, classifier)), strict=True):
        np.testing.assert_array_equal(a, b)  # what the pairs taught is kept


def test_baselines_as_their_papers_have_them():
    rng = np.random.default_rng(0)
    learned = (rng.random((30, 7)) < 0.4).astype(np.float32)
    asked = (rng.random((5, 7)) < 0.4).astype(np.float32)
    scores = {name: f(learned, asked) for name, f in BASELINES.items()}
    assert (scores["popularity"] == learned.sum(0)).all()
    cosine = np.zeros((7, 7))
    for i in range(7):
        for j in set(range(7)) - {i}:
            a, b = learned[:, i], learned[:, j]
            cosine[i, j] = a @ b / np.sqrt((a @ a) * (b @ b))
    np.testing.assert_allclose(scores["item_knn"], asked @ cosine, rtol=1e-5)
    # EASE: each column is the ridge regression of an item by the others
    for j in range(7):
        others = [i for i in range(7) if i != j]
        X = learned[:, others].astype(np.float64)
        weights = np.linalg.solve(X.T @ X + 300 * np.eye(6), X.T @ learned[:, j])
        right = asked[:, others] @ weights
        np.testing.assert_allclose(scores["ease"][:, j], right, rtol=1e-4, atol=1e-7)


def test_baselines_rank_what_a_user_has_not_had(tmp_path):
    write_events(tmp_path / "events.csv", items=12)
    config = beside.config_of(str(tmp_path / "events.csv"), tmp_path, 0, steps=2)
    data = NextItemTask.with_columns(config.task, config.data, said=False)
    corpus = prepare.prepare(data)
    config = dataclasses.replace(config, data=data)
    task = make_task(config, corpus.tokenizer)
    learned, test = (task.documents(corpus, name) for name in ("train", "test"))
    reports = beside.baselines(task, learned, test)
    assert [*reports] == [*BASELINES]
    for report in reports.values():
        # who had the five items before it: only seven are left to be ranked
        assert report["users"] == 40 and 1 / 7 <= report["mrr"] <= 1
    near = reports["item_knn"]["ndcg@10"]
    assert near > reports["popularity"]["ndcg@10"]
