"""Losses of preferences, of the log-likelihoods of answers."""

from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from llmjax.config import (
    DPO,
    IPO,
    KTO,
    ORPO,
    Hinge,
    PreferenceLoss,
    RobustDPO,
    SimPO,
)


@flax.struct.dataclass
class Answers:
    """Answers as a model sees them.

    Attributes:
      likelihood_B: log-likelihoods in nats, float32.
      tokens_B: predicted tokens, <eos> among them.
      reference_B: log-likelihoods by the reference; None: none is read.
      row_B: log-likelihood per token of prompt and answer together.
    """

    likelihood_B: jax.Array
    tokens_B: jax.Array
    reference_B: Any = None
    row_B: Any = None

    @property
    def per_token_B(self) -> jax.Array:
        """The mean log-likelihood of an answer's tokens."""
        return self.likelihood_B / jnp.maximum(self.tokens_B, 1)

    @property
    def ratio_B(self) -> jax.Array:
        """How much likelier an answer is than by the reference, in nats."""
        return self.likelihood_B - self.reference_B


class Compared(NamedTuple):
    """Losses and rewards of pairs.

    Attributes:
      loss_B: to minimise.
      chosen_B, rejected_B: rewards of both answers, without a gradient.
      parts: terms of the loss by name, [B] each.
    """

    loss_B: jax.Array
    chosen_B: jax.Array
    rejected_B: jax.Array
    parts: dict[str, jax.Array]


class Judged(NamedTuple):
    """Losses and rewards of single answers, and what these are compared with.

    Attributes:
      loss_B: to minimise.
      reward_B: without a gradient.
      kl: the estimate of the divergence from the reference, in nats; not negative.
    """

    loss_B: jax.Array
    reward_B: jax.Array
    kl: jax.Array


def needs_reference(loss: PreferenceLoss) -> bool:
    """Whether a loss is of log ratios to a reference."""
    return not isinstance(loss, ORPO | SimPO)


def compare(loss: PreferenceLoss, chosen: Answers, rejected: Answers) -> Compared:
    """The loss of each pair, and the rewards as TRL tells them: `beta` times the log
    ratios, or without a reference the log-likelihoods per token."""
    beta, parts = loss.beta, dict[str, jax.Array]()
    if isinstance(loss, ORPO | SimPO):
        scores = chosen.per_token_B, rejected.per_token_B
    else:
        scores = chosen.ratio_B, rejected.ratio_B
    margin_B = scores[0] - scores[1]
    if isinstance(loss, DPO):
        loss_B = -jax.nn.log_sigmoid(beta * margin_B)
    elif isinstance(loss, Hinge):
        loss_B = jax.nn.relu(1 - beta * margin_B)
    elif isinstance(loss, RobustDPO):
        right_B = (1 - loss.flipped) * jax.nn.log_sigmoid(beta * margin_B)
        wrong_B = loss.flipped * jax.nn.log_sigmoid(-beta * margin_B)
        loss_B = (wrong_B - right_B) / (1 - 2 * loss.flipped)
    elif isinstance(loss, IPO):
        means = (a.ratio_B / jnp.maximum(a.tokens_B, 1) for a in (chosen, rejected))
        loss_B = jnp.square(next(means) - next(means) - 1 / (2 * beta))
    elif isinstance(loss, SimPO):
        loss_B = -jax.nn.log_sigmoid(beta * margin_B - loss.gamma)
    else:
        assert isinstance(loss, ORPO)
        odds_B = margin_B - (_log_not(scores[0]) - _log_not(scores[1]))
        mean_B = chosen.row_B if loss.likelihood == "row" else chosen.per_token_B
        parts = {"likelihood_loss": -mean_B, "log_odds": odds_B}
        loss_B = -mean_B - beta * jax.nn.log_sigmoid(odds_B)
    chosen_B, rejected_B = jax.lax.stop_gradient(scores)
    return Compared(loss_B, beta * chosen_B, beta * rejected_B, parts)


def judge(
    loss: KTO,
    answers: Answers,
    mismatched: Answers,
    good_B: jax.Array,
    valid_B: jax.Array,
) -> Judged:
    """The loss of each answer.

    Args:
      loss: its config.
      answers: of the rows.
      mismatched: the same answers behind other prompts, which tell how far the model
        is from the reference: their mean log ratio, where it is above 0.
      good_B: 1 where people like the answer.
      valid_B: 1 for real rows.
    """
    apart_B = jax.lax.stop_gradient(mismatched.ratio_B)
    mean = jnp.sum(apart_B * valid_B) / jnp.maximum(jnp.sum(valid_B), 1)
    kl = jnp.maximum(mean, 0)
    sign_B = jnp.where(good_B > 0, 1.0, -1.0)
    weight_B = jnp.where(good_B > 0, loss.desirable, loss.undesirable)
    value_B = jax.nn.sigmoid(sign_B * loss.beta * (answers.ratio_B - kl))
    reward_B = loss.beta * jax.lax.stop_gradient(answers.ratio_B)
    return Judged(weight_B * (1 - value_B), reward_B, kl)


def _log_not(log_p: jax.Array) -> jax.Array:
    """log(1 - p); of a p that rounds to 1, of one just below."""
    return jnp.log(-jnp.expm1(jnp.minimum(log_p, -1e-7)))
