"""Experts: E MLPs in stacked kernels, and how tokens get to them and back.

With a capacity (GShard, Lepikhin et al. 2020, arXiv:2006.16668) a token takes a place
of an expert, and the array [B, E, C, D] of places moves from "rows here" to "experts
here", for which XLA inserts the all-to-all. Without one (MegaBlocks, Gale et al. 2022,
arXiv:2211.15841) each device sorts its own tokens by expert and sends them.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from llmjax.config import (
    Capacity,
    LayoutConfig,
    Mixture,
    ModelConfig,
    Plain,
    Quantization,
)
from llmjax.models import quantized
from llmjax.models.layers import Projection, activated, compute_dtype, residual_std
from llmjax.models.remat import named
from llmjax.parallel.axes import partition_spec, shards
from llmjax.parallel.exchange import pick, send, send_back, take
from llmjax.parallel.manual import free_axes, on_devices

TOKENS = ("act_B", "act_T")
WHOLE = ("act_B", None, None)  # rows of all tokens, or of all places
ROWS_HERE = ("act_B", None, "act_C", None)  # of [B, E, C, D]
EXPERTS_HERE = ("act_B_E", "act_E", "act_C", None)


class Experts(nn.Module):
    """[B, T, D] -> [B, T, D]: the weighted sum of each token's k experts."""

    cfg: ModelConfig
    layout: LayoutConfig
    mlp: Mixture

    @nn.compact
    def __call__(
        self,
        x_BTD: jax.Array,
        chosen_BTk: jax.Array,
        weight_BTk: jax.Array,
        real_BT: jax.Array,
    ) -> jax.Array:
        cfg, mlp, how = self.cfg, self.mlp, self.layout.quantization
        dtype = compute_dtype(self.layout)
        bias = cfg.biases in ("all", "mlp")

        def stack(name, sizes, axes, std):
            shape = (mlp.num_experts, *sizes)
            return ExpertKernels(shape, ("E", *axes), std, bias, dtype, name=name)()

        D, F = cfg.d_model, mlp.d_ff
        names = ("up",) if isinstance(mlp.expert, Plain) else ("gate", "up")
        kernels = {n: stack(n, (D, F), ("D", "F"), cfg.init_std) for n in names}
        kernels["down"] = stack("down", (F, D), ("F", "D"), residual_std(cfg))
        x_BTD = x_BTD.astype(dtype)
        if isinstance(mlp.dispatch, Capacity):
            return with_capacity(
                mlp, how, kernels, x_BTD, chosen_BTk, weight_BTk, real_BT
            )
        return dropless(mlp, how, kernels, x_BTD, chosen_BTk, weight_BTk)


Kernel = tuple[jax.Array, jax.Array | None]  # [E, in, out] and bias [E, out]
Kernels = dict[str, Kernel]


class ExpertKernels(nn.Module):
    """One kernel [E, in, out] and bias [E, out] of all experts, as multiplied."""

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    std: float
    bias: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self) -> Kernel:
        scope: Any = self.scope
        kernel = Projection(
            "BECI,EIO->BECO",
            self.shape,
            self.axes,
            self.std,
            dtype=self.dtype,
            parent=scope,
        )()
        if not self.bias:
            return kernel, None
        zeros = nn.with_logical_partitioning(
            nn.initializers.zeros, bias_axes(self.axes)
        )
        bias: Any = self.param("bias", zeros, (self.shape[0], self.shape[2]))
        return kernel, bias.astype(self.dtype)


def bias_axes(axes: tuple[str, ...]) -> tuple[str, ...]:
    """Logical axes of a bias, from the three of its kernel."""
    return (axes[0], "D_vector" if axes[2] == "D" else axes[2])


# --- with a capacity -----------------------------------------------------------------


