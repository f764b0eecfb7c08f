"""The length of the text that a token is part of, which some rotary rates follow."""

from typing import Any

import jax
import jax.numpy as jnp

from llmjax.config import DynamicScaling, LongRope, ModelConfig, Rotary


def follow_length(cfg: ModelConfig) -> tuple[DynamicScaling | LongRope, ...]:
    """The scalings of a model's layers whose rates follow a text's length."""
    groups = (*cfg.layers, *cfg.encoder_layers)
    layers = [spec.positions for group in groups for spec in group.pattern]
    scalings = [p.scaling for p in (cfg.positions, *layers) if isinstance(p, Rotary)]
    return tuple(s for s in scalings if isinstance(s, DynamicScaling | LongRope))


def text_lengths(
    segments_BT: Any, positions_BS: jax.Array, segments_BS: Any
) -> jax.Array:
    """Number of tokens that each token's text has so far; no other text changes it.

    Args:
      segments_BT: of the T tokens; None where each row is one text.
      positions_BS, segments_BS: of all tokens, those that a cache holds included.

    Returns:
      int [B, T], or [B, 1] where each row is one text.
    """
    if segments_BT is None or segments_BS is None:
        return jnp.max(positions_BS, axis=1, keepdims=True) + 1
    same_BTS = segments_BT[:, :, None] == segments_BS[:, None, :]
    return jnp.max(jnp.where(same_BTS, positions_BS[:, None, :], 0), axis=-1) + 1
