"""Matrix multiplications: dots, dots in fusions, calls of cuBLAS."""

import dataclasses
import math
import re
from collections.abc import Iterator

from llmjax.plan.hlo.module import ArrayShape, Computation, HloModule, Instruction


@dataclasses.dataclass(frozen=True)
class Matmul:
    """`batch` products of [m, k] and [k, n].

    Attributes:
      dtype: of the wider operand, in HLO's letters: "bf16", "f8e4m3fn".
      exact: whether float32 must not be rounded to TF32.
    """

    batch: int
    m: int
    n: int
    k: int
    dtype: str
    exact: bool = False

    @property
    def flops(self) -> int:
        """Multiplications and additions."""
        return 2 * self.batch * self.m * self.n * self.k


def matmuls(
    module: HloModule, computation: Computation, instruction: Instruction
) -> tuple[Matmul, ...]:
    """The matmuls that one execution computes; () of anything else."""
    return tuple(_matmuls(module, computation, instruction))


def target(instruction: Instruction) -> str:
    """Target of a custom call: "__cublas$gemm"; "" of anything else."""
    if instruction.opcode != "custom-call":
        return ""
    match = re.search(r'custom_call_target="([^"]*)"', instruction.rest)
    return match.group(1) if match else ""


def _matmuls(
    module: HloModule, computation: Computation, instruction: Instruction
) -> Iterator[Matmul]:
    is_call = target(instruction).startswith("__cublas$")
    if is_call or instruction.opcode in ("dot", "ragged-dot", "scaled-dot"):
        yield _dot(computation, instruction)
    elif instruction.opcode in ("fusion", "fusion-start", "async-start"):
        fused = module.computations.get(instruction.attribute("calls") or "", {})
        for inner in fused.values():
            yield from _matmuls(module, fused, inner)


def _dot(computation: Computation, instruction: Instruction) -> Matmul:
    lhs, rhs = (computation[x].arrays[0] for x in instruction.operands[:2])
    contracted = set(_dims(instruction, "lhs_contracting"))
    batched = set(_dims(instruction, "lhs_batch"))
    others = set(_dims(instruction, "rhs_contracting"))
    others |= set(_dims(instruction, "rhs_batch"))
    # each row of a ragged product meets the matrix of one group
    others |= set(_dims(instruction, "rhs_group"))
    wider = max(lhs, rhs, key=lambda x: x.bytes / max(math.prod(x.dims), 1))
    return Matmul(
        batch=_product(lhs, batched),
        m=_product(lhs, set(range(len(lhs.dims))) - contracted - batched),
        n=_product(rhs, set(range(len(rhs.dims))) - others),
        k=_product(lhs, contracted),
        dtype=wider.dtype,
        exact="highest" in instruction.rest or "dot_f32_f32_f32," in instruction.rest,
    )


def _dims(instruction: Instruction, name: str) -> tuple[int, ...]:
    """Dimensions by name: `lhs_batch_dims={0,1}` or `"lhs_batch_dimensions":["0"]`."""
    noted = re.search(
        rf'{name}_dims=\{{([\d,]*)\}}|"{name}_dimensions":\s*\[([^\]]*)\]',
        instruction.rest,
    )
    text = (noted.group(1) or noted.group(2) or "") if noted else ""
    return tuple(map(int, re.findall(r"\d+", text)))


def _product(shape: ArrayShape, dims: set[int]) -> int:
    return math.prod(shape.dims[i] for i in dims)
