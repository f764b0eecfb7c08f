"""Costs of TPUs and of GPUs, behind the one interface of a prediction."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from llmjax.config import RunConfig, SlidingWindow
from llmjax.plan.cost import attention, instructions, pallas
from llmjax.plan.cost.chips import Topology
from llmjax.plan.cost.gpus import GpuTopology
from llmjax.plan.cost.links import Links
from llmjax.plan.cost.nccl import GpuLinks
from llmjax.plan.cost.pallas import KernelCost
from llmjax.plan.hlo import traffic
from llmjax.plan.hlo.collectives import Collective, Devices
from llmjax.plan.hlo.execution import walk
from llmjax.plan.hlo.matmuls import target
from llmjax.plan.hlo.module import HloModule, Instruction
from llmjax.plan.hlo.summary import custom_call, is_pallas, summarize


@runtime_checkable
class Transfers(Protocol):
    """Times of transfers."""

    def seconds(self, transfer: Collective) -> float:
        """Time of one execution, alone on its links."""
        ...

    def busy_links(self, transfer: Collective) -> frozenset:
        """Links or queues that it uses."""
        ...


@runtime_checkable
class Machine(Protocol):
    """The costs of one kind of accelerator.

    Attributes:
      networks: names of the network between near devices and of the one between far
        ones.
      across_hosts: the one of `networks` that devices of several hosts use; slices of
        TPUs are told apart otherwise.
      slowdown: of compute while transfers run beside it.
    """

    networks: tuple[str, str]
    across_hosts: str
    slowdown: float

    def links(self, devices: Devices) -> Transfers:
        """Its networks."""
        ...

    def hbm_bytes(self, module: HloModule) -> int:
        """Bytes that a step moves between a device and its memory."""
        ...

    def compute_seconds(self, module: HloModule) -> Callable[[str, Instruction], float]:
        """Time of an instruction of a computation, kernels and transfers left out."""
        ...

    def kernels(self, module: HloModule, config: RunConfig) -> tuple[KernelCost, ...]:
        """Kernels that are no instructions of the compiler."""
        ...

    def kernel_seconds(
        self, module: HloModule, kernels: tuple[KernelCost, ...]
    ) -> dict[str, float]:
        """Name of an instruction that calls a kernel -> seconds of one execution."""
        ...


def machine(topology: Topology | GpuTopology) -> Machine:
    """The costs of a topology's chips."""
    return _MACHINES[topology.platform](topology)


class Tpu:
    """The compiler's cycles, and schedules of Pallas kernels."""

    networks = ("ici", "dcn")
    across_hosts = "ici"  # the torus joins the hosts of a slice
    slowdown = 0.0  # transfers have their own engines

    def __init__(self, topology: Topology):
        self.topology = topology

    def links(self, devices: Devices) -> Links:
        """The torus."""
        return Links(self.topology, devices)

    def hbm_bytes(self, module: HloModule) -> int:
        """In whole tiles."""
        return traffic.hbm_bytes(module, traffic.TILED_PARTS)

    def compute_seconds(self, module: HloModule) -> Callable[[str, Instruction], float]:
        """The compiler's cycles at the chip's clock."""
        del module
        hertz = self.topology.chip.hertz
        return lambda _, instruction: (instruction.cycles or 0) / hertz

    def kernels(self, module: HloModule, config: RunConfig) -> tuple[KernelCost, ...]:
        """Pallas kernels."""
        mask = config.model.architecture != "encoder", _window(config)
        chip, calls = self.topology.chip, summarize(module).pallas
        return tuple(pallas.cost(call, chip, *mask) for call in calls)

    def kernel_seconds(
        self, module: HloModule, kernels: tuple[KernelCost, ...]
    ) -> dict[str, float]:
        """By the kernel that an instruction calls."""
        return _by_call(module, kernels, is_pallas)


