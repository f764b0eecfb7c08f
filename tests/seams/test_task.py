"""A task of one file: a feature of three numbers per token, a label per segment."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.config import DataConfig, LayoutConfig, ModelConfig, RunConfig
from llmjax.data.tokenizers.vocabulary import PlainVocabulary
from llmjax.models.forward import forward
from llmjax.models.heads.classifier import has_segments, pool, texts
from llmjax.models.transformer import Transformer
from llmjax.tasks.losses import cross_entropy
from llmjax.tasks.routing import routed, with_routing
from llmjax.tasks.task import Objective, Task, loss_of

# --- the task ------------------------------------------------------------------------


class BoxModel(nn.Module):
    cfg: ModelConfig
    layout: LayoutConfig

    @nn.compact
    def __call__(self, batch):
        x_BTD, _ = Transformer(self.cfg, self.layout)(batch)
        x_BTD += jnp.tanh(nn.Dense(self.cfg.d_model)(batch["box"]))
        logits_BGC = nn.Dense(2)(pool(x_BTD, texts(batch), "last"))
        return logits_BGC if has_segments(batch) else logits_BGC[:, 0]


class BoxTask(Objective):
    packings = ("pad", "first_fit")
    labels = ("label",)

    def features(self, example, rng):
        return {name: example[name] for name in ("tokens", "box", "label")}

    def model(self, cfg, layout):
        return BoxModel(cfg, layout)

    def outputs(self, model):
        return routed(model)

    def score(self, outputs, batch, training=False):
        loss, _ = cross_entropy(outputs.head, batch["label"])
        total, count = jnp.sum(loss * batch["valid"]), jnp.sum(batch["valid"])
        return with_routing(outputs, total, count, {"loss": (total, count)})

    def predict(self, model):
        return lambda variables, batch: forward(model, variables, batch)[0].argmax(-1)


# --- its texts, each in a row or several in one --------------------------------------

T = 12
ROWS = {"alone": [[0], [1], [2], [3]], "packed": [[0, 1, 2], [3]]}


def batch(task, rows, places):
    """Texts in rows of T tokens; labels [B], or [B, G] with G = `places`."""
    rng, B = np.random.default_rng(0), len(rows)
    examples = [
        {
            "tokens": rng.integers(3, 40, n),
            "box": rng.standard_normal((n, 3)),
            "label": n % 2,
        }
        for n in (5, 3, 4, 7)
    ]
    out = {"tokens": np.zeros((B, T), int), "box": np.zeros((B, T, 3))}
    out |= {name: np.zeros((B, T), int) for name in ("segment_ids", "positions")}
    out |= {name: np.zeros((B, places), int) for name in ("label", "valid")}
    for row, members in enumerate(rows):
        start = 0
        for g, member in enumerate(members):
            features = task.features(examples[member], rng)
            here = slice(start, start := start + len(features["tokens"]))
            own = np.arange(here.stop - here.start)
            for name in ("tokens", "box"):
                out[name][row, here] = features[name]
            out["segment_ids"][row, here], out["positions"][row, here] = g + 1, own
            out["label"][row, g], out["valid"][row, g] = features["label"], 1
    if places == 1:
        out |= {name: out[name][:, 0] for name in ("label", "valid")}
    return {k: jnp.asarray(v, "float32" if k == "box" else int) for k, v in out.items()}


@pytest.mark.usefixtures("quick_compile")
def test_packed_texts_have_the_loss_and_gradients_of_each_alone(tiny, random_params):
    run = RunConfig(tiny, data=DataConfig(packing="first_fit"))
    task = BoxTask(run, PlainVocabulary(40))
    assert isinstance(task, Task)
    model = task.model(tiny, LayoutConfig())
    alone, packed = batch(task, ROWS["alone"], 1), batch(task, ROWS["packed"], 4)
    params, loss = random_params(model, packed), loss_of(task, model)

    @jax.jit
    def of(batch):
        def total(params):
            out = loss(params, {}, {}, batch, jax.random.key(0))
            return out[0], out[1]

        return jax.value_and_grad(total, has_aux=True)(params)

    ((one, n), gradient), ((other, m), packed_gradient) = of(alone), of(packed)
    assert n == m == 4
    np.testing.assert_allclose(other, one, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        gradient,
        packed_gradient,
    )
    assert all(jnp.abs(g).max() > 1e-3 for g in jax.tree.leaves(gradient))
    chosen = jax.jit(task.predict(model))({"params": params}, packed)
    assert chosen.shape == (2, 4)
