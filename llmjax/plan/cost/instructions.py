"""Seconds of each instruction of a program that was compiled for GPUs.

The text of such a program carries no times. An instruction computes and moves memory,
mostly at once: XLA's own model takes all but 5 % of the shorter of both as hidden
(xla/service/gpu/model/gpu_performance_model_base.h, also for the launch).
"""

import math

from llmjax.plan.cost import attention, gemm
from llmjax.plan.cost.gpus import Gpu
from llmjax.plan.hlo.collectives import is_transfer
from llmjax.plan.hlo.matmuls import matmuls, target
from llmjax.plan.hlo.module import Computation, HloModule, Instruction
from llmjax.plan.hlo.traffic import NO_TRAFFIC, instruction_bytes

OVERLAP = 0.95
LAUNCH_SECONDS = 1e-6
# Memory's measured share of its published bandwidth: 2903 of 3350 GB/s in copies within
# an H100 (https://github.com/aigatech/vpbenchmarking).
HBM_SHARE = 2903 / 3350
# Special functions: "CUDA C++ Programming Guide", throughput of native arithmetic.
_SPECIAL = {
    *("exponential", "exponential-minus-one", "log", "log-plus-one", "logistic"),
    *("tanh", "rsqrt", "sqrt", "cbrt", "sine", "cosine", "tan", "erf", "power"),
    *("divide", "atan2"),
}
_SPECIAL_COST = 8  # 128 units of float32, 16 of special functions a core
_FREE = {"parameter", "constant", "bitcast", "tuple", "get-tuple-element", "broadcast"}
# Passes over memory of CUB's radix sort, one per 8 bits of the key, which reads and
# writes everything each time: Adinets and Merrill 2022, arXiv:2206.01784.
_SORT = "__cub$DeviceRadixSort"


def seconds(module: HloModule, name: str, instruction: Instruction, gpu: Gpu) -> float:
    """Time of one execution of an instruction of computation `name`; 0 where it is
    a transfer, runs nothing by itself, or calls an unknown kernel."""
    computation = module.computations[name]
    if instruction.opcode == "async-start":
        called = instruction.attribute("calls") or ""
        if is_transfer(module, instruction) or called not in module.computations:
            return 0.0
        return seconds(module, called, module.root(called), gpu)
    if not _runs(module, instruction):
        return 0.0
    compute = compute_seconds(module, computation, instruction, gpu)
    moved = instruction_bytes(module, computation, instruction)
    if target(instruction) == _SORT:
        key = computation[instruction.operands[0]].arrays[0]
        moved *= key.bytes // max(math.prod(key.dims), 1)
    memory = moved / (gpu.hbm_bandwidth * HBM_SHARE)
    return compute + memory - OVERLAP * min(compute, memory) + LAUNCH_SECONDS


def compute_seconds(
    module: HloModule, computation: Computation, instruction: Instruction, gpu: Gpu
) -> float:
    """Time on the matrix units, or else on the vector units."""
    if attention.is_attention(instruction):
        return attention.seconds(computation, instruction, gpu)
    products = matmuls(module, computation, instruction)
    if products:
        return sum(gemm.seconds(product, gpu) for product in products)
    body = [instruction]
    if instruction.opcode.startswith("fusion"):
        body = list(module.computations[instruction.attribute("calls") or ""].values())
        computation = module.computations[instruction.attribute("calls") or ""]
    count = sum(_operations(computation, x) for x in body)
    return count / (gpu.cores * gpu.fp32_units * gpu.clock)


def is_unknown(instruction: Instruction) -> bool:
    """Whether the instruction calls a kernel that has no model here."""
    name = target(instruction)
    known = name.startswith(("__cublas$", "__cudnn$fmha")) or name == _SORT
    return bool(name) and not known and name not in _MARKS


# Custom calls that run nothing.
_MARKS = {"Sharding", "AllocateBuffer", "annotate_device_placement", "PipelineLayer"}


def _runs(module: HloModule, instruction: Instruction) -> bool:
    """Whether the instruction is a kernel or a copy on the compute stream."""
    opcode = instruction.opcode
    if opcode in NO_TRAFFIC or opcode.endswith("-done"):
        return False
    if opcode == "custom-call":
        return not is_unknown(instruction) and target(instruction) not in _MARKS
    return not is_transfer(module, instruction)


def _operations(computation: Computation, instruction: Instruction) -> int:
    """Operations on single numbers: one per element, more for special functions."""
    opcode = instruction.opcode
    if opcode in _FREE:
        return 0
    if opcode == "reduce":
        inputs = [computation[x] for x in instruction.operands if x in computation]
        return sum(math.prod(a.dims) for x in inputs for a in x.arrays)
    count = sum(math.prod(a.dims) for a in instruction.arrays)
    return count * (_SPECIAL_COST if opcode in _SPECIAL else 1)
