"""Tables of vectors, which all tokens read and all tokens' gradients meet in.

A table whose D lies on `fsdp` comes whole to each device, once, in the type that is
computed with; its gradient, gathered in float32 on each device, is summed over devices
once, in that type, and stays where its weights are updated. Left to itself XLA moves
the vectors of tokens instead, or sums in float32.
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
class Rows:
    """How tokens [B, T] and a table [V, D] lie on the mesh.

    Attributes:
      axes: those that tokens are divided over.
      tokens: of an array of tokens over these axes.
      table: of a table over these axes: its D on `fsdp`, or nowhere.
    """

    axes: tuple[str, ...]
    tokens: PartitionSpec
    table: PartitionSpec

    def apart(self, function: Any, in_specs: Any, out_specs: Any) -> Any:
        """`function` on each device's part."""
        return jax.shard_map(
            function,
            in_specs=in_specs,
            out_specs=out_specs,
            axis_names=set(self.axes),
            check_vma=False,  # sums and gradients are the function's own
        )

    def total(self, gradient_VD: jax.Array, dtype: Any) -> jax.Array:
        """The sum over devices of what each has made for a whole table, as `table`,
        added up in `dtype`."""

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


def divided(tokens_BT: jax.Array, width: int) -> Rows | None:
    """Of the entered mesh and a table of this width.

    None where all tokens are on one device, or can't be divided as a batch's are: a
    few prompts on many devices.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return None
    free, cut = free_axes(), []
    for size, entry in zip(
        tokens_BT.shape, partition_spec(("act_B_L", "act_T"), "tokens"), strict=True
    ):
        names = (entry,) if isinstance(entry, str) else tuple(entry or ())
        names = tuple(n for n in names if n in free and mesh.shape[n] > 1)
        if size % shards(names, mesh):
            return None
        cut.append(names)
    axes = tuple(name for names in cut for name in names)
    if not axes:
        return None
    split = "fsdp" in axes and width % mesh.shape["fsdp"] == 0
    table = PartitionSpec(None, "fsdp") if split else PartitionSpec()
    return Rows(axes, PartitionSpec(*(names or None for names in cut)), table)


def take(table_VD: jax.Array, tokens_BT: jax.Array, dtype: Any) -> jax.Array:
    """The rows [B, T, D] of a table, rounded to `dtype`, as at least float32."""
    table_VD = table_VD.astype(dtype)
    rows = divided(tokens_BT, table_VD.shape[1])
    if rows is None:
        return _wide(table_VD)[tokens_BT]

    def read(tokens_BT, table_VD):
        if rows.table:
            table_VD = jax.lax.all_gather(table_VD, "fsdp", axis=1, tiled=True)
        return _wide(table_VD[tokens_BT])

    def add(tokens_BT, dx_BTD):
        whole = jnp.zeros(table_VD.shape, dx_BTD.dtype).at[tokens_BT].add(dx_BTD)
        return rows.total(whole, dtype)

    # not a custom_vjp: second-order optimizers differentiate forward too
    return linear_call(
        rows.apart(read, (rows.tokens, rows.table), rows.tokens),
        rows.apart(add, (rows.tokens, rows.tokens), rows.table),
        tokens_BT,
        table_VD,
    )


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
