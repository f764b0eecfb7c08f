"""From a folder of the hub and rows with choices to predictions, a command each."""

import json

import numpy as np
import pytest

from tests.experiments.forked import Mains
from tests.train import folders

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def mains(tmp_path_factory):
    mains = Mains(tmp_path_factory.mktemp("mains"))
    yield mains
    mains.close()


def rows(count, seed):
    """The right choice is the letter of the question."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        letters = rng.permutation([*"abcdef"])[: rng.integers(2, 4)].tolist()
        right = int(rng.integers(len(letters)))
        yield {"question": letters[right], "choices": letters, "label": right}


def write(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_choices_are_learned_predicted_and_exported(mains, tmp_path, random_params):
    folders.bert(tmp_path / "bert", random_params)
    (tmp_path / "data").mkdir()
    for seed, (name, count) in enumerate((("train", 150), ("dev", 30), ("test", 30))):
        write(tmp_path / "data" / f"{name}.jsonl", rows(count, seed))
    done = mains.run(
        "finetune",
        "--config=configs/finetune/multiple_choice.py",
        f"--config.init.path={tmp_path}/bert",
        f"--config.data.source={tmp_path}/data",
        f"--config.data.directory={tmp_path}/cache",
        "--config.data.seq_len=8",
        "--config.task.choices=3",
        "--config.train.steps=120",
        "--config.train.eval_every=120",
        "--config.train.checkpoint_every=120",
        "--config.optimizer.learning_rate=5e-3",
        f"--workdir={tmp_path}/run",
    )
    assert done.code == 0, done.err
    assert "question in 'question', choices in 'choices', label in 'label'" in done.err
    report = json.loads((tmp_path / "run" / "result.json").read_text())["report"]
    assert report["accuracy"] > 0.6 and report["questions"] == 30  # chance: 0.42
    assert "right ones by place" in done.out
    write(tmp_path / "new.jsonl", rows(9, 7))
    done = mains.run(
        "predict",
        f"--run={tmp_path}/run",
        f"--input={tmp_path}/new.jsonl",
        f"--output={tmp_path}/answers.jsonl",
    )
    assert done.code == 0, done.err
    answers = [*map(json.loads, (tmp_path / "answers.jsonl").read_text().splitlines())]
    assert len(answers) == 9
    for row in answers:
        assert 0 <= row["choice"] < len(row["choices"])
        p = row["probabilities"]
        assert sum(p) == pytest.approx(1, abs=1e-4) and row["probability"] == max(p)
        assert not any(p[len(row["choices"]) :])
    done = mains.run("convert", f"--source={tmp_path}/run", f"--target={tmp_path}/hub")
    assert done.code == 0, done.err
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    assert config["architectures"] == ["BertForMultipleChoice"]
    write(tmp_path / "bad.jsonl", [{"question": "a", "choices": [*"abcd"]}])
    done = mains.run(
        "predict",
        f"--run={tmp_path}/run",
        f"--input={tmp_path}/bad.jsonl",
        f"--output={tmp_path}/bad_answers.jsonl",
    )
    assert done.code == 2 and "4 choices" in done.err, done.err
