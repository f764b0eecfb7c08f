"""A run's `craft`: over microbatches, devices and packed rows, killed and resumed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.config import (
    FGM,
    IA3,
    SGD,
    SMART,
    BFloat16,
    Checkpoint,
    Constant,
    CraftConfig,
    Mixup,
    ModelConfig,
    OptimizerConfig,
    RDrop,
)
from llmjax.models.heads.classifier import SequenceClassifier
from llmjax.parallel.mesh import use
from llmjax.tasks.craft import craft
from llmjax.tasks.craft.agreement import PROXIMAL
from llmjax.tasks.task import loss_of
from llmjax.train import loop
from llmjax.train.metrics import writers
from tests.train import toy

pytestmark = pytest.mark.usefixtures("quick_compile")
CONFIG = toy.classifier(toy.CONFIG)


def of(loss, mixout=0.0, config=CONFIG, **parts):
    changed = toy.change(config, **parts)
    return dataclasses.replace(changed, craft=CraftConfig(loss, mixout))


# --- one batch, however it is computed -----------------------------------------------


def test_fgm_is_the_same_in_microbatches_and_on_devices():
    """Packed rows of several texts, each with a perturbation of its own."""
    sgd = OptimizerConfig(SGD(0.0), Constant(), 1.0, weight_decay=0.0)
    config = of(
        FGM(0.5),
        data={"packing": "first_fit", "seq_len": 32},
        optimizer=sgd,
    )
    whole = None
    for layout, devices in (
        ({}, 1),
        ({"microbatches": 2, "data": 2, "fsdp": 2, "tensor": 2}, 8),
    ):
        cut = toy.change(config, layout=layout)
        program, batches = toy.program(cut, devices), toy.batches(cut)
        state, batch = program.init(), program.place(batches.batch(0))
        assert batch["valid"].shape[1] > 2
        with use(program.mesh):
            state, out = program.step(state, batch)
        found = jax.device_get((state.params, out[0], out[1]["grad_norm"]))
        if whole is not None:
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
                whole,
                found,
            )
        whole = found
    worse, plain = found[1]["adversarial_loss"][0], found[1]["loss"][0]
    assert worse > 1.05 * plain


# --- state ---------------------------------------------------------------------------


def test_averaged_and_first_weights_are_resumed_to_the_same_bits(tmp_path):
    """SMART's average in `extra`, mixout's weights in `frozen`, layers dropped."""
    smart = SMART(radius=1e-2, step_size=1e-2, noise=1e-3)
    start = toy.change(CONFIG, train={"steps": 2, "checkpoint_every": 2})
    batches = toy.batches(CONFIG)
    loop.fit(toy.program(start), batches, None, tmp_path / "start", progress=False)
    config = of(
        smart,
        mixout=0.4,
        init=Checkpoint(str(tmp_path / "start")),
        model={"layer_drop": 0.2},
        train={"steps": 4, "checkpoint_every": 2, "eval_every": 4},
    )

    def kill():
        raise KeyboardInterrupt

    program = toy.program(config)
    whole, _ = loop.fit(program, batches, None, tmp_path / "whole", progress=False)
    assert int(whole.extra[PROXIMAL].microbatches) == 4
    average = jax.device_get(whole.extra[PROXIMAL].weights)
    first = jax.device_get(whole.frozen["reference"])
    last = jax.device_get(whole.params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(last):
        keys = [k.key for k in path]
        one, other = average, first
        for key in keys:
            one, other = one[key], other[key]
        # it lags behind: 0.99 of it is that of the step before
        assert np.abs(one - other).max() < 0.1 * np.abs(leaf - other).max() + 1e-7
    rows = writers.read(tmp_path / "whole")
    assert rows[0]["train/proximity"] == 0 < rows[-1]["train/proximity"]
    with pytest.raises(KeyboardInterrupt):
        ended = toy.Interrupted(batches, 3, kill)
        loop.fit(program, ended, None, tmp_path / "parts", progress=False)
    parts, _ = loop.fit(program, batches, None, tmp_path / "parts", progress=False)
    toy.assert_same_bits(jax.device_get(parts), jax.device_get(whole))


# --- layers that are dropped ---------------------------------------------------------


def test_a_share_of_the_layers_is_skipped_by_each_row():
    cfg = ModelConfig(vocab_size=9, d_model=8, d_ff=8, num_heads=2, num_layers=1)
    dropped = dataclasses.replace(cfg, layer_drop=0.25)
    batch = {"tokens": jnp.arange(400 * 3).reshape(400, 3) % 7 + 1}
    models = [SequenceClassifier(c, 2) for c in (cfg, dropped)]
    params = models[0].init(jax.random.key(0), batch)
    rngs = {"dropout": jax.random.key(1)}
    whole, some = (np.array(m.apply(params, batch, rngs=rngs)) for m in models)
    kept = np.all(whole == some, axis=1)
    assert abs(kept.mean() - 0.75) < 0.07  # 3 standard errors
    np.testing.assert_array_equal(models[1].apply(params, batch), whole)


# --- mistakes ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda: of(RDrop()),
            r"'r_drop' compares two dropout masks.*model.dropout=0.1",
        ),
        (
            lambda: of(RDrop(), config=toy.NOISY),
            r"'r_drop' compares outputs, for which task 'causal_lm' has no diverg",
        ),
        (
            lambda: of(Mixup(), config=toy.CONFIG),
            r"'mixup' mixes the vectors of texts .* task 'causal_lm' has none",
        ),
        (
            lambda: of(Mixup(), layout={"microbatches": 8}),
            r"data.batch_size=8 over layout.microbatches=8 leaves one",
        ),
        (
            lambda: of(SMART(), layout={"precision": BFloat16()}),
            r"radius=1e-05, which layout.precision.kind='bfloat16' rounds away",
        ),
        (
            lambda: of(CraftConfig().loss, mixout=0.1),
            r"craft.mixout=0.1 mixes in .* init.kind='scratch'",
        ),
        (
            lambda: of(
                CraftConfig().loss, mixout=0.1, init=Checkpoint("x"), peft=IA3()
            ),
            r"mixout=0.1 mixes the Transformer's matrices.*peft.kind='ia3'",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        toy.program(make())


def test_a_loss_without_outputs_and_score_is_refused():
    def wrapper(task, model):
        loss = loss_of(task, model)
        return lambda *arguments: loss(*arguments)

    with pytest.raises(ValueError, match=r"'fgm' wraps outputs and score"):
        toy.program(of(FGM()), loss=wrapper)


def test_a_loss_of_all_rows_in_microbatches_is_refused():
    config = of(FGM(), layout={"microbatches": 2})
    task = toy.task(config)
    model = task.model(config.model, config.layout)
    whole = dataclasses.replace(loss_of(task, model), whole_batch=True)
    with pytest.raises(ValueError, match=r"microbatches=2 of a task that compares all"):
        craft.check(config, task, model, whole)
