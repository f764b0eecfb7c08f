"""experiments.predict: labels for the rows of a file, from runs and from the hub."""

import csv
import datetime
import decimal
import gzip
import json
import os
import re
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from safetensors.numpy import load_file, save_file

from llmjax.config import RunConfig
from llmjax.tasks.registry import make_model
from llmjax.train.checkpoints.checkpoints import Checkpoints
from llmjax.train.state import State
from tests.experiments.forked import Mains
from tests.parity import draws
from tests.parity.goldens import FOLDER

GOLDEN = json.loads((FOLDER / "pipeline.json").read_text())
TEXTS = GOLDEN["texts"]


@pytest.fixture(scope="module")
def mains(tmp_path_factory):
    mains = Mains(tmp_path_factory.mktemp("mains"))
    yield mains
    mains.close()


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """The folder that transformers' pipeline read, for the golden file."""
    folder = tmp_path_factory.mktemp("hub") / "bert"
    folder.mkdir()
    for name, key in (
        ("config.json", "config"),
        ("tokenizer.json", "tokenizer"),
        ("tokenizer_config.json", "tokenizer_config"),
    ):
        (folder / name).write_text(json.dumps(GOLDEN[key]))
    weights = {
        name: draws.weight(name, tuple(shape), 0, 0.6)
        for name, shape in GOLDEN["tensors"].items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_csv(path, texts, delimiter=","):
    with path.open("w", newline="") as file:
        rows = csv.writer(file, delimiter=delimiter)
        rows.writerows([["id", "text"], *([f"r{i}", t] for i, t in enumerate(texts))])
    return path


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def predict(mains, run, source, output, *more):
    flags = (f"--run={run}", f"--input={source}", f"--output={output}", *more)
    return mains.run("predict", *flags)


@pytest.fixture(scope="module")
def predicted(mains, classifier, tmp_path_factory):
    """The rows for the golden texts, and what was printed."""
    folder = tmp_path_factory.mktemp("predicted")
    source = write_csv(folder / "texts.csv", TEXTS)
    done = predict(mains, classifier, source, folder / "out.jsonl", "--keep=id")
    assert done.code == 0, done.err
    return rows(folder / "out.jsonl"), done.out


def test_probabilities_are_those_of_transformers_pipeline(predicted):
    answers, out = predicted
    assert [a["row"] for a in answers] == [*range(len(TEXTS))]
    assert [a["id"] for a in answers] == [f"r{i}" for i in range(len(TEXTS))]
    assert [a["text"] for a in answers] == TEXTS
    for answer, scores in zip(answers, GOLDEN["scores"], strict=True):
        assert answer["probabilities"] == pytest.approx(scores, abs=1e-5)
        assert answer["label"] == max(scores, key=scores.__getitem__)
        assert answer["probability"] == answer["probabilities"][answer["label"]]
    assert f"{len(TEXTS)} of " in out and "2 texts, to the 20 tokens that" in out


@pytest.mark.parametrize("place", ["tokenizer_config.json", "tokenizer.json"])
def test_a_tokenizer_that_cuts_on_the_left(place, mains, classifier, tmp_path):
    """Said by itself, or by the library's part as transformers takes it over."""
    folder = tmp_path / "model"
    shutil.copytree(classifier, folder)
    content = json.loads((folder / place).read_text())
    if place == "tokenizer.json":
        kind = {"direction": "Left", "strategy": "LongestFirst", "stride": 0}
        content["truncation"] = {**kind, "max_length": 20}
    else:
        content["truncation_side"] = "left"
    (folder / place).write_text(json.dumps(content))
    source = write_csv(tmp_path / "texts.csv", TEXTS)
    for name in ("model", "run", "hub"):  # a checkpoint and an export keep it
        if name != "model":
            flags = f"--source={folder}", f"--target={tmp_path / name}"
            assert mains.run("convert", *flags).code == 0
            folder = tmp_path / name
        done = predict(mains, folder, source, tmp_path / f"{name}.jsonl")
        assert done.code == 0, done.err
        for answer, scores in zip(
            rows(tmp_path / f"{name}.jsonl"), GOLDEN["left"], strict=True
        ):
            assert answer["probabilities"] == pytest.approx(scores, abs=1e-5)
    assert GOLDEN["left"][-1] != GOLDEN["scores"][-1]


@pytest.mark.parametrize("name", sorted(GOLDEN["others"]))
def test_scores_of_other_meanings_are_those_of_the_pipeline(
    name, mains, classifier, tmp_path
):
    golden = GOLDEN["others"][name]
    folder = tmp_path / "model"
    shutil.copytree(classifier, folder)
    fields = GOLDEN["config"] | golden["fields"]
    fields["label2id"] = {label: int(i) for i, label in fields["id2label"].items()}
    (folder / "config.json").write_text(json.dumps(fields))
    weights = load_file(folder / "model.safetensors")
    kept = len(fields["id2label"])
    last = {k: v[:kept] if "classifier" in k else v for k, v in weights.items()}
    save_file(last, folder / "model.safetensors", metadata={"format": "pt"})
    source = write_csv(tmp_path / "texts.csv", TEXTS)
    done = predict(mains, folder, source, tmp_path / "out.jsonl")
    assert done.code == 0, done.err
    column = {"value": "value", "values": "values"}.get(name, "probabilities")
    for answer, scores in zip(
        rows(tmp_path / "out.jsonl"), golden["scores"], strict=True
    ):
        own = {"stars": answer["value"]} if name == "value" else answer[column]
        assert own == pytest.approx(scores, abs=1e-5)
        assert ("label" in answer) == (column == "probabilities")
        if "label" in answer:
            assert answer["label"] == max(scores, key=scores.__getitem__)
            assert answer["probability"] == answer["probabilities"][answer["label"]]
    if name in ("multi_label", "value"):  # a checkpoint of it says the same
        flags = f"--source={folder}", f"--target={tmp_path / 'run'}"
        assert mains.run("convert", *flags).code == 0
        done = predict(mains, tmp_path / "run", source, tmp_path / "run.jsonl")
        assert done.code == 0, done.err
        assert rows(tmp_path / "run.jsonl") == rows(tmp_path / "out.jsonl")
    if column != "probabilities":
        flags = (f"--keep={column}",)
        done = predict(mains, folder, source, tmp_path / "no.jsonl", *flags)
        assert done.code == 2 and f"--keep={column} is a column that" in done.err


def test_a_checkpoint_and_its_export_predict_the_same(
    mains, classifier, predicted, tmp_path
):
    """The way of Show 1's end, but for its training: checkpoint, folder of the hub."""
    for source, target in ((classifier, "run"), (tmp_path / "run", "hub")):
        flags = f"--source={source}", f"--target={tmp_path / target}"
        done = mains.run("convert", *flags)
        assert done.code == 0, done.err
        assert not re.search("^tied", done.out, re.M)  # it has no head for tokens
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    for key in ("architectures", "id2label", "label2id", "model_type", "vocab_size"):
        assert config[key] == GOLDEN["config"][key]
    tokenizer = json.loads((tmp_path / "hub" / "tokenizer.json").read_text())
    assert tokenizer == GOLDEN["tokenizer"]
    source = write_csv(tmp_path / "texts.csv", TEXTS)
    for name in ("run", "hub"):
        output = tmp_path / f"{name}.csv"
        flags = ("--keep=id", "--batch_size=3")
        done = predict(mains, tmp_path / name, source, output, *flags)
        assert done.code == 0, done.err
        assert bool(re.search(r",\s+step 0$", done.out, re.M)) == (name == "run")
        with output.open(newline="") as file:
            answers = [*csv.DictReader(file)]
        assert [a["text"] for a in answers] == TEXTS
        for answer, other in zip(answers, predicted[0], strict=True):
            assert answer["label"] == other["label"]
            for label, share in other["probabilities"].items():
                assert float(answer[f"probabilities.{label}"]) == pytest.approx(
                    share, abs=2e-6
                )


@pytest.mark.parametrize("form", ["tsv", "jsonl.gz", "parquet", "txt"])
def test_other_forms_of_a_table(form, mains, classifier, predicted, tmp_path):
    path = tmp_path / f"texts.{form}"
    if form == "tsv":
        write_csv(path, TEXTS, "\t")
    elif form == "parquet":
        pyarrow.parquet.write_table(pa.table({"text": TEXTS}), path)
    elif form == "txt":
        path.write_text("\n".join(TEXTS))
    else:
        lines = (json.dumps({"review": text}) for text in TEXTS)
        path.write_bytes(gzip.compress("\n".join(lines).encode()))
    more = ["--text=review"] if form == "jsonl.gz" else []
    done = predict(mains, classifier, path, tmp_path / "out.jsonl", *more)
    assert done.code == 0, done.err
    same = ("row", "label", "probability", "probabilities")
    for answer, other in zip(rows(tmp_path / "out.jsonl"), predicted[0], strict=True):
        assert {k: answer[k] for k in same} == {k: other[k] for k in same}
        assert answer[more[0][7:] if more else "text"] == other["text"]


def test_a_row_that_cannot_be_read_is_named_and_the_rows_before_it_stay(
    mains, classifier, tmp_path
):
    """Once it is mended, the same command goes on, to the bytes of a run in one."""
    texts = [f"{word} film" for word in ("good", "poor", "fine") for _ in range(400)]
    lines = [json.dumps({"text": text}) for text in texts]
    broken = [*lines[:1100], '{"text": null       }', *lines[1101:]]
    source, output = tmp_path / "texts.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(broken))
    before = os.stat(source)
    done = predict(mains, classifier, source, output)
    assert done.code == 2 and "Traceback" not in done.err
    assert "texts.jsonl, line 1101: the field 'text' is NoneType and no" in done.err
    part = tmp_path / "out.jsonl.part"
    assert not output.exists() and len(part.read_text().splitlines()) == 1024
    with part.open("a") as file:
        file.write('{"row": 1024, "te')  # as a kill leaves it
    source.write_text(
        "\n".join([*broken[:1100], '{"text": "good film"}', *lines[1101:]])
    )
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert os.stat(source).st_size == before.st_size
    done = predict(mains, classifier, source, output)
    assert done.code == 0, done.err
    assert [*tmp_path.glob("out.jsonl.*")] == []
    done = predict(mains, classifier, source, tmp_path / "again.jsonl")
    assert done.code == 0, done.err
    assert output.read_bytes() == (tmp_path / "again.jsonl").read_bytes()
    assert [row["row"] for row in rows(output)] == [*range(1200)]


def test_rows_of_other_weights_are_not_gone_on_with(mains, classifier, tmp_path):
    """A folder that was written again has the path that it had."""
    texts = ["good film"] * 1100 + ["poor film"]
    lines = [json.dumps({"text": t}) for t in texts]
    source, output = tmp_path / "texts.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join([*lines[:1100], '{"text": null}']))
    folder = tmp_path / "model"
    shutil.copytree(classifier, folder)
    assert predict(mains, folder, source, output).code == 2
    weights = load_file(folder / "model.safetensors")
    weights["classifier.bias"] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    done = predict(mains, folder, source, output)
    assert done.code == 2 and "out.jsonl.part was begun with weights " in done.err


def test_kept_columns_of_any_kind(mains, classifier, tmp_path):
    """Objects of different keys don't move the columns of a table."""
    columns = {
        "text": ["good", "poor"],
        "meta": [{"a": 1, "b": [1.5]}, None],
        "day": [datetime.date(2024, 5, 17), None],
        "price": [decimal.Decimal("1.50"), None],
        "share": [float("nan"), 0.5],
        "raw": [b"x", None],
    }
    source = tmp_path / "texts.parquet"
    pyarrow.parquet.write_table(pa.table(columns), source)
    keep = "--keep=meta,day,price,share,raw"
    for form in ("jsonl", "csv"):
        output = tmp_path / f"out.{form}"
        done = predict(mains, classifier, source, output, keep)
        assert done.code == 0, done.err
    first, second = rows(tmp_path / "out.jsonl")
    kept = {key: first[key] for key in columns}
    assert kept == {
        "text": "good",
        "meta": {"a": 1, "b": [1.5]},
        "day": "2024-05-17",
        "price": "1.50",
        "share": None,
        "raw": "x",
    }
    assert second["share"] == 0.5 and second["meta"] is None
    with (tmp_path / "out.csv").open(newline="") as file:
        table = [*csv.DictReader(file)]
    assert [json.loads(row["meta"] or "null") for row in table] == columns["meta"]
    assert [row["share"] for row in table] == ["", "0.5"]
    assert [row["label"] for row in table] == [first["label"], second["label"]]


def test_mistakes_are_one_line(mains, classifier, tmp_path, tiny):
    source = write_csv(tmp_path / "texts.csv", ["good"])
    there = write_csv(tmp_path / "there.csv", ["good"])
    lm = RunConfig(tiny)
    params = make_model(lm).init(
        jax.random.key(0), {"tokens": jnp.zeros((1, 4), jnp.int32)}
    )
    checkpoints = Checkpoints(tmp_path / "lm", lm)
    weights = jax.tree.map(np.asarray, nn.unbox(params)["params"])
    checkpoints.save(State(np.zeros((), np.int32), weights, {}, {}, {}))
    checkpoints.close()
    out = tmp_path / "out.jsonl"
    for run, path, output, more, message in (
        (tmp_path / "lm", source, out, [], "task.kind='causal_lm', which gives .* no"),
        (tmp_path / "lm", source, out, [], "continue texts with `llmjax generate`"),
        (tmp_path / "no", source, out, [], "no does not exist; give the workdir of a"),
        (classifier, tmp_path / "no.csv", out, [], "--input=.*no.csv is not there: th"),
        (classifier, source, there, [], "--output=.*there.csv is there; remove it, or"),
        (classifier, source, tmp_path / "x.txt", [], "ends with '.txt'; accepted: .js"),
        (classifier, source, out, ["--text=body"], "no field 'body'; it has 'id', 'te"),
        (classifier, source, out, ["--keep=label"], "--keep=label is a column that"),
        (
            classifier,
            source,
            tmp_path / "out.csv",
            ["--keep=id,probabilities.negative"],
            "--keep=probabilities.negative is a column that the output has of its own",
        ),
        (classifier, source, out, ["--max_length=99"], "exceeds the 40 positions of"),
    ):
        done = predict(mains, run, path, output, *more)
        assert done.code == 2, (message, done)
        (line,) = done.err.strip().splitlines()
        assert re.search(message, line), line
    assert not [*tmp_path.glob("out.*"), *tmp_path.glob(".out.*")]  # none began
