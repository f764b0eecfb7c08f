"""From a folder of sentence-transformers and pairs to vectors, a command each."""

import json

import numpy as np
import pytest

from llmjax.config import TextReading
from llmjax.hub import text_vectors
from tests.experiments.forked import Mains
from tests.train import folders

pytestmark = pytest.mark.slow
READING = TextReading("first", True, "good ", "good good ", 10)


@pytest.fixture(scope="module")
def mains(tmp_path_factory):
    mains = Mains(tmp_path_factory.mktemp("mains"))
    yield mains
    mains.close()


def pairs(count, seed):
    """A positive has the next letters of the alphabet."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        letters = rng.permutation(8)[:2]
        query, answer = ([chr(97 + k + s) for k in letters] for s in (0, 8))
        yield {"query": " ".join(query), "answer": " ".join(answer)}


def write(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_vectors_are_learned_predicted_mined_and_exported(
    mains, tmp_path, random_params
):
    folders.bert(tmp_path / "bert", random_params)
    text_vectors.write(tmp_path / "bert", READING, 16)
    (tmp_path / "data").mkdir()
    every = [*{json.dumps(row): row for row in pairs(500, 0)}.values()]
    for name, part in (
        ("train", every[16:]),
        ("dev", every[:8]),
        ("test", every[8:16]),
    ):
        write(tmp_path / "data" / f"{name}.jsonl", part)
    command = (
        "--config=configs/finetune/text_embedding.py",
        f"--config.init.path={tmp_path}/bert",
        f"--config.data.source={tmp_path}/data",
        f"--config.data.directory={tmp_path}/cache",
        "--config.data.batch_size=32",
        "--config.data.seq_len=12",
        "--config.task.max_query=10",
        "--config.task.loss.negatives.kind=guided",
        "--config.task.loss.negatives.margin=-1.0",
        "--config.layout.microbatches=2",
        "--config.train.eval_every=100",
        "--config.train.checkpoint_every=100",
        "--config.optimizer.learning_rate=1e-2",
        f"--workdir={tmp_path}/run",
    )
    done = mains.run("finetune", *command, "--config.train.steps=200")
    assert done.code == 0, done.err
    assert "anchor in 'query', positive in 'answer'" in done.err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    report = result["report"]
    assert report["mrr@10"] > 0.6 and report["queries"] == 8  # chance: 0.34
    assert f"ndcg@10 {report['ndcg@10']:.4f}" in done.out
    # goes on from where it was, with the guide that it began with
    done = mains.run("finetune", *command, "--config.train.steps=200")
    assert done.code == 0 and "this run is finished" in done.out, done.err
    done = mains.run("evaluate", f"--run={tmp_path}/run", "--split=test")
    assert done.code == 0 and "ndcg@10" in done.out, done.err

    write(tmp_path / "new.jsonl", [{"text": row["query"]} for row in every[:5]])
    predict = (f"--run={tmp_path}/run", f"--input={tmp_path}/new.jsonl", "--role=query")
    for name in ("a.jsonl", "a.npz"):
        done = mains.run("predict", *predict, f"--output={tmp_path}/{name}")
        assert done.code == 0, done.err
    lines = [*map(json.loads, (tmp_path / "a.jsonl").read_text().splitlines())]
    vectors = np.load(tmp_path / "a.npz")["vectors"]
    assert [line["text"] for line in lines] == [row["query"] for row in every[:5]]
    np.testing.assert_allclose([x["vector"] for x in lines], vectors, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    done = mains.run("predict", *predict, "--keep=text", f"--output={tmp_path}/b.npz")
    assert done.code == 2 and "b.npz has vectors and nothing else" in done.err

    mine = (f"--run={tmp_path}/run", f"--input={tmp_path}/data/train.jsonl")
    mine = (*mine, "--negatives=2", "--ranks=2-9", "--sampling=random")
    done = mains.run("mine_negatives", *mine, f"--output={tmp_path}/mined.jsonl")
    assert done.code == 0, done.err
    mined = [*map(json.loads, (tmp_path / "mined.jsonl").read_text().splitlines())]
    assert [{k: m[k] for k in ("query", "answer")} for m in mined] == every[16:]
    assert all(len({*m["negatives"], m["answer"]}) == 3 for m in mined)
    done = mains.run("mine_negatives", *mine[:-2], "--ranks=9", "--output=x.jsonl")
    assert done.code == 2 and "--ranks=9; accepted: as 10-100" in done.err

    hub = tmp_path / "hub"
    done = mains.run("convert", f"--source={tmp_path}/run", f"--target={hub}")
    assert done.code == 0, done.err
    assert text_vectors.read(hub) == READING
    done = mains.run("predict", f"--run={hub}", *predict[1:], f"--output={hub}/b.npz")
    assert done.code == 0, done.err
    np.testing.assert_allclose(np.load(hub / "b.npz")["vectors"], vectors, atol=1e-5)
    for source, target in ((hub, "copy"), (tmp_path / "copy", "hub2")):
        flags = f"--source={source}", f"--target={tmp_path}/{target}"
        assert mains.run("convert", *flags).code == 0
    assert text_vectors.read(tmp_path / "hub2") == READING
