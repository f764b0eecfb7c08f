"""From pairs in a file to a model that prefers, and one that scores, by commands."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from llmjax import hub
from tests.experiments.forked import Mains
from tests.train import folders

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def mains(tmp_path_factory):
    mains = Mains(tmp_path_factory.mktemp("mains"))
    yield mains
    mains.close()


@pytest.fixture(scope="module")
def llama(tmp_path_factory, random_params):
    """A folder of the hub with random weights; its tokenizer says <s> and no </s>."""
    folder = tmp_path_factory.mktemp("llama")
    folders.llama(folder, random_params)
    return folder


def rows(count, seed):
    """The better answer says the prompt's letter again."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        a, b = rng.permutation([*"abcdef"])[:2].tolist()
        n = int(rng.integers(1, 4))
        yield {"prompt": a, "chosen": f" {a}" * n, "rejected": f" {b}" * n}


def write(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for seed, (name, count) in enumerate((("train", 120), ("dev", 30), ("test", 30))):
        write(folder / f"{name}.jsonl", rows(count, seed))
    return folder


def arguments(config, llama, data, folder, *more):
    return (
        f"--config=configs/finetune/{config}.py",
        f"--config.init.path={llama}",
        f"--config.data.source={data}",
        f"--config.data.directory={folder}/cache",
        "--config.data.seq_len=16",
        "--config.train.steps=60",
        "--config.train.eval_every=60",
        "--config.train.checkpoint_every=60",
        "--config.optimizer.learning_rate=5e-3",
        f"--workdir={folder}/run",
        *more,
    )


def answered(mains, folder, new, *flags):
    """The rows that `predict` writes."""
    write(folder / "new.jsonl", new)
    done = mains.run(
        "predict",
        f"--run={folder}/run",
        f"--input={folder}/new.jsonl",
        f"--output={folder}/answers.jsonl",
        *flags,
    )
    assert done.code == 0, done.err
    return [*map(json.loads, (folder / "answers.jsonl").read_text().splitlines())]


def test_dpo_prefers_evaluates_predicts_and_exports(mains, llama, data, tmp_path):
    done = mains.run("finetune", *arguments("preference", llama, data, tmp_path))
    assert done.code == 0, done.err
    found = "prompt in 'prompt', chosen in 'chosen', rejected in 'rejected'"
    assert found in done.err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    held_out = result["eval"]
    assert held_out["accuracy"] > 0.8 and held_out["margin"] > 0.1
    assert "generate --run=" in done.out and "predict --run=" in done.out
    done = mains.run("evaluate", f"--run={tmp_path}/run", f"--workdir={tmp_path}/eval")
    assert done.code == 0, done.err
    again = json.loads((tmp_path / "eval" / "result.json").read_text())
    for name, value in held_out.items():  # with the reference of the run
        assert again[name] == pytest.approx(value, abs=1e-4, rel=1e-4), name
    new = [
        {"prompt": "a", "completion": " a a"},
        {"prompt": "a", "completion": " b b"},
        {"prompt": "d", "completion": " d"},
    ]
    good, bad, short = answered(mains, tmp_path, new)
    assert good["log_likelihood"] > bad["log_likelihood"]
    assert [row["tokens"] for row in (good, bad, short)] == [5, 5, 3]
    done = mains.run("convert", f"--source={tmp_path}/run", f"--target={tmp_path}/hub")
    assert done.code == 0, done.err
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]


def test_stored_likelihoods_stand_for_the_reference(mains, llama, data, tmp_path):
    """The same run, without a second model; it is evaluated with what it kept."""
    results = []
    for name, steps in (("weights", 4), ("stored", 2), ("stored", 4)):
        flags = [
            f"--config.task.reference={name}",
            f"--config.train.steps={steps}",
            "--config.train.eval_every=2",
            "--config.optimizer.schedule.kind=constant",
            "--config.optimizer.schedule.warmup_steps=1",
            f"--workdir={tmp_path}/{name}",
        ]
        done = mains.run(
            "finetune", *arguments("preference", llama, data, tmp_path, *flags)
        )
        assert done.code == 0, done.err
        assert ("by the reference: 120 pairs" in done.out) == (
            name == "stored" and steps == 2  # what goes on has them
        )
        result = (tmp_path / name / "result.json").read_text()
        results.append(json.loads(result)["eval"])
    held, _, stored = results
    assert stored.keys() == held.keys()
    for name, value in held.items():
        assert stored[name] == pytest.approx(value, abs=1e-4, rel=1e-4), name
    assert len([*(tmp_path / "stored" / "reference").iterdir()]) == 2
    more = [f"--run={tmp_path}/stored", f"--workdir={tmp_path}/eval"]
    done = mains.run("evaluate", *more)
    assert done.code == 0 and "by the reference" not in done.out, done.err
    again = json.loads((tmp_path / "eval" / "result.json").read_text())
    assert again["loss"] == pytest.approx(stored["loss"], abs=1e-4)


def test_a_reward_model_scores_and_exports(mains, llama, data, tmp_path):
    done = mains.run("finetune", *arguments("reward_model", llama, data, tmp_path))
    assert done.code == 0, done.err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["eval"]["accuracy"] > 0.8
    new = [
        {"prompt": "a", "completion": " a a"},
        {"prompt": "a", "completion": " b b"},
        {"prompt": "c", "completion": " a"},
        {"prompt": "c", "completion": " c"},
    ]
    rewards = [row["reward"] for row in answered(mains, tmp_path, new)]
    assert rewards[0] > rewards[1] and rewards[3] > rewards[2]
    done = mains.run("convert", f"--source={tmp_path}/run", f"--target={tmp_path}/hub")
    assert done.code == 0, done.err
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert len(config["id2label"]) == 1
    assert config["problem_type"] == "regression"  # a pipeline gives the number
    model, params = hub.load(tmp_path / "hub")
    tokenizer = hub.tokenizer(tmp_path / "hub")
    for row, reward in zip(new, rewards, strict=True):
        ids = tokenizer.encode(row["prompt"] + row["completion"])
        text = np.array([tokenizer.bos_id, *ids, tokenizer.eos_id], np.int32)
        value = model.apply({"params": params}, {"tokens": jnp.asarray(text[None])})[
            0, 0
        ]
        assert float(value) == pytest.approx(reward, abs=1e-4)
