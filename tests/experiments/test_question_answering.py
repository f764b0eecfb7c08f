"""From a folder of the hub and a file of SQuAD's form to answers, a command each."""

import json
import types

import numpy as np
import pytest

from tests.experiments.forked import Mains
from tests.train import folders

pytestmark = pytest.mark.slow
WORDS = ("a", "b", "c", "good")


@pytest.fixture(scope="module")
def mains(tmp_path_factory):
    mains = Mains(tmp_path_factory.mktemp("mains"))
    yield mains
    mains.close()


def write_questions(file, count, seed):
    """The answer to every question is the one "xy" in the text."""
    rng, paragraphs = np.random.default_rng(seed), []
    for k in range(count):
        words = rng.choice(WORDS, rng.integers(3, 9)).tolist()
        words.insert(int(rng.integers(len(words) + 1)), "xy")
        text = " ".join(words)
        answer = {"text": "xy", "answer_start": text.index("xy")}
        asked = {"id": f"{seed}-{k}", "question": "good ?", "answers": [answer]}
        paragraphs.append({"context": text, "qas": [asked]})
    file.write_text(json.dumps({"data": [{"title": "x", "paragraphs": paragraphs}]}))


@pytest.fixture(scope="module")
def tuned(mains, tmp_path_factory, random_params):
    """Fine-tuned by the config as it is, but for sizes of time."""
    place = tmp_path_factory.mktemp("answers")
    folders.bert(place / "bert", random_params)
    (place / "data").mkdir()
    for seed, (name, count) in enumerate((("train", 60), ("dev", 12), ("test", 12))):
        write_questions(place / "data" / f"{name}.json", count, seed)
    args = [
        "--config=configs/finetune/question_answering.py",
        f"--config.init.path={place}/bert",
        f"--config.data.source={place}/data",
        f"--config.data.directory={place}/cache",
        "--config.data.seq_len=24",
        "--config.task.stride=4",
        "--config.train.eval_every=80",
        "--config.train.checkpoint_every=80",
        "--config.optimizer.learning_rate=1e-2",
        "--config.optimizer.schedule.warmup_steps=1",
        f"--workdir={place}/run",
    ]
    done = mains.run("finetune", *args, "--config.train.steps=80")
    assert done.code == 0, done.err
    return types.SimpleNamespace(place=place, args=args, done=done)


def test_a_file_of_squad_s_form_is_learned_from(mains, tuned):
    place = tuned.place
    assert "question in 'question', context in 'context'" in tuned.done.err
    result = json.loads((place / "run" / "result.json").read_text())
    assert result["report"]["exact_match"] > 0.7
    assert "12 questions" in tuned.done.out and "exact match" in tuned.done.out
    flags = f"--run={place}/run", "--split=test", f"--workdir={place}/evaluated"
    done = mains.run("evaluate", *flags)
    assert done.code == 0, done.err
    evaluated = json.loads((place / "evaluated" / "result.json").read_text())
    assert evaluated["f1"] > 0.7 and evaluated["questions"] == 12


def test_rows_are_answered_by_the_run_and_its_export(mains, tuned):
    """Also in a text that is read in windows."""
    place = tuned.place
    long = "good a " * 20 + "xy b"
    contexts = ["c xy b", long, ""]
    rows = [{"question": "good ?", "context": text} for text in contexts]
    new = place / "new.jsonl"
    new.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = mains.run("convert", f"--source={place}/run", f"--target={place}/hub")
    assert done.code == 0, done.err
    config = json.loads((place / "hub" / "config.json").read_text())
    assert config["architectures"] == ["BertForQuestionAnswering"]
    answers = []
    for name in ("run", "hub"):
        output = place / f"{name}.jsonl"
        flags = f"--run={place}/{name}", f"--input={new}", f"--output={output}"
        done = mains.run("predict", *flags, "--max_length=24")
        assert done.code == 0, done.err
        answers.append([json.loads(line) for line in output.read_text().splitlines()])
    for short, windows, empty in answers:
        assert short["answer"] == windows["answer"] == "xy"
        assert windows["context"][windows["start"] : windows["stop"]] == "xy"
        assert (empty["answer"], empty["start"], empty["n_best"]) == ("", None, [])
    assert answers[0][0]["n_best"] == answers[1][0]["n_best"]


def test_a_row_without_a_question_is_named(mains, tuned):
    new = tuned.place / "bad.jsonl"
    new.write_text(json.dumps({"context": "a"}) + "\n")
    output = f"--output={tuned.place}/bad_answers.jsonl"
    done = mains.run("predict", f"--run={tuned.place}/run", f"--input={new}", output)
    assert done.code == 2 and "question" in done.err, done.err
