"""The variants of a layout's fields: remat, pipeline, context, attention, matmuls."""

from typing import Annotated, ClassVar, Literal

from llmjax.config.checks import (
    INT_MAX,
    Count,
    Range,
    Size,
    checked,
    require,
)

# --- what the backward pass keeps ----------------------------------------------------

# Activations of a layer that remat knows by name: the layer's input, its projections,
# the attention's result before ("context") and after ("out") its output projection,
# and those of the MLP.
Activations = Literal[
    "input", "query", "key", "value", "context", "out", "gate", "up", "down"
]


@checked
class NoRemat:
    """Keep every activation."""

    kind: ClassVar[str] = "none"


@checked
class FullRemat:
    """Keep the input of each layer, and compute everything else again."""

    kind: ClassVar[str] = "full"


@checked
class DotsRemat:
    """Keep the results of matmuls without batch dimensions, i.e. projections."""

    kind: ClassVar[str] = "dots"


@checked
class NamesRemat:
    """Keep these activations and each layer's input, on the device or in the host."""

    kind: ClassVar[str] = "names"
    saved: tuple[Activations, ...] = ()  # in the device's memory
    offloaded: tuple[Activations, ...] = ()  # in the host's

    def __post_init__(self):
        both = set(self.saved) & set(self.offloaded)
        require(
            not both,
            f"saved and offloaded both have {', '.join(sorted(both))}; "
            "remove it from one of them",
        )


Remat = NoRemat | FullRemat | DotsRemat | NamesRemat

# of the mesh, -1 for the devices that are left
Axis = Annotated[int, Range(1, INT_MAX, also=-1)]

# --- pipeline ------------------------------------------------------------------------


@checked
class Pipeline:
    """A circular pipeline over the mesh axis `pipeline`, of `stages` devices.

    With `recompute`, a stage keeps of each microbatch its input alone and computes
    itself again in the backward pass, before `layout.remat` says what its layers keep:
    many microbatches then take little memory, for one more forward pass. With `rounds`
    and without it, a stage's weights are kept too, for each microbatch and round.
    """

    stages: Axis = 1  # devices; -1 takes those that are left
    rounds: Size = 1  # times that a microbatch passes all devices
    microbatches: Size | None = None  # None: as many as stages
    recompute: bool = False


# --- attention over the mesh axis `sequence` -----------------------------------------


@checked
class Gather:
    """Each device gathers all keys and values, and keeps its own queries.

    `sequence_parallel` of any context: between attention and MLP, tokens lie over the
    mesh axis `tensor` too (Korthikanti et al. 2022, arXiv:2205.05198).
    """

    kind: ClassVar[str] = "gather"
    sequence_parallel: bool = False


@checked
class Ring:
    """Keys and values travel around (Liu et al. 2023, arXiv:2310.01889)."""

    kind: ClassVar[str] = "ring"
    sequence_parallel: bool = False


@checked
class Ulysses:
    """All-to-all, so that each device has whole rows of some heads, and back.

    DeepSpeed-Ulysses, Jacobs et al. 2023, arXiv:2309.14509.
    """

    kind: ClassVar[str] = "ulysses"
    sequence_parallel: bool = False


ContextParallelism = Gather | Ring | Ulysses

# --- how attention is computed -------------------------------------------------------


@checked
class EinsumAttention:
    """All scores at once; the reference for the others."""

    kind: ClassVar[str] = "einsum"


@checked
class BlockedAttention:
    """Blocks of queries, each against only the keys that it may see."""

    kind: ClassVar[str] = "blocked"
    block: Count = 128


@checked
class ChunkedAttention(BlockedAttention):
    """A block of queries at a time, computed again backward: memory linear in T."""

    kind: ClassVar[str] = "chunked"
    block: Count = 512


@checked
class DotProductAttention:
    """`jax.nn.dot_product_attention`: cuDNN's kernel on a GPU."""

    kind: ClassVar[str] = "dot_product"


@checked
class SplashAttention:
    """jax's Pallas kernel for TPU, in blocks of queries and keys."""

    kind: ClassVar[str] = "splash"
    block_q: Size = 512
    block_kv: Size = 512
    fused_backward: bool = False  # one kernel for all gradients, not two

    def __post_init__(self):
        for name in ("block_q", "block_kv"):
            size = getattr(self, name)
            require(
                size % 128 == 0,
                f"{name} is {size}; it must be a multiple of 128",
            )


@checked
class AutoAttention(SplashAttention):
    """The device's kernel: on a TPU "splash" in these blocks, on a GPU "dot_product".

    Elsewhere, and for what that cannot honour, "blocked" or else "einsum".
    """

    kind: ClassVar[str] = "auto"


Attention = (
    EinsumAttention
    | BlockedAttention
    | ChunkedAttention
    | DotProductAttention
    | SplashAttention
    | AutoAttention
)

# --- how matmuls are computed --------------------------------------------------------


@checked
class NoQuantization:
    """Matmuls in the types of layout.precision."""

    kind: ClassVar[str] = "none"


@checked
class Int8:
    """int8 matmuls, forward and with `backward` backward (AQT, arXiv:2105.03536)."""

    kind: ClassVar[str] = "int8"
    backward: bool = True


@checked
class Fp8:
    """float8 matmuls: e4m3 forward, e5m2 gradients (Micikevicius et al. 2022)."""

    kind: ClassVar[str] = "fp8"
    backward: bool = True


Quantization = NoQuantization | Int8 | Fp8
