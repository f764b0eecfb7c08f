"""Models that no file had, saved by us and read by transformers.

A family says a model by config.json. Whether the class of transformers reads what it
says is seen here alone: every family's tiny models are changed in one field of our
config, and those that the family takes must give transformers the same logits. The live
comparison draws one change of each variant; all of them, which takes an hour, are

    python -m tests.parity.saved [llama phi3 ...]
"""

import dataclasses
import json
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from llmjax import config as c
from llmjax.config import ModelConfig
from llmjax.hub.families import patterns
from llmjax.hub.load import abstract, load
from llmjax.hub.origin import Origin
from llmjax.hub.save import classification, find_family, save
from tests.parity import draws, ours, reference
from tests.parity.compare import TOLERANCE, Error, blank, distance
from tests.parity.families import variants
from tests.parity.shapes import Shapes, Variant

LONG = 256  # originals long enough that a ramp lies within a head's few frequencies
ROTARY: dict[str, dict[str, Any]] = {
    "fraction": {"fraction": 0.5},
    "theta": {"theta": 5e3},
    "interleaved": {"interleaved": True},
    "linear": {"scaling": c.LinearScaling(3.0)},
    "dynamic": {"scaling": c.DynamicScaling(2.0, LONG)},
    "yarn": {"scaling": c.YaRN(4.0, LONG)},
    "mscale": {"scaling": c.YaRN(4.0, LONG, mscale=1.0, mscale_all_dim=0.7)},
    "llama3": {"scaling": c.Llama3Scaling(8.0, 1.0, 4.0, LONG)},
    "part-linear": {"fraction": 0.5, "scaling": c.LinearScaling(3.0)},
}


