"""Transfers of a compiled step: between chips, slices and hosts, to hosts' memory."""

import collections
import dataclasses
import re
from collections.abc import Iterator

import numpy as np
from jax.sharding import Mesh

from llmjax.plan.hlo.execution import walk
from llmjax.plan.hlo.groups import Groups, replica_groups
from llmjax.plan.hlo.module import (
    HOST,
    Computation,
    HloModule,
    Instruction,
    arrays,
    top_level,
)

KINDS = (
    "all-gather",
    "reduce-scatter",
    "all-reduce",
    "collective-permute",
    "all-to-all",
    "ragged-all-to-all",
)

# On GPUs a copy to or from a part of an array is a fusion of its own.
_HOST_COPIES = (
    "copy-start",
    "dynamic-slice-start",
    "dynamic-update-slice-start",
    "fusion-start",
)


@dataclasses.dataclass(frozen=True)
class Collective:
    """One transfer in the program's text, and how often a step executes it.

    Attributes:
      kind: one of `KINDS`, or "host-copy". An all-reduce after which each chip keeps
        only its part (TPU's all-reduce-scatter fusion) is a reduce-scatter.
      opcode: the instruction's, in the text.
      axis: mesh axes that its groups span ("fsdp", "data+fsdp"); "mixed" where the
        groups are not whole axes; "host".
      network: of TPUs "ici", or "dcn" across slices; of GPUs "nvlink" or "pcie", or
        "network" across hosts; "host".
      groups: the devices of each group, counted within the slice's part of the mesh;
        for a permute its (source, target) pairs.
      group_size: devices per group; over dcn, slices.
      calls: executions per step.
      result_bytes: bytes of one execution's result on one device.
      link_bytes: bytes that one execution sends from one device, with ring algorithms.
      computation, start, done: the instructions where it begins and where it must have
        ended; start = done where nothing can run beside it.
    """

    kind: str
    opcode: str
    axis: str
    network: str
    groups: Groups
    group_size: int
    calls: int
    result_bytes: int
    link_bytes: int
    computation: str
    start: str
    done: str
    op_name: str
    source: str

    @property
    def asynchronous(self) -> bool:
        """Whether compute may run beside it."""
        return self.start != self.done


class Devices:
    """The devices of one slice, in the order in which replica groups count them.

    GPUs of all hosts are one slice.

    Attributes:
      axes: names of the mesh's axes.
      slices: how many slices the mesh has.
      index: [devices, axes], each device's position along each mesh axis.
      coords: [devices, 3], the position of each device's chip in the torus.
      core: [devices], the number of the device on its chip.
      host: [devices], the number of the device's host.
      slice_axes: the axes that cross slices.
    """

    def __init__(self, mesh: Mesh):
        slices = np.vectorize(lambda d: getattr(d, "slice_index", None) or 0)(
            mesh.devices
        )
        self.axes = tuple(mesh.axis_names)
        self.slices = len(np.unique(slices))
        first_slice = slices == slices.flat[0]
        devices = mesh.devices[first_slice]
        self.index = np.stack(np.nonzero(first_slice), axis=1)
        self.coords = np.array(
            [getattr(d, "coords", (i, 0, 0)) for i, d in enumerate(devices)]
        )
        self.core = np.array([getattr(d, "core_on_chip", 0) for d in devices])
        self.host = np.array([getattr(d, "process_index", 0) for d in devices])
        self.slice_axes = tuple(
            axis
            for i, axis in enumerate(self.axes)
            if (np.diff(slices, axis=i) != 0).any()
        )

    def axes_of(self, groups: Groups, pairs: bool) -> str:
        """Names of the mesh axes that the groups span; "mixed" if not whole axes."""
        varies = np.zeros(len(self.axes), bool)
        for group in groups:
            positions = self.index[list(group)]
            varies |= (positions != positions[0]).any(axis=0)
        name = "+".join(a for a, v in zip(self.axes, varies, strict=True) if v)
        if pairs:
            return name or "none"
        by_other_axes = collections.defaultdict(set)
        for i, position in enumerate(self.index):
            by_other_axes[tuple(position[~varies])].add(i)
        whole_axes = {frozenset(g) for g in by_other_axes.values()}
        is_whole = {frozenset(g) for g in groups} == whole_axes
        return (name or "none") if is_whole else "mixed"

    def cross_hosts(self, groups: Groups) -> bool:
        """Whether any group, or pair, has devices of several hosts."""
        return any(len(set(self.host[list(group)])) > 1 for group in groups)