class Gpus:
    """Costs of matmuls, fusions and fused attention."""

    # NCCL's kernels take cores, caches and power. The mean of what Lee et al. 2025,
    # arXiv:2507.03114, measured of training on A100s, H100s and MI250s.
    slowdown = 0.189

    def __init__(self, topology: GpuTopology):
        self.topology = topology
        near = "nvlink" if topology.chip.nvlink_bandwidth else "pcie"
        self.networks = (near, "network")
        self.across_hosts = "network"

    def links(self, devices: Devices) -> GpuLinks:
        """NVLink or PCIe, and the network."""
        return GpuLinks(self.topology, devices)

    def hbm_bytes(self, module: HloModule) -> int:
        """Slices alone."""
        return traffic.hbm_bytes(module, traffic.PARTS)

    def compute_seconds(self, module: HloModule) -> Callable[[str, Instruction], float]:
        """Matmuls, fusions and copies by `instructions`."""

        def seconds(name: str, instruction: Instruction) -> float:
            if _is_kernel(instruction):
                return 0.0
            return instructions.seconds(module, name, instruction, self.topology.chip)

        return seconds

    def kernels(self, module: HloModule, config: RunConfig) -> tuple[KernelCost, ...]:
        """Fused attention, and calls of unknown kernels."""
        del config  # the call tells its mask
        costs: dict[Any, KernelCost] = {}
        for instruction, name, times in walk(module):
            if not _is_kernel(instruction):
                continue
            cost = self._kernel(module, name, instruction, times)
            key = dataclasses.replace(cost.call, calls=1)
            calls = costs[key].call.calls if key in costs else 0
            costs[key] = _scaled(cost, (calls + times) / times)
        return tuple(costs.values())

    def kernel_seconds(
        self, module: HloModule, kernels: tuple[KernelCost, ...]
    ) -> dict[str, float]:
        """By the kernel that an instruction calls."""
        return _by_call(module, kernels, _is_kernel)

    def _kernel(
        self, module: HloModule, name: str, instruction: Instruction, times: int
    ) -> KernelCost:
        call = custom_call(module, name, instruction)
        call = dataclasses.replace(call, calls=times)
        if not attention.is_attention(instruction):
            nan = float("nan")
            call = dataclasses.replace(call, kernel=target(instruction))
            return KernelCost(call, "unknown", nan, nan, nan)
        chip, computation = self.topology.chip, module.computations[name]
        seconds = instructions.seconds(module, name, instruction, chip)
        return KernelCost(
            call=call,
            kind=attention.kind(instruction),
            visited_share=attention.visible(instruction),
            flops=attention.flops(computation, instruction) * times,
            seconds=seconds * times,
        )


_MACHINES: dict[str, Callable[[Any], Machine]] = {"tpu": Tpu, "cuda": Gpus}


def _is_kernel(instruction: Instruction) -> bool:
    known = attention.is_attention(instruction)
    return known or instructions.is_unknown(instruction)


def _scaled(cost: KernelCost, factor: float) -> KernelCost:
    calls = round(cost.call.calls * factor)
    return dataclasses.replace(
        cost,
        call=dataclasses.replace(cost.call, calls=calls),
        flops=cost.flops * factor,
        seconds=cost.seconds * factor,
    )


def _by_call(
    module: HloModule,
    kernels: tuple[KernelCost, ...],
    is_kernel: Callable[[Instruction], bool],
) -> dict[str, float]:
    """Instruction that calls a kernel -> seconds of one execution."""
    per_call = {
        dataclasses.replace(k.call, calls=1): k.seconds / k.call.calls
        for k in kernels
        if k.kind != "unknown"
    }
    return {
        instruction.name: per_call.get(custom_call(module, name, instruction), 0.0)
        for instruction, name, _ in walk(module)
        if is_kernel(instruction)
    }


def _window(config: RunConfig) -> int | None:
    """Window of the attention kernels; None where any layer sees the whole sequence.

    The text does not say which layer a kernel belongs to, so where layers differ the
    widest window counts for all.
    """
    windows = [
        spec.pattern.window if isinstance(spec.pattern, SlidingWindow) else None
        for group in config.model.layers
        for spec in group.pattern
    ]
    widths = [w for w in windows if w is not None]
    return max(widths) if len(widths) == len(windows) else None
