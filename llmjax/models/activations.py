"""Named activations of a model's layers, which it computes only for who asks for them.

A name is a Linen collection: a module records a value under it where the collection is
mutable, and stacks carry it through their scans. Else nothing is recorded and the
program is the same as without this file.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

NAMES = {  # name -> meaning
    "hidden_states": "the input of each layer, and last the stack's output",
    "attentions": "attention probabilities of each layer",
    "attention_outputs": "vectors that attention adds to the states",
    "middle_states": "states between a layer's attention and its MLP",
    "mlp_outputs": "vectors that the MLP adds to the states",
    "router_logits": "logits of the experts, of layers that are mixtures",
}


def recording(module: nn.Module, *names: str) -> bool:
    """Whether any of the names, by default of all, is asked for."""
    return not module.is_initializing() and any(
        module.is_mutable_collection(name) for name in names or NAMES
    )


def record(
    module: nn.Module,
    name: str,
    value: jax.Array | Callable[[], jax.Array],
    place: str = "recorded",
) -> None:
    """Records a value under one of `NAMES`, if that is asked for.

    Args:
      module: that the value belongs to.
      name: of `NAMES`.
      value: an array, or a function that computes it.
      place: tells values of one module apart.
    """
    assert name in NAMES
    if recording(module, name):
        value = value() if callable(value) else value
        module.sow(name, place, value, reduce_fn=lambda _, new: new, init_fn=tuple)


def activations(
    model: Any,
    variables: Mapping[str, Any],
    batch: Mapping[str, Any],
    names: Sequence[str] = ("hidden_states", "attentions"),
) -> dict[str, jax.Array]:
    """The activations of all layers for a batch, the layers stacked in their order.

    They are those of transformers by the same names, without dropout:

      hidden_states: [L + 1, B, T, D], the input of each layer, and last the stack's
        output, after the final norm where there is one.
      attentions: [L, B, N, T, S], float32; each row of keys sums to 1, but for a sink's
        share. They are computed by einsum from the layer's own queries and keys,
        whichever implementation `layout.attention` has: fused kernels (splash, cuDNN)
        never form them. The states are still those of that implementation.

    Further names:

      attention_outputs, mlp_outputs: [L, B, T, D], the vectors that a layer adds to
        the states (after the norm of the branch, where it has one).
      middle_states: [L, B, T, D], the states between attention and MLP; models whose
        MLP runs beside the attention have none.
      router_logits: [M, B, T, E], of the M layers that are mixtures.

    Names of an encoder-decoder begin with `encoder_` or `decoder_`; those of its
    attention to the encoder with `cross_`, and are part of `attentions` and
    `attention_outputs`. With two streams (XLNet) T is twice as long, content before
    queries. Values at padding have no meaning.

    It traces the model anew at each call; for many batches jit it. A model whose
    layers are the stages of a pipeline computes all of them on each device, as in
    decoding.

    Args:
      model: of `llmjax.models`, or a wrapper with the same `apply`.
      variables: {"params": weights}; see `llmjax.models.forward.variables`.
      batch: as the model takes it.
      names: of `NAMES`.

    Raises:
      ValueError: a name is unknown, or the model has no such activations.
    """
    names = (names,) if isinstance(names, str) else tuple(names)
    for name in names:
        if name not in NAMES:
            raise ValueError(f"no activations {name!r}; accepted: {', '.join(NAMES)}")
    batch = {key: jnp.asarray(value) for key, value in batch.items()}
    _, recorded = model.apply(variables, batch, mutable=list(names))
    out: dict[str, jax.Array] = {}
    for name in names:
        tree = recorded.get(name, {})
        tree = tree.get("transformer", tree)
        stacks = {key: tree[key] for key in ("encoder", "stack") if key in tree}
        if not stacks:
            raise ValueError(
                f"the model has no {name} ({NAMES[name]}) for this batch; ask for "
                f"others of {', '.join(NAMES)}"
            )
        for key, stack in stacks.items():
            before = {"encoder": "encoder_", "stack": "decoder_"}[key]
            out |= _of_stack(name, stack, before if _has_encoder(recorded) else "")
    return out


def _has_encoder(recorded: Mapping[str, Any]) -> bool:
    return any("encoder" in path[:3] for path in flatten_dict(dict(recorded)))


def _of_stack(name: str, stack: Mapping[str, Any], before: str) -> dict[str, jax.Array]:
    """The values of one stack's layers in their order, by name: [L, ...]."""
    values: dict[str, list[jax.Array]] = {}
    for kinds in _groups(stack):
        for kind, patterns in kinds.items():
            key = f"cross_{name}" if kind == "cross" else f"{before}{name}"
            value = jnp.stack(patterns, axis=1)  # [repeats, pattern, ...]
            values.setdefault(key, []).append(value.reshape(-1, *value.shape[2:]))
    if "recorded" in stack:  # the stack's output; of several heads' the first
        (key,) = values
        last, like = stack["recorded"], values[key][0][0]
        values[key].append((last if last.ndim == like.ndim else last[:, :, 0])[None])
    return {key: jnp.concatenate(parts) for key, parts in values.items()}


def _groups(stack: Mapping[str, Any]) -> Iterator[dict[str, list[jax.Array]]]:
    """Yields each group's values [repeats, ...] per layer of its pattern, by kind."""
    for group in _numbered(stack, "group"):
        kinds: dict[str, list[jax.Array]] = {}
        for layer in _numbered(group, "layer"):
            for path, value in flatten_dict(dict(layer)).items():
                kind = "cross" if any("cross" in key for key in path) else "own"
                kinds.setdefault(kind, []).append(value)
        yield kinds


def _numbered(tree: Mapping[str, Any], name: str) -> list[Any]:
    """Values at `name`_0, `name`_1, … that the tree has, in that order."""
    keys = [key for key in tree if re.fullmatch(rf"{name}_\d+", key)]
    return [tree[key] for key in sorted(keys, key=lambda k: int(k.split("_")[1]))]
