"""From a folder of the hub and CoNLL's columns to entities, in one command each."""

import json
import types

import numpy as np
import pytest

from tests.experiments.forked import Mains
from tests.train import folders

pytestmark = pytest.mark.slow
TAGS = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")


@pytest.fixture(scope="module")
def mains(tmp_path_factory):
    mains = Mains(tmp_path_factory.mktemp("mains"))
    yield mains
    mains.close()


def write_sentences(file, count, seed):
    """Words whose letters say their tags, in IOB1."""
    rng, lines = np.random.default_rng(seed), []
    for _ in range(count):
        for kind in rng.choice(["good", "person", "land"], rng.integers(2, 9)):
            tag = {"good": "O", "person": "I-PER", "land": "I-LOC"}[kind]
            lines.append(f"{kind} X {tag}")
        lines.append("")
    file.write_text("\n".join(["-DOCSTART- X O", "", *lines]))


@pytest.fixture(scope="module")
def tuned(mains, tmp_path_factory, random_params):
    """Fine-tuned by the config as it is, but for sizes of time."""
    place = tmp_path_factory.mktemp("texts")
    folders.bert(place / "bert", random_params)
    (place / "data").mkdir()
    for seed, (name, count) in enumerate((("train", 60), ("valid", 12), ("test", 12))):
        write_sentences(place / "data" / f"{name}.txt", count, seed)
    args = [
        "--config=configs/finetune/token_classification.py",
        f"--config.init.path={place}/bert",
        f"--config.data.source={place}/data",
        f"--config.data.directory={place}/cache",
        "--config.data.seq_len=24",
        "--config.data.batch_size=8",
        "--config.train.eval_every=30",
        "--config.train.checkpoint_every=30",
        "--config.optimizer.learning_rate=2e-2",
        "--config.optimizer.schedule.warmup_steps=1",
        f"--workdir={place}/run",
    ]
    done = mains.run("finetune", *args, "--config.train.steps=60")
    assert done.code == 0, done.err
    return types.SimpleNamespace(place=place, args=args, done=done)


def test_columns_and_tags_are_taken_and_learned(tuned):
    config = json.loads((tuned.place / "run" / "config.json").read_text())
    assert config["task"]["labels"] == [*TAGS] and config["task"]["scheme"] == "bio"
    assert "words are in the column 'words', their tags in 'tags'" in tuned.done.err
    result = json.loads((tuned.place / "run" / "result.json").read_text())
    assert result["best"]["metric"] == "f1" and result["best"]["value"] > 0.8
    report = result["report"]
    assert report["f1"] > 0.8 and {*report["types"]} == {"LOC", "PER"}
    assert "all entities" in tuned.done.out


def test_entities_are_predicted_by_the_run_and_its_export(mains, tuned):
    """Also of words, of a text that is read in windows, and of none."""
    place = tuned.place
    long = "good land " * 20 + "person"
    texts = ["Person, good land!", "", long, ["good", "person", "person"]]
    new = place / "new.jsonl"
    new.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    answers = []
    done = mains.run("convert", f"--source={place}/run", f"--target={place}/hub")
    assert done.code == 0, done.err
    for name in ("run", "hub"):
        output = place / f"{name}.jsonl"
        flags = f"--run={place}/{name}", f"--input={new}", f"--output={output}"
        done = mains.run("predict", *flags, "--max_length=24")
        assert done.code == 0, done.err
        answers.append([json.loads(line) for line in output.read_text().splitlines()])
    assert answers[0] == answers[1]
    first, empty, windows, words = answers[0]
    assert [(e["type"], e["text"]) for e in first["entities"]] == [
        *(("PER", "Person"), ("LOC", "land"))
    ]
    for row in (first, windows):
        for entity in row["entities"]:
            assert row["text"][entity["start"] : entity["stop"]] == entity["text"]
            assert 0.3 < entity["score"] <= 1
    assert empty["entities"] == [] and "tags" not in empty
    assert [e["text"] for e in windows["entities"]] == ["land"] * 20 + ["person"]
    assert [tag[1:] for tag in words["tags"]] == ["", "-PER", "-PER"]
    assert [words["entities"][k]["words"][k] for k in (0, -1)] == [1, 3]
    assert "21 LOC" in done.out


def test_it_is_evaluated_and_extended(mains, tuned):
    place = tuned.place
    flags = f"--run={place}/run", "--split=test", f"--workdir={place}/evaluated"
    done = mains.run("evaluate", *flags)
    assert done.code == 0, done.err
    result = json.loads((place / "evaluated" / "result.json").read_text())
    assert result["f1"] > 0.7 and result["types"]["PER"]["support"] > 5
    done = mains.run("finetune", *tuned.args, "--config.train.steps=61")
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        ("a B-X\nb O\nc I-X\n", (), "record 0 of the split 'train', word 2 ('a b c')"),
        ("a B-X\n", ("--config.task.labels=('O',)",), "the type 'X', and task.labels"),
        ("a NN\n", ("--config.task.scheme=bio",), "task.scheme='bio' is of entities"),
    ],
)
def test_tags_that_do_not_fit_are_named(text, flags, message, mains, tuned, tmp_path):
    for name in ("train", "valid"):
        (tmp_path / f"{name}.txt").write_text(text)
    own = [a for a in tuned.args if "source" not in a and "workdir" not in a]
    paths = f"--config.data.source={tmp_path}", f"--workdir={tmp_path}/run"
    done = mains.run("finetune", *own, *paths, *flags, "--config.train.steps=2")
    assert done.code == 2 and message in done.err, done.err
