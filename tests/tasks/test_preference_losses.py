"""Losses of preferences: TRL's values and gradients, rows, microbatches, references."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.config import DPO, KTO, ORPO, Preference, SimPO
from llmjax.data.tokenizers.vocabulary import PlainVocabulary
from llmjax.models.heads.language import Outputs
from llmjax.tasks.losses import blocked_token_losses, cross_entropy
from llmjax.tasks.preferences import rows
from llmjax.tasks.registry import make_task
from llmjax.tasks.task import loss_of
from tests.tasks import preference_rows as toy

GOLDEN = json.loads(Path(__file__).with_name("preferences.json").read_text())

pytestmark = pytest.mark.usefixtures("quick_compile")


def assert_near(mine, other, tolerance=1e-5):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance, rtol=tolerance),
        mine,
        other,
    )


@pytest.mark.parametrize("name", toy.LOSSES)
def test_value_gradient_and_metrics_are_trls(name):
    golden = GOLDEN[name]
    loss, gradient, metrics = toy.ours(name)
    assert loss == pytest.approx(golden["loss"], abs=1e-5)
    for key, value in golden["metrics"].items():
        assert metrics[key] == pytest.approx(value, abs=1e-5), key
    assert_near(gradient, {k: np.array(v) for k, v in golden["gradient"].items()})


def test_the_divergence_of_the_goldens_is_on_both_sides_of_its_bound():
    assert GOLDEN["kto"]["metrics"]["kl"] > 1
    assert GOLDEN["kto_below"]["metrics"]["kl"] == 0


def test_a_reward_models_loss_is_trls():
    mine, golden = toy.our_reward(), GOLDEN["reward"]
    assert mine["loss"] == pytest.approx(golden["loss"], abs=1e-5)
    assert_near(mine["gradient"], np.array(golden["gradient"]))
    for key, value in golden["metrics"].items():
        assert mine["metrics"][key] == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize("name", toy.POLICIES)
def test_losses_of_rewarded_answers_are_trls(name):
    mine, golden = toy.our_policy(name), GOLDEN[name]
    assert mine["loss"] == pytest.approx(golden["loss"], abs=1e-5)
    wanted = {k: np.array(v) for k, v in golden["gradient"].items()}
    assert_near(mine["gradient"], wanted)
    for key, value in golden["metrics"].items():
        assert mine["metrics"][key] == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize("name", toy.LOSSES)
def test_rows_that_only_fill_up_do_not_count(name):
    whole, filled = toy.ours(name), toy.ours(name, size=8)
    assert_near(filled, whole)


@pytest.mark.parametrize("name", ["dpo", "orpo", "simpo"])
def test_sums_of_parts_are_those_of_the_whole(name):
    task = toy.task_of(toy.LOSSES[name])
    weights = jax.tree.map(jnp.asarray, toy.policy_and_reference(name))
    own, reference = weights
    loss, batch = loss_of(task, toy.Toy()), toy.batch_of(task)

    @jax.jit
    def of(batch):
        frozen = {"reference": reference}
        return loss(own, frozen, {}, batch, jax.random.key(0))[:3]

    parts = [{k: v[part] for k, v in batch.items()} for part in np.split(range(5), [2])]
    sums = jax.tree.map(jnp.add, *map(of, parts))
    assert_near(sums, of(batch))


def test_a_reference_in_the_records_is_that_of_weights():
    """The same value and gradient, of the log-likelihoods that `predict` gives."""
    name = "dpo"
    task = toy.task_of(toy.LOSSES[name])
    own, first = jax.tree.map(jnp.asarray, toy.policy_and_reference(name))
    batch = jax.tree.map(jnp.asarray, toy.batch_of(task))
    predict = task.predict(toy.Toy())
    pairs = [(k, batch[k], batch.get(f"other_{k}")) for k in batch]
    other = {k: b if b is not None else a for k, a, b in pairs}
    given = [
        predict({"params": first}, rows)["log_likelihood"] for rows in (batch, other)
    ]
    stored = toy.task_of(toy.LOSSES[name], reference="records")
    assert not stored.needs_reference
    assert "other_reference" in stored.example_batch(2)

    def mean(task, frozen, batch):
        def of(params):
            total, count, *_ = loss_of(task, toy.Toy())(params, frozen, {}, batch, None)
            return total / count

        return jax.value_and_grad(of)(own)

    with_records = batch | {"reference": given[0], "other_reference": given[1]}
    one = mean(stored, {}, with_records)
    assert_near(one, mean(task, {"reference": first}, batch))
    assert one[0] == pytest.approx(GOLDEN[name]["loss"], abs=1e-5)


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_token_losses_in_blocks_are_those_of_all_logits(softcap):
    rng = np.random.default_rng(0)
    x, table, bias, cotangents = (
        jnp.float32(rng.standard_normal(shape))
        for shape in ((3, 7, 4), (9, 4), (9,), (3, 7))
    )
    targets = jnp.int32(rng.integers(9, size=(3, 7)))

    def blocked(x, table, bias):
        return blocked_token_losses(x, table, bias, targets, 3, softcap)

    def plain(x, table, bias):
        return cross_entropy(Outputs(x, table, bias, softcap).logits(), targets)[1]

    results = []
    for function in (blocked, plain):
        value, backward = jax.vjp(function, x, table, bias)
        results.append((value, backward(cotangents)))
    assert_near(*results)


# --- rows ----------------------------------------------------------------------------


def test_an_answer_and_its_end_are_predicted():
    ids = np.arange(3, 10, dtype=np.int32)
    row = rows.answered(PlainVocabulary(20), ids[:3], ids[3:5], 12)
    assert row["tokens"].tolist() == [1, 3, 4, 5, 6, 7]
    assert row["targets"].tolist() == [3, 4, 5, 6, 7, 2]
    assert row["weights"].tolist() == [0, 0, 0, 1, 1, 1]
    cut = rows.answered(PlainVocabulary(20), ids[:3], ids[3:5], 4)
    assert cut["targets"].tolist() == [3, 4, 5, 6] and cut["weights"].sum() == 1
    alone = rows.answered(PlainVocabulary(20), ids[:0], ids[:2], 4)
    assert alone["weights"].tolist() == [1, 1, 1]


def test_other_answers_stand_behind_each_prompt():
    """As if they had been put there on the host, whatever fills the batch up."""
    task = toy.task_of(KTO(), size=8)
    batch = toy.batch_of(task)
    order = [0, 1, 7, 2, 3, 5, 4, 6]  # with rows between that only fill up
    batch = {k: v[order] for k, v in batch.items()}
    real = [k for k, row in enumerate(order) if row < 5]
    found = jax.tree.map(np.asarray, jax.jit(rows.mismatched)(batch))
    for rank, k in enumerate(real):
        prompt = np.int32(toy.PAIRS[order[k]][0])
        answer = np.int32(toy.PAIRS[order[real[rank - 1]]][1])
        # of an answer that was cut, what was left of it
        there = batch["weights"][real[rank - 1]].sum()
        whole = rows.answered(task.vocabulary, prompt, answer, 99)
        n = min(toy.T, len(prompt) + there)
        here = found["segment_ids"][k] > 0
        assert here.sum() == n and here[:n].all()
        for name in ("tokens", "targets", "weights"):
            np.testing.assert_array_equal(found[name][k][:n], whole[name][:n], name)
        assert not found["weights"][k][n:].any()
    filling = [k for k in range(8) if k not in real]
    assert not found["segment_ids"][filling].any()


def test_a_batch_without_other_rows_compares_an_answer_with_itself():
    task = toy.task_of(KTO(), size=8)
    batch = {
        k: v * (np.arange(8) == 3).reshape(-1, *[1] * (v.ndim - 1))
        for k, v in toy.batch_of(task).items()
    }
    found = jax.tree.map(np.asarray, rows.mismatched(jax.tree.map(jnp.asarray, batch)))
    for name in ("tokens", "targets", "weights"):
        real = batch["segment_ids"][3] > 0
        np.testing.assert_array_equal(found[name][3][real], batch[name][3][real])


# --- what is refused -----------------------------------------------------------------


def test_only_log_ratios_need_a_reference():
    need = {
        name: toy.task_of(loss).needs_reference for name, loss in toy.LOSSES.items()
    }
    assert {name for name, needed in need.items() if not needed} == {"orpo", "simpo"}


@pytest.mark.parametrize(
    ("loss", "part", "fields", "message"),
    [
        (KTO(), "layout", {"microbatches": 5}, "'kto' .* over the whole batch, and la"),
        (KTO(), "data", {"batch_size": 1}, "data.batch_size=1; set it to 2 or more"),
        (DPO(), "data", {"seq_len": 2}, "data.seq_len=2 leaves no room for a prompt"),
        (DPO(), "data", {"packing": "concat"}, "data.packing='pad', not 'concat'"),
        (
            ORPO(),
            "model",
            {"architecture": "encoder_decoder"},
            "'preference' needs model.architecture='decoder', not 'encoder_decoder'",
        ),
        (
            SimPO(),
            "loss",
            {"z_loss": 0.1},
            "loss.z_loss=0.1 is a term of a cross",
        ),
    ],
)
def test_runs_that_do_not_fit_are_refused(loss, part, fields, message):
    run = toy.task_of(loss).run
    with pytest.raises(ValueError, match=message):
        own = dataclasses.replace(getattr(run, part), **fields)
        make_task(dataclasses.replace(run, **{part: own}), PlainVocabulary(toy.V))


def test_a_robust_loss_needs_more_right_than_wrong_pairs():
    with pytest.raises(ValueError, match=r"flipped is 0.5; it must be in \[0, 0.5\)"):
        dataclasses.replace(toy.LOSSES["robust_dpo"], flipped=0.5)
    with pytest.raises(ValueError, match="'kto' reads answers .* set reference='wei"):
        Preference(KTO(), reference="records")
