"""Ragged rows of preferences, and a toy model of which TRL's loss code is asked too.

The hidden state of a token is its embedding and half of that of the token before it.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from llmjax.config import (
    DAPO,
    DPO,
    GRPO,
    IPO,
    KTO,
    ORPO,
    RLOO,
    DataConfig,
    DrGRPO,
    Hinge,
    LayoutConfig,
    ModelConfig,
    Preference,
    Reinforcement,
    RewardModel,
    RobustDPO,
    RunConfig,
    SimPO,
)
from llmjax.data.batches.pipeline import Pipeline
from llmjax.data.tokenizers.vocabulary import PlainVocabulary
from llmjax.models.heads.language import Outputs
from llmjax.tasks.preferences.policy import PolicyTask
from llmjax.tasks.registry import make_task
from llmjax.tasks.routing import Routed
from llmjax.tasks.task import loss_of

V, D, T = 23, 4, 12
# prompt, chosen, rejected; the last two are longer than a row
PAIRS: list[tuple[list[int], list[int], list[int]]] = [
    ([5, 6, 7], [8, 9], [10, 11, 12, 13]),
    ([4], [20, 21, 22, 3, 5], [6]),
    ([14, 15, 16, 17, 18], [19], [9, 8, 7]),
    ([3, 4, 5, 6, 7, 8, 9, 10], [11, 12, 13], [14, 15, 16, 17, 18]),
    ([11, 12], [13, 14, 15, 16, 17, 18, 19, 20, 21, 22], [4, 5]),
]
LABELS = [1, 0, 1, 1, 0]  # of the first answers, judged by themselves
LOSSES: dict[str, Any] = {
    "dpo": DPO(beta=0.3),
    "ipo": IPO(beta=0.2),
    "hinge": Hinge(beta=0.4),
    "robust_dpo": RobustDPO(beta=0.3, flipped=0.2),
    "orpo": ORPO(beta=0.5),
    "simpo": SimPO(beta=2.0, gamma=0.7),
    "kto": KTO(beta=0.3, desirable=1.0, undesirable=1.4),
    "kto_below": KTO(beta=0.3),  # its estimate of the divergence is below 0
}


def weights(seed: int) -> dict[str, np.ndarray]:
    """The toy's weights, float32."""
    rng = np.random.default_rng(seed)
    names = ("embedding", "table")
    return {k: rng.standard_normal((V, D)).astype(np.float32) for k in names}


def policy_and_reference(name: str) -> tuple[Any, Any]:
    """The weights that a loss is asked for."""
    own, first = {"kto": (0, 3), "kto_below": (4, 2)}.get(name, (0, 1))
    first_weights = weights(first)
    if name in POLICIES:  # near: the estimate of the divergence is an exponential
        first_weights = {k: w + first_weights[k] / 8 for k, w in weights(own).items()}
    return weights(own), first_weights


class Toy(nn.Module):
    """The model; its batch is read for `tokens` alone."""

    def setup(self):
        normal = nn.initializers.normal()
        self.embedding = self.param("embedding", normal, (V, D))
        self.table = self.param("table", normal, (V, D))

    def __call__(self, batch: Any) -> jax.Array:
        return self.outputs(batch).logits()

    def outputs(self, batch: Any) -> Outputs:
        x_BTD = self.embedding[batch["tokens"]]
        before_BTD = jnp.pad(x_BTD, ((0, 0), (1, 0), (0, 0)))[:, :-1]
        return Outputs(x_BTD + 0.5 * before_BTD, self.table)


def task_of(loss: Any, size: int = len(PAIRS), **fields: Any) -> Any:
    """The task of a loss, over `size` rows a batch; `fields`: of its config."""
    model = ModelConfig(vocab_size=V, d_model=8, num_layers=1, num_heads=1, d_ff=8)
    data = DataConfig(packing="pad", seq_len=T, batch_size=size, prefetch=0)
    run = RunConfig(
        model, Preference(loss, **fields), data, layout=LayoutConfig(loss_block=5)
    )
    return make_task(run, PlainVocabulary(V))


def examples(loss: Any) -> list[dict[str, Any]]:
    """The rows as a task's examples."""
    ids = [[np.array(text, np.int32) for text in pair] for pair in PAIRS]
    if isinstance(loss, KTO):
        return [
            {"prompt": p, "completion": chosen, "label": label}
            for (p, chosen, _), label in zip(ids, LABELS, strict=True)
        ]
    return [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in ids]


