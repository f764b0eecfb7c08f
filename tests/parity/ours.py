"""Our side of every comparison, computed from a folder in the hub's format."""

import json
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import safe_open

from llmjax.hub import families
from llmjax.hub.save import to_hub
from llmjax.infer.generate import generate
from llmjax.infer.sampling import Sampling
from llmjax.models.activations import activations
from llmjax.models.heads.classifier import SequenceClassifier
from llmjax.models.heads.encoder import Encoder
from llmjax.models.heads.replaced_tokens import Discriminator
from llmjax.models.heads.token import TokenClassifier
from tests.parity import draws
from tests.parity.compare import Outputs, blank, blank_layers
from tests.parity.draws import NEW_TOKENS, Inputs


def batch_of(inputs: Inputs) -> dict[str, np.ndarray]:
    """The inputs as our models take them."""
    batch = {
        name: value
        for name, value in {
            "tokens": inputs.tokens,
            "segment_ids": inputs.segment_ids,
            "positions": inputs.positions,
            "token_types": inputs.token_types,
            "encoder_tokens": inputs.encoder_tokens,
            "encoder_segment_ids": inputs.encoder_segment_ids,
            "hidden_mask": inputs.hidden_mask,
        }.items()
        if value is not None
    }
    if inputs.encoder_tokens is not None:
        S = inputs.encoder_tokens.shape[1]
        batch["encoder_positions"] = np.tile(np.arange(S, dtype=np.int32), (3, 1))
    return batch


def run(folder: Path, model: Any, params: Any, inputs: Inputs, *, seed: int, decode):
    """`Outputs` of the model that was loaded from `folder`; gradients by the names
    there."""
    batch = batch_of(inputs)

    def total(params, batch):
        logits, hidden, pooled = values = forward(model, params, batch)
        sums = [
            jnp.sum(value * draws.cotangent(value.shape, inputs.segment_ids, seed))
            for value in (hidden if logits is None else logits, pooled)
            if value is not None
        ]
        return sum(sums), values

    grads, values = jax.jit(jax.grad(total, has_aux=True))(params, batch)
    arrays = [
        None if v is None else blank(np.asarray(v), inputs.segment_ids) for v in values
    ]
    return Outputs(
        *arrays,
        named(folder, model, grads),
        decoded(model, params, inputs) if decode else None,
    )


def forward(model: Any, params: Any, batch: Any) -> tuple[Any, Any, Any]:
    """Logits, last hidden states, pooled: None where the model has none."""
    output, captured = model.apply(
        {"params": params},
        batch,
        capture_intermediates=lambda module, method: module.path == ("transformer",),
        mutable=["intermediates"],
    )
    hidden = captured["intermediates"]["transformer"]["__call__"][0][0]
    if isinstance(model, Encoder):
        return None, hidden, output[1]
    if isinstance(model, (Discriminator, SequenceClassifier, TokenClassifier)):
        return output, hidden, None
    return output[0], hidden, None


def layers(model: Any, params: Any, inputs: Inputs) -> dict[str, np.ndarray]:
    """Hidden states and attention maps of all layers, 0 at padding."""
    run = jax.jit(lambda params, batch: activations(model, {"params": params}, batch))
    values = run(params, batch_of(inputs))
    arrays = {name: np.asarray(value) for name, value in values.items()}
    return blank_layers(arrays, inputs)


def decoded(model: Any, params: Any, inputs: Inputs) -> np.ndarray:
    """Greedy continuations of the prompts, [B, M]."""
    encoder_tokens = None
    if inputs.encoder_tokens is not None:
        pairs = zip(inputs.encoder_tokens, inputs.encoder_segment_ids, strict=True)
        encoder_tokens = [row[real > 0] for row, real in pairs]
    prompts = [list(p) for p in inputs.prompts]
    tokens = generate(
        model,
        params,
        prompts,
        max_new_tokens=NEW_TOKENS,
        sampling=Sampling(temperature=0.0),
        encoder_tokens=encoder_tokens,
    )
    return np.stack(tokens)


def named(folder: Path, model: Any, tree: Any) -> dict[str, np.ndarray]:
    """A tree like the parameters, by the names in the folder."""
    config = json.loads((folder / "config.json").read_text())
    family = families.family(config["model_type"])
    tensors = to_hub(family, model.cfg, tree, bare=isinstance(model, Encoder))
    with safe_open(folder / "model.safetensors", framework="numpy") as file:
        older = {name: name for name in file.keys()}  # noqa: SIM118
    for name in list(older):
        for pattern, new in family.table(model.cfg).renamed:
            older.setdefault(re.sub(pattern, new, name), name)
    return {older.get(name, name): value for name, value in tensors.items()}
