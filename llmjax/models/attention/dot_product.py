"""`jax.nn.dot_product_attention`: cuDNN's fused kernel where there is one, else XLA."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from llmjax.models.attention.mask import Mask
from llmjax.models.attention.modifiers import UNMODIFIED, ScoreModifiers
from llmjax.parallel import mesh as mesh_lib

AMPERE = 8.0  # the first compute capability that cuDNN's kernel works on


def dot_product_attention(
    q_BTNH: Float[Array, "B T N H"],
    k_BSKH: Float[Array, "B S K H"],
    v_BSKH: Float[Array, "B S K H"],
    mask: Mask,
    modifiers: ScoreModifiers = UNMODIFIED,
    shards: int = 1,
) -> Float[Array, "B T N H"]:
    """softmax(q.k + bias) v, the scale in q already.

    Causality and a causal window by index are the kernel's own; any other mask
    (segments, a window to both sides) reaches it as [B, 1, T, S] booleans, which cost
    memory but no head's worth of scores. Where time runs with the index the kernel is
    told of causality too, and leaves out what lies after. Where it cannot (`fused`),
    XLA does the same maths.

    Args:
      q_BTNH, k_BSKH, v_BSKH, mask, modifiers: as in `implementations`.
      shards: into which a mesh cuts T.
    """
    T, S = q_BTNH.shape[1], k_BSKH.shape[1]
    kernel = fused(q_BTNH, k_BSKH, modifiers, shards)
    bias, settings = None, dict[str, Any]()
    if modifiers.bias is not None:
        bias = modifiers.bias(*mask.positions(T, S)).astype(q_BTNH.dtype)
    visible = None
    if _by_index(mask, T, S, kernel):
        settings["is_causal"] = mask.causal
        if mask.window is not None:
            after = 0 if mask.causal else mask.window - 1
            settings["local_window_size"] = mask.window - 1, after
    else:
        visible = mask.dense(T, S)
        settings["is_causal"] = kernel and _runs_with_index(mask, T, S)
    o_BTNH = jax.nn.dot_product_attention(
        q_BTNH,
        k_BSKH,
        v_BSKH,
        bias,
        None if visible is None else visible[:, None],
        scale=1.0,
        implementation="cudnn" if kernel else "xla",
        **settings,
    )
    if mask.hidden_BTS is not None and visible is not None:  # some may see nothing
        o_BTNH = o_BTNH * jnp.any(visible, axis=-1)[:, :, None, None]
    return o_BTNH


def fused(
    q_BTNH: jax.Array, k_BSKH: jax.Array, modifiers: ScoreModifiers, shards: int = 1
) -> bool:
    """Whether cuDNN's kernel takes these on the devices that it is traced for.

    It wants 16 bits, heads of a multiple of 8 up to 128, even lengths for a mask's
    gradient to pass, and whole rows; a bias is left to XLA.
    """
    H = q_BTNH.shape[-1]
    return (
        _compute_capability() >= AMPERE
        and q_BTNH.dtype in (jnp.bfloat16, jnp.float16)
        and H % 8 == 0
        and H <= 128
        and q_BTNH.shape[1] % 2 == k_BSKH.shape[1] % 2 == 0
        and shards == 1
        and modifiers.bias is None
    )


def _by_index(mask: Mask, T: int, S: int, kernel: bool) -> bool:
    """Whether the mask follows from where queries and keys lie, and is the kernel's."""
    plain = mask.features() <= {"causal", "bidirectional", "window"}
    one_sided = mask.window is None or mask.causal or not kernel
    return plain and one_sided and T == S and mask.q_positions_BT is None


def _runs_with_index(mask: Mask, T: int, S: int) -> bool:
    """Whether no query sees a key that lies after it, packed or padded."""
    return mask.causal and T == S and mask.k_prefix_BS is None


def _compute_capability() -> float:
    """Compute capability of the NVIDIA GPUs that it is traced for; 0 of others."""
    device = mesh_lib.target()
    if "NVIDIA" not in device.device_kind:
        return 0.0
    return float(getattr(device, "compute_capability", 0))