def batch_of(task: Any) -> dict[str, np.ndarray]:
    """All rows in their order, filled up to a batch."""
    source = task.listed(examples(task.config.loss), T - 1)
    pipeline = Pipeline(source, task.features, task.run.data, task.length)
    return next(pipeline.evaluation())


def ours(name: str, size: int = len(PAIRS)) -> tuple[float, Any, dict[str, float]]:
    """The mean loss, its gradient and the metrics of all rows."""
    task = task_of(LOSSES[name], size)
    own, reference = policy_and_reference(name)
    frozen = {"reference": reference} if task.needs_reference else {}
    loss, batch = loss_of(task, Toy()), jax.tree.map(jnp.asarray, batch_of(task))

    def mean(params):
        total, count, metrics, _ = loss(params, frozen, {}, batch, jax.random.key(0))
        return total / count, metrics

    (value, metrics), grads = jax.jit(jax.value_and_grad(mean, has_aux=True))(own)
    means = {k: float(total / count) for k, (total, count) in metrics.items()}
    return float(value), jax.device_get(grads), means


POLICIES: dict[str, Any] = {
    "grpo": GRPO(beta=0.2),
    "grpo_alone": GRPO(),
    "dr_grpo": DrGRPO(beta=0.1),
    "dapo": DAPO(),
    "rloo": RLOO(),
}
ADVANTAGES = [0.5, -1.25, 0.0, 2.0, -0.75]  # of the first answers
LONGEST = 11  # tokens of an answer


def our_policy(name: str) -> dict[str, Any]:
    """The mean loss of answers with advantages, its gradient and metrics."""
    config = Reinforcement(POLICIES[name], group=5, max_new_tokens=LONGEST)
    run = dataclasses.replace(task_of(DPO()).run, task=config)
    task = PolicyTask(run, PlainVocabulary(V))
    answers = [
        {
            "prompt": np.array(prompt, np.int32),
            "completion": np.array(chosen, np.int32),
            "ended": True,
            "advantage": advantage,
        }
        for (prompt, chosen, _), advantage in zip(PAIRS, ADVANTAGES, strict=True)
    ]
    source = task.listed(answers, T - 1)
    pipeline = Pipeline(source, task.features, run.data, task.length)
    batch = jax.tree.map(jnp.asarray, next(pipeline.evaluation()))
    own, reference = jax.tree.map(jnp.asarray, policy_and_reference(name))
    frozen = {"reference": reference} if task.needs_reference else {}

    def mean(params):
        total, count, metrics, _ = loss_of(task, Toy())(params, frozen, {}, batch, None)
        return total / count, metrics

    (value, metrics), gradient = jax.value_and_grad(mean, has_aux=True)(own)
    means = {k: float(total / count) for k, (total, count) in metrics.items()}
    gradient = jax.device_get(gradient)
    return {"loss": float(value), "gradient": gradient, "metrics": means}


def rewards() -> tuple[np.ndarray, np.ndarray, float]:
    """Rewards of five pairs [5, 2], their margins, and a factor of centring."""
    rng = np.random.default_rng(3)
    scores = rng.standard_normal((5, 2)).astype(np.float32)
    return scores, rng.uniform(0, 1, 5).astype(np.float32), 0.05


def our_reward() -> dict[str, Any]:
    """The mean loss of `rewards`, its gradient and metrics."""
    scores, margins, centering = rewards()
    model = ModelConfig(vocab_size=V, d_model=8, num_layers=1, num_heads=1, d_ff=8)
    data = DataConfig(packing="pad", seq_len=T, batch_size=5)
    run = RunConfig(model, RewardModel(centering), data)
    task = make_task(run, PlainVocabulary(V))
    batch = {"valid": jnp.ones(5), "margin": jnp.asarray(margins)}

    def mean(scores_B2):
        both = Routed((scores_B2[:, 0], scores_B2[:, 1]))
        total, count, metrics = task.score(both, batch)
        return total / count, metrics

    (value, metrics), gradient = jax.value_and_grad(mean, has_aux=True)(scores)
    means = {k: float(total / count) for k, (total, count) in metrics.items()}
    return {"loss": float(value), "gradient": np.asarray(gradient), "metrics": means}