def changes(cfg: ModelConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """A name and the fields that change, for one change after the other."""
    old = cfg.positions if isinstance(cfg.positions, c.Rotary) else c.Rotary()
    for name, fields in ROTARY.items():
        yield name, {"positions": dataclasses.replace(old, **fields)}
    factors = tuple(1.0 + 0.3 * i for i in range(cfg.rotary_dim(old) // 2))
    long = c.LongRope(factors, factors[::-1], LONG, 1.1)
    yield "longrope", {"positions": dataclasses.replace(old, scaling=long)}
    yield "learned", {"positions": c.Learned(64)}
    yield "sinusoids", {"positions": c.Sinusoidal()}
    yield "alibi", {"positions": c.Alibi()}
    yield "no-positions", {"positions": c.NoPositions()}
    norms: dict[str, Any] = {
        "epsilon": dataclasses.replace(cfg.norm, epsilon=0.03),
        "layer": c.LayerNorm(1e-3),
        "layer-unbiased": c.LayerNorm(1e-3, bias=False),
        "rms": c.RMSNorm(1e-3),
        "rms-one": c.RMSNorm(1e-3, offset=1.0),
    }
    for name, norm in norms.items():
        yield f"norm-{name}", {"norm": norm}
    for activation in ("gelu", "gelu_tanh", "relu", "silu", "relu_squared"):
        for kind in (c.Plain, c.Gated):
            yield f"{kind.kind}-{activation}", {"mlp": kind(activation)}
    if isinstance(cfg.output, c.Transformed):
        output = dataclasses.replace(cfg.output, activation="relu")
        yield "head-relu", {"output": output}
    choices: dict[str, tuple[Any, ...]] = {
        "biases": ("none", "all", "qkv", "attention", "mlp"),
        "norm_position": ("pre", "post", "both", "output"),
        "residual": ("sequential", "parallel"),
        "qk_norm": ("none", "head", "all"),
        "softcap": (None, 2.0),
        "output_softcap": (None, 3.0),
        "sinks": (False, True),
        "scores": (c.ScaledDot(0.3), c.ScaledDot(), c.Dot()),
        "embedding_scale": (1.0, cfg.d_model**0.5, 2.0),
        "embedding_norm": (False, True),
        "embedding_size": (None, cfg.d_model, 10),
        "token_types": (0, cfg.token_types + 1),
        "tie_embeddings": (False, True),
        "output_bias": (False, True),
        "output_scale": (1.0, cfg.d_model**-0.5),
        "num_kv_heads": (None, 1),
        "head_dim": (cfg.H + 2,),
        "d_ff": (31,),
    }
    for field, values in choices.items():
        for value in values:
            if value != getattr(cfg, field):
                yield f"{field}-{str(value)[:24]}", {field: value}
    local, plain = c.LayerSpec(c.SlidingWindow(3)), c.LayerSpec()
    layers = patterns.layers(cfg.layers)
    kinds = {"local": [local] * 2, "alternating": [local, plain, plain]}
    kinds["unnormed"] = [dataclasses.replace(s, attention_norm=False) for s in layers]
    kinds["wide"] = [dataclasses.replace(s, d_ff=21) for s in layers]
    for name, specs in kinds.items():
        yield f"layers-{name}", {"groups": patterns.groups(specs)}
    yield "shared", {"groups": (c.Group(3, shared=True),)}


def accepted(model: Any, family: str) -> Iterator[tuple[str, Any]]:
    """The changed configs that the family takes."""
    head, way = type(model).__name__, classification(model)
    for name, fields in changes(model.cfg):
        try:
            changed = dataclasses.replace(model.cfg, **fields)
            find_family(changed, head, family, classification=way)
        except (ValueError, ZeroDivisionError):
            continue
        yield name, changed


def drawn(model: Any, seed: int, norms: float) -> Any:
    """Parameters of the sizes that `draws.weight` gives them."""
    rng, leaves = np.random.default_rng(seed), {}
    for path, shape in abstract(model)[0].items():
        scale, kernel = path.endswith("scale"), len(shape) > 2 or "table" in path
        std = float(np.prod(shape[-3:])) ** -0.25 if kernel else 0.3
        leaf = norms * scale + std * rng.standard_normal(shape)
        leaves[path] = leaf.astype(np.float32)
    return traverse_util.unflatten_dict(leaves, sep="/")


def check(
    variant: Variant, shapes: Shapes, seed: int, count: int | None = None
) -> dict[str, Error]:
    """The errors of a variant's changed models, `count` of them at random."""
    errors: dict[str, Error] = {}
    inputs = draws.inputs(variant, shapes, seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "theirs")
        folder.mkdir()
        reference.write(variant, folder, seed)
        model, _ = load(folder)
        # a decoder's classifier looks for the padding's id
        pad = {"pad_token_id": variant.config.get("pad_token_id")}
        padding = Origin(config=json.dumps(pad)) if classification(model) else None
        every = list(accepted(model, variant.family))
        if count is not None:
            every = random.Random(seed).sample(every, min(count, len(every)))
        for change, cfg in every:
            errors[change] = compared(
                model.clone(cfg=cfg, origin=padding),
                variant,
                inputs,
                seed,
                Path(name, change),
            )
            jax.clear_caches()
    return errors


def compared(
    model: Any, variant: Variant, inputs: draws.Inputs, seed: int, folder: Path
) -> Error:
    """The error of transformers' outputs from a model as we saved it."""
    params = drawn(model, seed, draws.norms_around(variant.name))
    save(model, params, folder, family=variant.family)
    try:
        theirs = reference.load(variant, folder)
        logits, hidden, _ = reference.outputs(variant, theirs, inputs)
    except Exception as e:  # any failure of theirs is a model that they can't read
        return Error(float("inf"), f"transformers: {e!s:.120}", TOLERANCE)
    batch = ours.batch_of(inputs)
    own_logits, own_hidden, _ = ours.forward(model, params, batch)
    value, expected = own_logits, logits
    if logits is None:
        value, expected = own_hidden, hidden
    blanked = blank(np.asarray(value), inputs.segment_ids)
    return Error(distance(blanked, expected), "logits", TOLERANCE)


def main(families: list[str]) -> int:
    """All changes of the first variant of each family; how many are off."""
    shapes, seen, wrong = Shapes.draw(0), set[str](), 0
    for variant in variants(shapes):
        if variant.family in seen or (families and variant.family not in families):
            continue
        seen.add(variant.family)
        errors = check(variant, shapes, seed=3)
        off = {name: error for name, error in errors.items() if not error.fine}
        wrong += len(off)
        print(
            f"{variant.family}: {len(errors)} changes, off: {off or 'none'}", flush=True
        )
    return wrong


if __name__ == "__main__":
    sys.exit(min(1, main(sys.argv[1:])))
