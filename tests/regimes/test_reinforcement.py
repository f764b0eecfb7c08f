"""Learning from rewards: it raises them, resumes to the bit, and counts what fails."""

import dataclasses
import math
from unittest import mock

import jax
import numpy as np
import pytest

from llmjax.config import DAPO, GRPO, RLOO, Bytes, DrGRPO, Reinforcement, TrainConfig
from llmjax.data.store.corpus import Corpus
from llmjax.data.tokenizers import tokenizer as tokenizer_lib
from llmjax.regimes import reinforcement
from llmjax.regimes.reinforcement import Prompts, Writer
from llmjax.tasks.preferences.policy import advantages
from llmjax.tasks.registry import make_task
from llmjax.train.metrics import writers
from tests.train import toy

pytestmark = pytest.mark.usefixtures("quick_compile")
TOKENIZER = tokenizer_lib.make(Bytes(), ())
PROMPTS = [{"prompt": text, "number": k} for k, text in enumerate("abcdefghij")]


def config_of(loss=None, steps=4, **parts):
    task = Reinforcement(loss or GRPO(), group=4, max_new_tokens=4)
    train = TrainConfig(
        steps=steps,
        log_every=1,
        eval_every=steps,
        checkpoint_every=2,
        best_metric="reward",
        best_mode="max",
    )
    data = {"packing": "pad", "batch_size": 16, "seq_len": 8} | parts.pop("data", {})
    model = {"vocab_size": 264, "num_layers": 1}
    optimizer = {"learning_rate": 3e-2}
    return toy.change(
        dataclasses.replace(toy.CONFIG, task=task, train=train),
        data=data,
        model=model,
        optimizer=optimizer,
        **parts,
    )


def digits(prompt, answer, row):
    """The share of digits among the most tokens; a prompt has none."""
    assert row["prompt"] == prompt and PROMPTS[row["number"]] is row
    return sum(c in "0123456789" for c in answer) / 4


def learn(config, workdir, rewards=(digits,), **parts):
    return reinforcement.run(
        config,
        workdir,
        PROMPTS,
        rewards,
        tokenizer=TOKENIZER,
        progress=False,
        **parts,
    )


@pytest.mark.parametrize(
    "loss",
    [
        GRPO(),
        RLOO(),
        pytest.param(DrGRPO(), marks=pytest.mark.slow),
        pytest.param(DAPO(beta=0.01), marks=pytest.mark.slow),
    ],
    ids=lambda loss: loss.kind,
)
def test_rewards_rise(loss, tmp_path):
    done = learn(config_of(loss, 16), tmp_path, held_out=PROMPTS[:5])
    rows = [row for row in writers.read(tmp_path) if "train/reward" in row]
    first, last = (
        np.mean([row["train/reward"] for row in part]) for part in (rows[:3], rows[-3:])
    )
    assert last > first + 0.2 and done.result["eval"]["reward"] > 0.5
    assert all(0 <= row["train/equal_groups"] <= 1 for row in rows)
    assert ("train/kl" in rows[0]) == (loss == DAPO(beta=0.01))
    if "train/kl" in rows[0]:
        assert rows[0]["train/kl"] == pytest.approx(0, abs=1e-6) and last > 0
        assert rows[-1]["train/kl"] > 0


def test_killed_and_resumed(tmp_path):
    config = config_of(GRPO(beta=0.1))
    whole = learn(config, tmp_path / "whole").state
    calls = []

    def dying(prompt, answer, row):
        calls.append(answer)
        if len(calls) == 16 * 3 + 5:  # within the fourth step
            raise KeyboardInterrupt
        return digits(prompt, answer, row)

    with pytest.raises(KeyboardInterrupt):
        learn(config, tmp_path / "parts", (dying,))
    parts = learn(config, tmp_path / "parts").state
    toy.assert_same_bits(jax.device_get(parts), jax.device_get(whole))


@pytest.mark.slow
def test_other_devices_and_microbatches_learn_the_same(tmp_path):
    """Greedy draws would hide it: the answers are drawn from equal weights."""
    rows = []
    for name, layout in (("one", {}), ("parts", {"microbatches": 2, "fsdp": 2})):
        learn(config_of(steps=2, layout=layout), tmp_path / name)
        rows.append(writers.read(tmp_path / name))
    for one, other in zip(*rows, strict=True):
        for key in ("train/reward", "train/loss", "train/grad_norm"):
            assert other[key] == pytest.approx(one[key], rel=1e-3, abs=1e-4), key