def collectives(
    module: HloModule, mesh: Mesh, networks: tuple[str, str] = ("ici", "ici")
) -> tuple[Collective, ...]:
    """Every transfer of a step that was compiled for this mesh.

    `networks`: names of the one within a host and of the one across hosts.
    """
    devices = Devices(mesh)
    times: collections.Counter[str] = collections.Counter()
    for instruction, name, count in walk(module):
        if instruction.root:
            times[name] += count
    transfers: list[Collective] = []
    for name, calls in times.items():
        transfers += _computation_transfers(module, name, calls, devices, networks)
    return tuple(transfers)


def by_kind_and_axis(transfers: tuple[Collective, ...]) -> list[dict]:
    """Rows {kind, axis, network, calls, result_bytes, link_bytes} per step, summed."""
    rows: dict[tuple, dict] = {}
    for c in transfers:
        key = c.kind, c.axis, c.network
        row = rows.setdefault(
            key,
            {
                "kind": c.kind,
                "axis": c.axis,
                "network": c.network,
                "calls": 0,
                "result_bytes": 0,
                "link_bytes": 0,
            },
        )
        row["calls"] += c.calls
        row["result_bytes"] += c.calls * c.result_bytes
        row["link_bytes"] += c.calls * c.link_bytes
    return sorted(rows.values(), key=lambda row: -row["link_bytes"])


# --- reading the text ----------------------------------------------------------------


def is_transfer(module: HloModule, instruction: Instruction) -> bool:
    """Whether the instruction is or starts a transfer, or contains one."""
    if instruction.opcode in _HOST_COPIES and _crosses_to_host(instruction):
        return True
    return any(_is_collective(op) for op in _inside(module, instruction))


def _is_collective(instruction: Instruction) -> bool:
    return instruction.opcode.removesuffix("-start") in KINDS


def _inside(module: HloModule, instruction: Instruction) -> list[Instruction]:
    """Instructions of a fusion or asynchronous computation; else the one itself."""
    if instruction.opcode not in ("fusion", "async-start"):
        return [instruction]
    called = instruction.attribute("calls") or ""
    return list(module.computations.get(called, {}).values())


def _computation_transfers(
    module: HloModule,
    name: str,
    calls: int,
    devices: Devices,
    networks: tuple[str, str],
) -> Iterator[Collective]:
    computation = module.computations[name]
    done_of = _done_of(computation)
    for first, last, op, scattered in _by_channel(module, computation, done_of):
        transfer = _transfer(op, scattered, devices, name, calls, first.name, last.name)
        if transfer.kind == "ragged-all-to-all":
            transfer = _bounded(
                transfer, _operand_bytes(module, computation, first, op)
            )
        network = networks[devices.cross_hosts(transfer.groups)]
        yield dataclasses.replace(transfer, network=network)
    for instruction in computation.values():
        if instruction.opcode == "send" and "_xla_megascale" in instruction.rest:
            yield _dcn_transfer(computation, instruction, devices, name, calls)
        if instruction.opcode in _HOST_COPIES and _crosses_to_host(instruction):
            done = done_of.get(instruction.name, instruction.name)
            yield _host_transfer(instruction, name, calls, done)


def _done_of(computation: Computation) -> dict[str, str]:
    """Name of a -start instruction -> name of the -done that waits for it."""
    return {
        x.operands[0]: x.name
        for x in computation.values()
        if x.opcode.endswith("-done") and x.operands
    }


def _by_channel(module: HloModule, computation: Computation, done_of: dict[str, str]):
    """(first and last instruction, the collective itself, whether it scatters).

    A TPU program writes one asynchronous collective several times, all with one
    channel: in its start, in the compute that runs beside it, and in its done.
    """
    channels: dict[str, list] = {}
    for instruction in computation.values():
        called = instruction.attribute("calls") or ""
        scattered = "all-reduce-scatter" in called
        for op in filter(_is_collective, _inside(module, instruction)):
            channel = re.search(r"channel_id=(\d+)", op.rest)
            key = channel.group(1) if channel else op.name
            entry = channels.setdefault(key, [instruction, instruction, op, scattered])
            entry[1] = instruction
    for first, last, op, scattered in channels.values():
        if first is last and first.name in done_of:
            last = computation[done_of[first.name]]
        yield first, last, op, scattered