def with_capacity(
    mlp: Mixture,
    how: Quantization,
    kernels: Kernels,
    x_BTD: jax.Array,
    chosen_BTk: jax.Array,
    weight_BTk: jax.Array,
    real_BT: jax.Array,
) -> jax.Array:
    """Each expert has C places per row; who finds none goes without."""
    assert isinstance(mlp.dispatch, Capacity)
    (B, T, D), E, k = x_BTD.shape, mlp.num_experts, mlp.top_k
    C = max(1, math.ceil(mlp.dispatch.factor * T * k) // E)
    index = places(chosen_BTk, real_BT, E, C)
    place_BX, choice_BP = (nn.with_logical_constraint(i, WHOLE[:2]) for i in index)

    def picked(x_BYD, there_BZ, back_BY, copies=1):
        x_BYD = nn.with_logical_constraint(x_BYD, WHOLE)
        of_row = functools.partial(pick, copies=copies)
        x_BZD = jax.vmap(of_row)(x_BYD, (there_BZ, back_BY))
        return nn.with_logical_constraint(x_BZD, WHOLE)

    def project(name, x_BECI, axes=EXPERTS_HERE):
        kernel_EIO, bias_EO = kernels[name]
        y_BECO = quantized.einsum(how, "BECI,EIO->BECO", x_BECI, kernel_EIO)
        y_BECO = y_BECO if bias_EO is None else y_BECO + bias_EO[:, None]
        return named(nn.with_logical_constraint(y_BECO, axes), name)

    x_BPD = picked(x_BTD, choice_BP, place_BX, k)
    x_BECD = nn.with_logical_constraint(x_BPD.reshape(B, E, C, D), ROWS_HERE)
    x_BECD = nn.with_logical_constraint(x_BECD, EXPERTS_HERE)
    inside = (*EXPERTS_HERE[:3], "act_F")
    h_BECF = activated(mlp.expert, lambda name: project(name, x_BECD, inside))
    y_BECD = nn.with_logical_constraint(project("down", h_BECF), ROWS_HERE)
    y_BXD = picked(y_BECD.reshape(B, E * C, D), place_BX, choice_BP)
    return jnp.einsum("BTkD,BTk->BTD", y_BXD.reshape(B, T, k, D), weight_BTk)


def places(
    chosen_BTk: jax.Array, real_BT: jax.Array, num_experts: int, capacity: int
) -> tuple[jax.Array, jax.Array]:
    """The place that each choice takes, and the choice in each place.

    First choices come before second ones, earlier tokens before later ones. Choice
    t * k + j is token t's j-th, place e * C + c expert e's c-th.

    Returns:
      place_BX [B, T * k], E * C for none, and choice_BP [B, E * C], T * k for none.
    """
    B, T, k = chosen_BTk.shape
    X, P = T * k, num_experts * capacity
    wants = jax.nn.one_hot(chosen_BTk, num_experts, dtype=jnp.int32)
    wants = wants * real_BT[..., None, None]
    by_choice = jnp.swapaxes(wants, 1, 2).reshape(B, k * T, num_experts)
    before = jnp.cumsum(by_choice, axis=1) - by_choice
    before = jnp.swapaxes(before.reshape(B, k, T, num_experts), 1, 2)
    rank_BTk = jnp.sum(before * wants, axis=-1)
    here = real_BT[..., None] & (rank_BTk < capacity)
    place_BTk = jnp.where(here, chosen_BTk * capacity + rank_BTk, P)
    place_BX = place_BTk.reshape(B, X)
    none_P, choice_X = jnp.full(P, X), jnp.arange(X)

    def taken_by(place_X):
        return none_P.at[place_X].set(choice_X, mode="drop")

    return place_BX, jax.vmap(taken_by)(place_BX)


# --- dropless ------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Manual:
    """The mesh axes over which a mixture's kernels lie by hand; () where over none.

    Attributes:
      experts: over which E is: tokens are sent.
      model: over which D is: kernels are gathered.
      hidden: over which F is: results are summed.
    """

    experts: tuple[str, ...] = ()
    model: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()


def dropless(
    mlp: Mixture,
    how: Quantization,
    kernels: Kernels,
    x_BTD: jax.Array,
    chosen_BTk: jax.Array,
    weight_BTk: jax.Array,
) -> jax.Array:
    """Every token through each of its experts, wherever they are.

    On a mesh each device sorts its own n tokens. Over e devices of the experts' axis
    they are sent there and back, into room for the worst case: e * n * min(k, E / e)
    rows of D, and of F inside, for the one device whose experts all tokens choose.
    """
    mesh = jax.sharding.get_abstract_mesh()
    tokens = partition_spec(TOKENS, "tokens of a mixture")
    spread = math.prod(mesh.shape[axis] for axis in free_axes()) > 1 and all(
        size % shards(entry, mesh) == 0
        for size, entry in zip(x_BTD.shape, tokens, strict=False)
    )
    if not spread:
        alone = Manual()
        return _dropless(mlp, how, alone, kernels, x_BTD, chosen_BTk, weight_BTk)[0]
    E, D, F = partition_spec(("E", "D", "F"), "kernels of a mixture")
    manual = Manual(*(_names(entry, mesh) for entry in (E, D, F)))

    def spec(name, kernel):
        axes = ("E", "F", "D") if name == "down" else ("E", "D", "F")
        of_bias = None if kernel[1] is None else bias_axes(axes)
        return tuple(a and partition_spec(a, name) for a in (axes, of_bias))

    specs = {name: spec(name, kernel) for name, kernel in kernels.items()}
    body = on_devices(
        functools.partial(_dropless, mlp, how, manual),
        in_specs=(specs, tokens, tokens, tokens),
        out_specs=PartitionSpec(F, *tokens),
    )
    y_tBTD = body(kernels, x_BTD, chosen_BTk, weight_BTk)
    return jnp.sum(y_tBTD, axis=0)  # over devices, and without an exchange backward


def _names(entry: Any, mesh: Any) -> tuple[str, ...]:
    """The axes of more than one device in a part of a PartitionSpec, flat."""
    names = jax.tree.leaves(entry)
    return tuple(name for name in names if mesh.shape[name] > 1)


def _dropless(
    mlp: Mixture,
    how: Quantization,
    manual: Manual,
    kernels: Kernels,
    x_BTD: jax.Array,
    chosen_BTk: jax.Array,
    weight_BTk: jax.Array,
) -> jax.Array:
    """[1, B, T, D]: `dropless` of one device's tokens, by its part of F."""
    k, D = chosen_BTk.shape[-1], x_BTD.shape[-1]
    chosen_X = chosen_BTk.reshape(-1)
    order_X = jnp.argsort(chosen_X)
    index = (order_X, _inverse(order_X))
    sizes_E = jnp.bincount(chosen_X, length=mlp.num_experts)
    x_XD = take(x_BTD.reshape(-1, D), index, k)
    kernels = _gather_model_axis(kernels, manual)
    apply = functools.partial(_experts, mlp, how, kernels, manual)
    if manual.experts:
        (axis,) = manual.experts
        y_XD = _sent(apply, x_XD, sizes_E, x_BTD.size // D, k, axis)
    else:
        y_XD = apply(x_XD, sizes_E)
    y_XD = take(y_XD, index[::-1])
    y_BTkD = y_XD.reshape(*chosen_BTk.shape, D)
    return jnp.einsum("BTkD,BTk->BTD", y_BTkD, weight_BTk)[None]


def _sent(
    apply: Callable[[jax.Array, jax.Array], jax.Array],
    x_XD: jax.Array,
    sizes_E: jax.Array,
    tokens: int,
    top_k: int,
    axis: str,
) -> jax.Array:
    """`apply` by the devices of `axis`, of which each has E / e experts."""
    e = jax.lax.axis_size(axis)
    sends_ee = sizes_E.reshape(e, -1)  # device, its experts
    gets_ee = jax.lax.all_to_all(sends_ee, axis, 0, 0, tiled=True)
    counts = (sends_ee.sum(axis=1), gets_ee.sum(axis=1))
    limit = tokens * min(top_k, sends_ee.shape[1])  # a token's experts all differ
    x_RD = send(x_XD, counts, limit, axis)
    # what came is sorted by sender and then by expert; now by expert alone
    expert_el = jax.vmap(
        functools.partial(jnp.searchsorted, side="right"), in_axes=(0, None)
    )(jnp.cumsum(gets_ee, axis=1), jnp.arange(limit))
    order_R = jnp.argsort(expert_el.reshape(-1))
    index = (order_R, _inverse(order_R))
    y_RD = apply(take(x_RD, index), gets_ee.sum(axis=0))
    return send_back(take(y_RD, index[::-1]), counts, len(x_XD), axis)


def _experts(
    mlp: Mixture,
    how: Quantization,
    kernels: Kernels,
    manual: Manual,
    x_RD: jax.Array,
    sizes_E: jax.Array,
) -> jax.Array:
    """Rows sorted by expert; those after the last expert's give 0."""
    R, E = len(x_RD), len(sizes_E)
    real_R1 = (jnp.arange(R) < jnp.sum(sizes_E))[:, None]
    expert_R = jnp.repeat(jnp.arange(E), sizes_E, total_repeat_length=R)

    def project(name, x_RI):
        kernel_EIO, bias_EO = kernels[name]
        y_RO = quantized.ragged_dot(how, x_RI, kernel_EIO, sizes_E.astype(jnp.int32))
        if bias_EO is not None:
            if name == "down" and manual.hidden:  # summed over: only one adds it
                bias_EO = bias_EO * (jax.lax.axis_index(manual.hidden) == 0)
            y_RO += bias_EO[expert_R]
        return named(jnp.where(real_R1, y_RO, 0) if manual.experts else y_RO, name)

    return project("down", activated(mlp.expert, lambda name: project(name, x_RD)))


def _gather_model_axis(kernels: Kernels, manual: Manual) -> Kernels:
    """Kernels with all of D; their gradient is reduced and scattered."""
    if not manual.model:
        return kernels

    def gathered(name, kernel, bias):
        axis = 2 if name == "down" else 1
        return jax.lax.all_gather(kernel, manual.model, axis=axis, tiled=True), bias

    return {name: gathered(name, *kernel) for name, kernel in kernels.items()}


def _inverse(order_X: jax.Array) -> jax.Array:
    """The inverse of a permutation: the place to which each row moved."""
    at_X = jnp.arange(len(order_X), dtype=order_X.dtype)
    return jnp.zeros_like(order_X).at[order_X].set(at_X, unique_indices=True)
