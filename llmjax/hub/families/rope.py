"""Rotary positions in config.json: `rope_parameters`, or before transformers 5
`rope_theta`, `rope_scaling` and `partial_rotary_factor`."""

import dataclasses
import math
from typing import Any

from llmjax.config import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongRope,
    NoScaling,
    Rotary,
    YaRN,
)

Scaling = NoScaling | LinearScaling | DynamicScaling | YaRN | Llama3Scaling | LongRope


def to_config(hf: dict[str, Any], theta: float = 10_000.0) -> Rotary:
    """The positions of a config.json with the same ones in all layers."""
    return rotary(parameters(hf, theta), hf.get("max_position_embeddings"))


def whole(positions: Rotary) -> Rotary:
    """The positions of a class of transformers that turns whole heads.

    Most do, whatever `partial_rotary_factor` says: Llama's and all those after it. With
    scaled frequencies they fail.

    Raises:
      ValueError: a part of each head with scaled frequencies.
    """
    if positions.fraction != 1 and not isinstance(positions.scaling, NoScaling):
        raise ValueError(
            f"partial_rotary_factor is {positions.fraction} with the rope_type "
            f"{positions.scaling.kind!r}, and this family turns whole heads; accepted: "
            "1.0"
        )
    return dataclasses.replace(positions, fraction=1.0)


def parameters(hf: dict[str, Any], theta: float = 10_000.0) -> dict[str, Any]:
    """`rope_parameters` as transformers 5 writes them, from either spelling.

    Of both, `rope_scaling` counts, as there.
    """
    scaling = hf.get("rope_scaling") or hf.get("rope_parameters") or {}
    above = {
        "rope_theta": hf.get("rope_theta", theta),
        "partial_rotary_factor": hf.get("partial_rotary_factor", 1.0),
        "rope_type": scaling.get("type", "default"),
    }
    return above | {k: v for k, v in scaling.items() if v is not None}


def rotary(rope: dict[str, Any], longest: int | None) -> Rotary:
    """The positions of one `rope_parameters`.

    Args:
      rope: the `rope_parameters`.
      longest: max_position_embeddings.

    Raises:
      ValueError: an unknown `rope_type`, or no length where one is needed.
    """
    theta, fraction = rope["rope_theta"], rope.get("partial_rotary_factor", 1.0)
    return Rotary(float(theta), float(fraction), scaling=_scaling(rope, longest))


def _scaling(rope: dict[str, Any], longest: int | None) -> Scaling:
    kind = rope.get("rope_type", "default")
    if kind in ("default", "none"):
        return NoScaling()
    if kind == "linear":
        return LinearScaling(float(rope["factor"]))
    original = rope.get("original_max_position_embeddings") or longest
    longest = longest or original
    if original is None or longest is None:
        raise ValueError(
            f"rope_type is {kind!r} and max_position_embeddings is missing, which its "
            "frequencies depend on"
        )
    if kind == "dynamic":
        return DynamicScaling(float(rope["factor"]), longest)
    factor = float(rope.get("factor", longest / original))
    if kind == "yarn":
        names = ("attention_factor", "mscale", "mscale_all_dim", "truncate")
        optional = {k: rope[k] for k in names if k in rope}
        fast, slow = rope.get("beta_fast", 32), rope.get("beta_slow", 1)
        return YaRN(factor, original, float(fast), float(slow), **optional)
    if kind == "llama3":
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        return Llama3Scaling(factor, float(low), float(high), original)
    if kind in ("longrope", "su"):
        attention = rope.get("attention_factor")
        if attention is None:
            # Ding et al. 2024, eq. 5, as transformers computes it
            grown = math.log(factor) / math.log(original) if factor > 1 else 0.0
            attention = math.sqrt(1 + grown)
        short, long = tuple(rope["short_factor"]), tuple(rope["long_factor"])
        return LongRope(short, long, original, attention)
    raise ValueError(
        f"rope_type is {kind!r}; accepted: default, linear, dynamic, yarn, llama3, "
        "longrope"
    )


def whole_to_hf(positions: Rotary) -> dict[str, Any]:
    """`to_hf` for a class of transformers that turns whole heads; see `whole`.

    Raises:
      ValueError: positions that turn a part of each head.
    """
    if positions.fraction != 1:
        raise ValueError(
            f"positions.fraction is {positions.fraction}; accepted: 1.0, because the "
            "class of this family turns whole heads"
        )
    return to_hf(positions)


def to_hf(positions: Rotary) -> dict[str, Any]:
    """`rope_parameters` and `max_position_embeddings`, which a Rotary does not bound.

    Raises:
      ValueError: interleaved pairs, which each family of the hub spells its own way.
    """
    if positions.interleaved:
        raise ValueError("positions.interleaved is True; this family turns halves")
    scaling = positions.scaling
    original = getattr(scaling, "original_length", 2048)
    longest = int(original * getattr(scaling, "factor", 1.0))
    if isinstance(scaling, DynamicScaling):
        longest = original
    rope = {"rope_theta": positions.theta} | _scaling_to_hf(scaling)
    if positions.fraction != 1:
        rope["partial_rotary_factor"] = positions.fraction
    return {"rope_parameters": rope, "max_position_embeddings": longest}


def _scaling_to_hf(scaling: Scaling) -> dict[str, Any]:
    if isinstance(scaling, NoScaling):
        return {"rope_type": "default"}
    if isinstance(scaling, LongRope):
        return {
            "rope_type": "longrope",
            "short_factor": list(scaling.short),
            "long_factor": list(scaling.long),
            "attention_factor": scaling.attention_factor,
            "original_max_position_embeddings": scaling.original_length,
        }
    rope: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if isinstance(scaling, (YaRN, Llama3Scaling)):
        rope["original_max_position_embeddings"] = scaling.original_length
    if isinstance(scaling, Llama3Scaling):
        rope["low_freq_factor"] = scaling.low_frequency
        rope["high_freq_factor"] = scaling.high_frequency
    if isinstance(scaling, YaRN):
        names = ["beta_fast", "beta_slow", "truncate", "attention_factor"]
        names += ["mscale", "mscale_all_dim"]
        rope |= {k: v for k in names if (v := getattr(scaling, k)) is not None}
    return rope