def _transfer(op, scattered, devices, computation, calls, start, done) -> Collective:
    """A collective between the chips of a slice, or between GPUs."""
    opcode = op.opcode.removesuffix("-start")
    kind = "reduce-scatter" if scattered and opcode == "all-reduce" else opcode
    pairs = kind == "collective-permute"
    groups = replica_groups(op.rest, len(devices.index))
    n = len(groups[0])
    size = result_bytes(op)
    whole = size * n if opcode == "reduce-scatter" else size
    link_bytes = {
        "all-gather": whole * (n - 1) // n,
        "reduce-scatter": whole * (n - 1) // n,
        "all-reduce": 2 * whole * (n - 1) // n,
        "all-to-all": whole * (n - 1) // n,
        "ragged-all-to-all": whole * (n - 1) // n,
        "collective-permute": size,
    }
    return Collective(
        kind=kind,
        opcode=opcode,
        axis=devices.axes_of(groups, pairs),
        network="",
        groups=groups,
        group_size=n,
        calls=calls,
        result_bytes=size,
        link_bytes=link_bytes[kind],
        computation=computation,
        start=start,
        done=done,
        op_name=op.op_name,
        source=op.location,
    )


def _bounded(transfer: Collective, size: int) -> Collective:
    """A ragged exchange, whose results have room for all, sends its operand at most."""
    sent = size * (transfer.group_size - 1) // max(transfer.group_size, 1)
    return dataclasses.replace(transfer, link_bytes=min(sent, transfer.link_bytes))


def _operand_bytes(module, computation, instruction, op) -> int:
    """Bytes of a collective's first operand, inside its wrapper where it has one."""
    called = instruction.attribute("calls") or ""
    here = computation if op is instruction else module.computations[called]
    return sum(a.bytes for a in here[op.operands[0]].arrays)


def _dcn_transfer(instructions, send, devices, computation, calls) -> Collective:
    """A transfer between slices: a send and a receive through the host's runtime."""

    def attribute(instruction: Instruction, key: str) -> str:
        match = re.search(rf'_xla_{key}="([^"]*)"', instruction.rest)
        return match.group(1) if match else ""

    rendezvous = attribute(send, "host_transfer_rendezvous")
    receive = next(
        x
        for x in instructions.values()
        if x.opcode == "recv" and attribute(x, "host_transfer_rendezvous") == rendezvous
    )
    done = next(
        x.name
        for x in instructions.values()
        if x.opcode == "recv-done" and x.operands[0] == receive.name
    )
    kind = attribute(send, "megascale_transfer_type").lower().replace("_", "-")
    kind = kind if kind in KINDS else "collective-permute"
    n = devices.slices
    sent, received = (x.arrays[0].bytes for x in (send, receive))
    link_bytes = {
        "all-reduce": 2 * sent * (n - 1) // n,
        "all-gather": sent * (n - 1),
        "collective-permute": sent,
    }
    return Collective(
        kind=kind,
        opcode="send",
        axis="+".join(devices.slice_axes),
        network="dcn",
        groups=(),
        group_size=n,
        calls=calls,
        result_bytes=received,
        link_bytes=link_bytes.get(kind, sent * (n - 1) // n),
        computation=computation,
        start=send.name,
        done=done,
        op_name=send.op_name,
        source=send.location,
    )


def _crosses_to_host(instruction: Instruction) -> bool:
    """Whether one side lies in host memory and the other does not."""
    return len({x.space == HOST for x in instruction.arrays if x.dims}) == 2


def _host_transfer(instruction, computation, calls, done) -> Collective:
    """A copy between a chip's memory and its host's."""
    size = min(x.bytes for x in instruction.arrays if x.dims)
    return Collective(
        kind="host-copy",
        opcode=instruction.opcode,
        axis="host",
        network="host",
        groups=(),
        group_size=1,
        calls=calls,
        result_bytes=size,
        link_bytes=size,
        computation=computation,
        start=instruction.name,
        done=done,
        op_name=instruction.op_name,
        source=instruction.location,
    )


def result_bytes(instruction: Instruction) -> int:
    """Bytes of the result; of a -start's tuple, which has the operands as well, those
    of its results: the second element of ((operands), (results)), else half."""
    total = sum(x.bytes for x in instruction.arrays)
    if not instruction.opcode.endswith("-start"):
        return total
    parts = top_level(instruction.shape)
    kind = instruction.opcode.removesuffix("-start")
    grows = kind in ("all-gather", "reduce-scatter") and len(parts) == 2
    if grows or parts[0].startswith("("):
        return sum(x.bytes for x in arrays(parts[1]))
    return total // 2
