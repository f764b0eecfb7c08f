"""The meaning of a `ModelConfig`, however it is spelled.

Layers may lie in one group or in several, a field of the model may be one that every
layer replaces, and a default may be said. `simplest` says a model with as few words as
it can, for a family's `to_hf`; `normal` gives configs of one meaning one form.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from llmjax.config import (
    Direct,
    Dropless,
    Group,
    Latent,
    LayerSpec,
    LinearScaling,
    Mixture,
    ModelConfig,
    NoPositions,
    NoScaling,
    Rotary,
    ScaledDot,
)
from llmjax.hub.families import patterns

# fields that only training reads
TRAINING: dict[str, Any] = {
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "layer_drop": 0.0,
    "init_std": 0.02,
}
OUTPUT: dict[str, Any] = {  # fields that a language model's head alone reads
    "output": Direct(),
    "tie_embeddings": True,
    "output_bias": False,
    "output_scale": 1.0,
    "output_softcap": None,
}


def simplest(cfg: ModelConfig) -> ModelConfig:
    """The same model and the same weights, with no layer replacing what all replace."""
    full = [_full(cfg, spec) for spec in patterns.layers(cfg.layers)]
    mlps = [spec.mlp for spec in full if spec.mlp is not None]
    widths = [spec.d_ff for spec in full if not isinstance(spec.mlp, Mixture)]
    positions = [spec.positions for spec in full]
    mixtures = [mlp for mlp in mlps if isinstance(mlp, Mixture)]
    common = dataclasses.replace(
        cfg,
        mlp=_common(cfg.mlp, mixtures or mlps),
        d_ff=_common(cfg.d_ff, [width for width in widths if width is not None]),
        positions=_common(cfg.positions, [p for p in positions if p is not None]),
    )

    def shorter(spec: LayerSpec) -> LayerSpec:
        full = _full(cfg, spec)
        return LayerSpec(
            full.pattern,
            None if full.mlp == common.mlp else full.mlp,
            None if full.d_ff in (None, common.d_ff) else full.d_ff,
            None if full.positions == common.positions else full.positions,
            full.attention_norm,
        )

    def groups(of: Sequence[Group]) -> tuple[Group, ...]:
        return tuple(
            dataclasses.replace(group, pattern=tuple(map(shorter, group.pattern)))
            for group in of
        )

    return dataclasses.replace(
        common, groups=groups(cfg.groups), encoder_groups=groups(cfg.encoder_groups)
    )


def _full(cfg: ModelConfig, spec: LayerSpec) -> LayerSpec:
    """A layer with every field said; a mixture has its width in itself."""
    mlp, d_ff = cfg.layer_mlp(spec)
    positions = spec.positions
    if positions is None and isinstance(cfg.positions, (Rotary, NoPositions)):
        positions = cfg.positions
    return dataclasses.replace(
        spec,
        mlp=mlp,
        d_ff=None if isinstance(mlp, Mixture) else d_ff,
        positions=positions,
    )


def _common(own: Any, values: Sequence[Any]) -> Any:
    """The model's own value where a layer has it, or else the last layer's."""
    return own if own in values or not values else values[-1]


def normal(cfg: ModelConfig, head: str) -> ModelConfig:
    """The form that all configs of this meaning share.

    Every layer is a group of its own and says all of its fields. Fields that neither
    the head nor inference reads have their defaults.
    """
    two_stacks = cfg.architecture == "encoder_decoder"
    layers = _layers(cfg, cfg.layers)
    fields: dict[str, Any] = {
        "num_layers": cfg.L,
        "groups": layers,
        "encoder_groups": _layers(cfg, cfg.encoder_layers) if two_stacks else (),
        "head_dim": cfg.H,
        "num_kv_heads": cfg.K,
        "d_ff": 1,  # each layer says its own
        "mlp": layers[-1].pattern[-1].mlp,
    }
    if isinstance(cfg.positions, (Rotary, NoPositions)):
        fields["positions"] = layers[-1].pattern[-1].positions
    if isinstance(cfg.scores, ScaledDot) and cfg.scores.scale is None:
        rotary = cfg.heads.rotary_dim if isinstance(cfg.heads, Latent) else 0
        fields["scores"] = ScaledDot((cfg.H + rotary) ** -0.5)
    if head != "Encoder":
        fields["pooler"] = False
    if head != "LanguageModel":
        fields |= OUTPUT
    return _without_training(dataclasses.replace(cfg, **fields, **TRAINING))


def _layers(cfg: ModelConfig, groups: Sequence[Group]) -> tuple[Group, ...]:
    """A group per layer; those that share their weights stay together."""
    separate: list[Group] = []
    for group in groups:
        pattern = tuple(_full(cfg, spec) for spec in group.pattern)
        if group.shared and group.repeat > 1:
            separate.append(dataclasses.replace(group, pattern=pattern))
        else:
            separate += [Group(1, (spec,)) for spec in pattern * group.repeat]
    return tuple(separate)


def _without_training(value: Any) -> Any:
    """The value with the defaults of what only training reads in its mixtures, and
    without scalings that scale by 1."""
    if value == LinearScaling(1.0):
        return NoScaling()
    if isinstance(value, tuple):
        return tuple(_without_training(v) for v in value)
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    fields = {
        f.name: _without_training(getattr(value, f.name))
        for f in dataclasses.fields(value)
    }
    if isinstance(value, Mixture):
        fields |= {"dispatch": Dropless(), "z_loss": 0.0}
        fields["balance"] = type(value.balance)()
    return dataclasses.replace(value, **fields)
