"""Learning from rewards: answers with advantages become likelier or less likely."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from llmjax.config import DAPO, RLOO, DrGRPO, PolicyLoss
from llmjax.data.store.corpus import Corpus
from llmjax.models.forward import REFERENCE
from llmjax.tasks.objectives.language import token_weights
from llmjax.tasks.preferences import rows
from llmjax.tasks.preferences.answers import AnswerTask
from llmjax.tasks.routing import Routed, routed, with_routing
from llmjax.tasks.task import Batch, Metrics, Outputs, Variables

SPREAD = 1e-4  # added to a group's deviation, as in TRL


def advantages(loss: PolicyLoss, rewards_PG: np.ndarray) -> np.ndarray:
    """How much better each answer is than those it is compared with, float32 [P, G].

    Args:
      loss: its config.
      rewards_PG: of the answers to each prompt; NaN where there is none. Such an answer
        is compared with nothing, and its advantage is 0.
    """
    scored_PG = ~np.isnan(rewards_PG)
    count_P1 = scored_PG.sum(axis=1, keepdims=True)
    rewards_PG = np.where(scored_PG, rewards_PG, 0.0).astype(np.float64)
    total_P1 = rewards_PG.sum(axis=1, keepdims=True)
    mean_P1 = total_P1 / np.maximum(count_P1, 1)
    apart_PG = np.where(scored_PG, rewards_PG - mean_P1, 0.0)
    if isinstance(loss, RLOO):  # r - (total - r) / (n - 1)
        apart_PG = apart_PG * count_P1 / np.maximum(count_P1 - 1, 1)
    elif not isinstance(loss, DrGRPO):
        square_P1 = np.square(apart_PG).sum(axis=1, keepdims=True)
        deviation_P1 = np.sqrt(square_P1 / np.maximum(count_P1 - 1, 1))
        apart_PG = apart_PG / (deviation_P1 + SPREAD)
    return np.where(count_P1 > 1, apart_PG, 0.0).astype(np.float32)


@flax.struct.dataclass
class Written:
    """Log-likelihoods of the tokens of rows, float32 [B, T].

    Attributes:
      likelihood_BT: by the model.
      reference_BT: by the model as the run began; None: not read.
    """

    likelihood_BT: jax.Array
    reference_BT: Any = None


@dataclasses.dataclass(frozen=True, eq=False)
class PolicyTask(AnswerTask):
    """A language model and the answers that it wrote, each with an advantage.

    Rows are made by `llmjax.regimes.reinforcement`, which draws and rewards them.
    """

    inputs = ()

    @property
    def needs_reference(self) -> bool:
        return self._beta > 0

    @property
    def _beta(self) -> float:
        return float(getattr(self.config.loss, "beta", 0.0))

    @property
    def prompt_length(self) -> int:
        """The most tokens of a prompt."""
        return self.text_length - self.config.max_new_tokens

    def check(self) -> None:
        """Raises ValueError for rows without room, or a part of a group."""
        config, data = self.config, self.run.data
        if self.prompt_length < 1:
            raise ValueError(
                f"data.seq_len={data.seq_len} leaves no room for a prompt before "
                f"task.max_new_tokens={config.max_new_tokens}; raise it"
            )
        if data.batch_size % config.group:
            raise ValueError(
                f"data.batch_size={data.batch_size} answers are not whole groups of "
                f"task.group={config.group}; make it a multiple"
            )

    def documents(self, corpus: Corpus, split: str) -> Any:
        """Raises ValueError: answers are drawn while a model learns."""
        raise ValueError(
            f"task {self.config.kind!r} learns from answers that are drawn and "
            "rewarded on the way, not from a corpus; llmjax.regimes.reinforcement.run "
            "does it"
        )

    def features(
        self, example: Mapping[str, Any], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """`tokens`, `targets` and `weights` of an answer, and its `advantage`."""
        texts = example["prompt"], example["completion"]
        room, ended = self.run.data.seq_len, example["ended"]
        made = rows.answered(self.vocabulary, *texts, room, ended=ended)
        return made | {"advantage": np.asarray(example["advantage"], np.float32)}

    def length(self, num_tokens: int) -> int:
        return num_tokens + 1

    def example_batch(self, rows: int = 1) -> dict[str, np.ndarray]:
        texts = self.random_texts(2 * rows)
        examples = [
            {"prompt": prompt, "completion": answer, "ended": True, "advantage": 1.0}
            for prompt, answer in zip(texts[::2], texts[1::2], strict=True)
        ]
        return self.full_batch(self.listed(examples, self.text_length), rows)

    def outputs(self, model: nn.Module) -> Outputs:
        """The log-likelihoods of all tokens, `Written`."""

        def outputs(variables, batch, rng):
            own = {"params": variables["params"]}
            made = routed(model, "outputs")(own, batch, rng)
            written = Written(self.token_likelihoods(made.head, batch))
            if self.needs_reference:
                first = jax.lax.stop_gradient({"params": variables[REFERENCE]})
                before = routed(model, "outputs")(first, batch, None)
                reference_BT = self.token_likelihoods(before.head, batch)
                written = dataclasses.replace(written, reference_BT=reference_BT)
            return Routed(written, made.router_loss)

        return outputs

    def score(
        self, outputs: Routed, batch: Batch, training: bool = False
    ) -> tuple[jax.Array, jax.Array, Metrics]:
        """Metrics: `loss`, whose value says little; `tokens` of an answer; with a
        reference `kl`, the estimate of Schulman (k3) per token."""
        written, loss = outputs.head, self.config.loss
        weights_BT, valid_B = token_weights(batch), batch["valid"].astype(jnp.float32)
        tokens_B, count = jnp.sum(weights_BT, axis=1), jnp.sum(valid_B)
        advantage_B, likelihood_BT = batch["advantage"], written.likelihood_BT
        metrics: Metrics = {"tokens": (jnp.sum(tokens_B), count)}
        if isinstance(loss, RLOO):
            likelihood_B = jnp.sum(likelihood_BT * weights_BT, axis=1)
            total = -jnp.sum(_one(likelihood_B) * advantage_B * valid_B)
        else:
            each_BT = -_one(likelihood_BT) * advantage_B[:, None]
            if written.reference_BT is not None:
                ratio_BT = written.reference_BT - likelihood_BT
                kl_BT = jnp.exp(ratio_BT) - ratio_BT - 1
                each_BT += self._beta * kl_BT
                metrics["kl"] = jnp.sum(kl_BT * weights_BT), jnp.sum(weights_BT)
            sum_B = jnp.sum(each_BT * weights_BT, axis=1)
            if isinstance(loss, DAPO):
                count = jnp.sum(weights_BT)
            elif isinstance(loss, DrGRPO):
                sum_B = sum_B / self.config.max_new_tokens
            else:
                sum_B = sum_B / jnp.maximum(tokens_B, 1)
            total = jnp.sum(sum_B * valid_B)
        metrics["loss"] = total, count
        return with_routing(outputs, total, count, metrics)

    def predict(self, model: nn.Module) -> Callable[[Variables, Batch], Any]:
        """The log-likelihood of each row's answer in nats, float32 [B]."""

        def predict(variables, batch):
            written = self.outputs(model)(variables, batch, None).head
            return jnp.sum(written.likelihood_BT * token_weights(batch), axis=1)

        return predict


def _one(likelihood: jax.Array) -> jax.Array:
    """1, with the gradient of a log-likelihood: the ratio of what is to what drew."""
    return jnp.exp(likelihood - jax.lax.stop_gradient(likelihood))
