"""Pairs, several labels, numbers and stars of a table: learned, predicted, exported."""

import csv
import json

import numpy as np
import pytest

from tests.experiments.forked import Mains
from tests.train import folders

pytestmark = pytest.mark.slow
CONFIG = "configs/finetune/text_classification.py"


@pytest.fixture(scope="module")
def mains(tmp_path_factory):
    mains = Mains(tmp_path_factory.mktemp("mains"))
    yield mains
    mains.close()


@pytest.fixture(scope="module")
def bert(tmp_path_factory, random_params):
    folder = tmp_path_factory.mktemp("hub") / "bert"
    folders.bert(folder, random_params)
    return folder


def write(file, form, count, seed):
    """Rows whose label is in the text: which letters it has, or how many are "x"."""
    rng = np.random.default_rng(seed)
    headers = {
        "pairs": ["premise", "hypothesis", "label"],
        "labels": ["text", "labels"],
        "numbers": ["text", "score"],
        "stars": ["text", "label"],
    }
    with file.open("w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(headers[form])
        for _ in range(count):
            other = rng.choice([*"defg"], 2).tolist()
            present = [c for c in "abc" if rng.random() < 0.5]
            text = " ".join(rng.permutation([*other, *present]))
            n = int(rng.integers(0, 4))
            counted = " ".join(rng.permutation([*other, *["x"] * n]))
            row = {
                "pairs": [text, counted, ("no", "yes")[n > 1]],
                "labels": [text, ";".join(present)],
                "numbers": [counted, n / 2],
                "stars": [counted, f"{n + 1} stars"],
            }
            writer.writerow(row[form])


def tune(mains, bert, place, form, *flags):
    (place / "data").mkdir()
    for seed, (name, count) in enumerate((("train", 160), ("dev", 40), ("test", 40))):
        write(place / "data" / f"{name}.csv", form, count, seed)
    return mains.run(
        "finetune",
        f"--config={CONFIG}:{form}",
        f"--config.init.path={bert}",
        f"--config.data.source={place}/data",
        f"--config.data.directory={place}/cache",
        "--config.data.seq_len=20",
        "--config.train.steps=100",
        "--config.train.eval_every=50",
        "--config.train.checkpoint_every=50",
        "--config.optimizer.learning_rate=5e-3",
        f"--workdir={place}/run",
        *flags,
    )


# form -> (flags, metric, what it must exceed, in the export)
FORMS = {
    "pairs": (
        ["--config.task.problem.weights.kind=balanced"],
        ("matthews", 0.4),
        {"id2label": {"0": "no", "1": "yes"}},
    ),
    "labels": (
        ["--config.data.packing=first_fit"],
        ("micro_f1", 0.8),
        {
            "id2label": {"0": "a", "1": "b", "2": "c"},
            "problem_type": "multi_label_classification",
        },
    ),
    "numbers": (
        ["--config.task.label_field=score"],
        ("spearman", 0.6),
        {"id2label": {"0": "score"}, "problem_type": "regression"},
    ),
    "stars": ([], ("quadratic_kappa", 0.4), None),
}


@pytest.mark.parametrize("form", sorted(FORMS))
def test_from_a_table_to_a_folder_of_the_hub(form, mains, bert, tmp_path):
    flags, (metric, least), exported = FORMS[form]
    done = tune(mains, bert, tmp_path, form, *flags)
    assert done.code == 0, done.err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["report"][metric] > least, result["report"]
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert result["best"]["metric"] == config["train"]["best_metric"]
    if form == "pairs":
        assert len(config["task"]["problem"]["weights"]["values"]) == 2
    (path,) = (tmp_path / "data").glob("test.csv")
    output = tmp_path / "answers.jsonl"
    done = mains.run(
        "predict", f"--run={tmp_path}/run", f"--input={path}", f"--output={output}"
    )
    assert done.code == 0 and "40 of" in done.out, done.err
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    with path.open(newline="") as file:
        right = [*csv.DictReader(file)]
    check_answers(form, rows, right)
    done = mains.run(
        "convert", f"--source={tmp_path}/run", f"--target={tmp_path}/exported"
    )
    if exported is None:
        assert done.code == 2 and "task.problem.kind='ordinal_regression'" in done.err
        return
    assert done.code == 0, done.err
    written = json.loads((tmp_path / "exported" / "config.json").read_text())
    assert {k: written.get(k) for k in exported} == exported
    again = tmp_path / "again.jsonl"
    more = ["--text=premise", "--text_pair=hypothesis"] if form == "pairs" else []
    done = mains.run(
        "predict",
        f"--run={tmp_path}/exported",
        f"--input={path}",
        f"--output={again}",
        *more,
    )
    assert done.code == 0, done.err
    for row, line in zip(rows, again.read_text().splitlines(), strict=True):
        theirs = json.loads(line)
        assert row.keys() == theirs.keys()
        for name in {"probabilities", "value"} & row.keys():
            assert row[name] == pytest.approx(theirs[name], abs=2e-6)


def check_answers(form, rows, right):
    """Answers are near what the rows of the table say."""
    pairs = [*zip(rows, right, strict=True)]
    if form == "pairs":
        assert sum(a["label"] == b["label"] for a, b in pairs) > 26
    elif form == "labels":
        told = [set(a["labels"]) ^ set(b["labels"].split(";")) - {""} for a, b in pairs]
        assert sum(map(len, told)) < 30  # of 120
    elif form == "numbers":
        off = [abs(a["value"] - float(b["score"])) for a, b in pairs]
        assert np.mean(off) < 0.45  # of the median alone: 0.5
    else:
        off = [abs(int(a["label"][0]) - int(b["label"][0])) for a, b in pairs]
        assert np.mean(off) < 0.95  # of a median alone: 1


def test_mistakes_of_a_run_are_one_line(mains, bert, tmp_path):
    for flag, says in (
        ("--config.train.best_metric=f1", "'train.best_metric' is 'f1'; the evaluat"),
        ("--config.loss.z_loss=0.1", "loss.z_loss=0.1 is no term of the loss of task."),
        ("--config.task.problem.columns=('a', 'q')", "problem.columns names 'a'; name"),
        ("--config.task.problem.columns=a,q", "several are written \"('a', 'q')\""),
        ("--config.task.problem.focal_gamma=1", "gamma' is not read by kind 'regressi"),
    ):
        place = tmp_path / str(len([*tmp_path.iterdir()]))
        place.mkdir()
        done = tune(mains, bert, place, "numbers", flag)
        assert done.code == 2 and says in done.err, done.err
        assert done.err.strip().splitlines()[-1].startswith("error: ")
    done = mains.run("finetune", f"--config={CONFIG}:nothing", f"--workdir={place}/x")
    assert done.code == 2 and "text_classification:nothing is none of texts" in done.err
