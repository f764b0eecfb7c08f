"""Lookups in tables of vectors (embeddings) whose gradients are summed over tokens.

A table whose D lies on `fsdp` is gathered by each device once, in the compute type. Its
gradient is summed over a device's tokens in float32, then over devices once, in the
compute type, scattered to where its weights are updated. Left to itself XLA moves the
tokens' vectors instead, or sums over devices in float32.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import linear_call
from jax.sharding import PartitionSpec

from llmjax.parallel.axes import partition_spec, shards
from llmjax.parallel.manual import free_axes


@dataclasses.dataclass(frozen=True)
class LookupLayout:
    """How tokens [B, T] and a table [V, D] lie on the mesh.

    Attributes:
      axes: mesh axes that tokens are divided over.
      tokens: spec of an array of tokens over these axes.
      table: spec of a table over these axes: its D on `fsdp`, or replicated.
    """

    axes: tuple[str, ...]
    tokens: PartitionSpec
    table: PartitionSpec

    def on_devices(self, function: Any, in_specs: Any, out_specs: Any) -> Any:
        """`function` on each device's shards, as `jax.shard_map`."""
        return jax.shard_map(
            function,
            in_specs=in_specs,
            out_specs=out_specs,
            axis_names=set(self.axes),
            check_vma=False,  # functions sum over devices themselves
        )

    def sum_gradient(self, gradient_VD: jax.Array, dtype: Any) -> jax.Array:
        """The sum over devices of their gradients of the whole table, in `dtype`,
        sharded as `table`."""

        def add(gradient_VD):
            rest = self.axes
            if self.table:
                gradient_VD = jax.lax.psum_scatter(
                    gradient_VD, "fsdp", scatter_dimension=1, tiled=True
                )
                rest = tuple(axis for axis in rest if axis != "fsdp")
            return jax.lax.psum(gradient_VD, rest) if rest else gradient_VD

        return jax.lax.platform_dependent(
            gradient_VD,
            cpu=lambda g: add(g).astype(dtype),  # XLA aborts on sums of bfloat16 here
            # and for TPU fails to move sums out of a loop over microbatches
            default=lambda g: jax.lax.optimization_barrier(add(g.astype(dtype))),
        )


def lookup_layout(tokens_BT: jax.Array, width: int) -> LookupLayout | None:
    """The layout of a lookup of these tokens in a table of this width.

    None where one device has all tokens, or where they don't divide over the mesh as a
    batch does (a few prompts on many devices).
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return None
    free, parts = free_axes(), []
    for size, entry in zip(
        tokens_BT.shape, partition_spec(("act_B_L", "act_T"), "tokens"), strict=True
    ):
        names = (entry,) if isinstance(entry, str) else tuple(entry or ())
        names = tuple(n for n in names if n in free and mesh.shape[n] > 1)
        if size % shards(names, mesh):
            return None
        parts.append(names)
    axes = tuple(name for names in parts for name in names)
    if not axes:
        return None
    split = "fsdp" in axes and width % mesh.shape["fsdp"] == 0
    table = PartitionSpec(None, "fsdp") if split else PartitionSpec()
    return LookupLayout(axes, PartitionSpec(*(names or None for names in parts)), table)


def lookup(table_VD: jax.Array, tokens_BT: jax.Array, dtype: Any) -> jax.Array:
    """The table's vectors of these tokens, [B, T, D], rounded to `dtype`, and widened
    to at least float32."""
    table_VD = table_VD.astype(dtype)
    layout = lookup_layout(tokens_BT, table_VD.shape[1])
    if layout is None:
        return _wide(table_VD)[tokens_BT]

    def read(tokens_BT, table_VD):
        if layout.table:
            table_VD = jax.lax.all_gather(table_VD, "fsdp", axis=1, tiled=True)
        return _wide(table_VD[tokens_BT])

    def add(tokens_BT, dx_BTD):
        own_VD = jnp.zeros(table_VD.shape, dx_BTD.dtype).at[tokens_BT].add(dx_BTD)
        return layout.sum_gradient(own_VD, dtype)

    # not a custom_vjp: second-order optimizers differentiate forward too
    return linear_call(
        layout.on_devices(read, (layout.tokens, layout.table), layout.tokens),
        layout.on_devices(add, (layout.tokens, layout.tokens), layout.table),
        tokens_BT,
        table_VD,
    )


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