def test_rewards_that_fail_are_counted_and_said(tmp_path, capsys):
    def fragile(prompt, answer, row):
        number = row["number"] % 5
        return math.nan if number == 2 else 1 / number

    learn(config_of(steps=2), tmp_path, (fragile,))
    said = capsys.readouterr().err
    assert "of 16 answers got no reward: fragile" in said
    rows = [row for row in writers.read(tmp_path) if "train/reward" in row]
    for row in rows:
        assert 0 < row["train/reward_errors"] < 1
        assert row["train/equal_groups"] == 1  # as all answers to a prompt are alike
        assert row["train/grad_norm"] == 0


def test_a_reward_that_always_fails_ends_the_run(tmp_path):
    def broken(prompt, answer, row):
        return row["solution"]

    with pytest.raises(ValueError, match=r"16 of 16 .* broken raised KeyError\('sol"):
        learn(config_of(), tmp_path, (broken,))


def test_advantages_are_those_of_the_papers():
    rewards = np.array(
        [[1.0, 0, 0, 1], [2, 2, 2, 2], [0, np.nan, 3, 0], [5, *[np.nan] * 3]]
    )
    plain = advantages(DrGRPO(), rewards)
    np.testing.assert_allclose(plain[0], [0.5, -0.5, -0.5, 0.5])
    np.testing.assert_allclose(plain[2], [-1, 0, 2, -1])
    assert not plain[[1, 3]].any()
    scaled = advantages(GRPO(), rewards)
    deviation = np.std([1.0, 0, 0, 1], ddof=1) + 1e-4
    np.testing.assert_allclose(scaled[0], plain[0] / deviation, rtol=1e-6)
    np.testing.assert_allclose(advantages(DAPO(), rewards), scaled)
    others = advantages(RLOO(), rewards)
    np.testing.assert_allclose(others[0], [2 / 3, -2 / 3, -2 / 3, 2 / 3], rtol=1e-6)
    np.testing.assert_allclose(others[2], [-1.5, 0, 3, -1.5])
    assert not others[[1, 3]].any()


def test_each_epoch_shows_every_prompt_once_in_an_order_of_its_own():
    prompts = Prompts(10, 4, seed=3)
    shown = np.concatenate([prompts.batch(step)["prompts"] for step in range(5)])
    assert sorted(shown[:10]) == sorted(shown[10:]) == list(range(10))
    assert shown[:10].tolist() != shown[10:].tolist()
    assert [len(b["prompts"]) for b in prompts.evaluation()] == [4, 4, 2]


def test_an_answer_that_was_cut_has_no_end(tmp_path):
    task = make_task(config_of(), TOKENIZER)
    made = {
        ended: task.features(
            {
                "prompt": np.int32([70]),
                "completion": np.int32([71, 72]),
                "ended": ended,
                "advantage": 0.5,
            },
            np.random.default_rng(0),
        )
        for ended in (True, False)
    }
    assert made[True]["targets"].tolist() == [70, 71, 72, TOKENIZER.eos_id]
    assert made[False]["targets"].tolist() == [70, 71, 72]
    assert made[True]["weights"].sum() == 3 and made[False]["weights"].sum() == 2


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"data": {"batch_size": 6}}, "batch_size=6 answers are not whole groups of "),
        ({"data": {"seq_len": 5}}, "data.seq_len=5 leaves no room for a prompt before"),
    ],
)
def test_runs_that_do_not_fit_are_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        make_task(config_of(**parts), TOKENIZER)


def test_prompts_that_cannot_be_are_named(tmp_path):
    task = make_task(config_of(), TOKENIZER)
    for rows, message in (
        ([{"prompt": "a"}, {"text": "b"}], "row 1 has the prompt None; give a text"),
        ([{"prompt": "abcdef"}], "the prompt of row 0 has 6 tokens, and 3 fit"),
        ([], "no prompts to learn from"),
    ):
        with pytest.raises(ValueError, match=message):
            _ = Writer(task, None, rows, [digits]).tokens
    with pytest.raises(ValueError, match="no rewards; give at least one function"):
        learn(config_of(), tmp_path, ())
    plain = dataclasses.replace(config_of(), task=toy.CONFIG.task)
    with pytest.raises(ValueError, match="'causal_lm' does not learn from rewards"):
        learn(plain, tmp_path)
    with pytest.raises(ValueError, match="llmjax.regimes.reinforcement.run does it"):
        task.documents(mock.create_autospec(Corpus, instance=True), "train")
