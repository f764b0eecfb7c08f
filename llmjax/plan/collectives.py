"""What a compiled step moves between chips, slices and hosts, and along which axis."""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator

import numpy as np
from jax.sharding import Mesh

from llmjax.plan.execution import walk
from llmjax.plan.hlo import HOST, Computation, Instruction, Program

KINDS = (
    "all-gather",
    "reduce-scatter",
    "all-reduce",
    "collective-permute",
    "all-to-all",
)
Groups = tuple[tuple[int, ...], ...]

_HOST_COPIES = ("copy-start", "dynamic-slice-start", "dynamic-update-slice-start")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One transfer of the text, with how often a step runs it.

    Attributes:
      kind: one of `KINDS`, or "host-copy". An all-reduce of which each chip keeps its
        part (TPU's all-reduce-scatter fusion) is a reduce-scatter.
      opcode: as the text has it.
      axis: mesh axes that its groups span ("fsdp", "data+fsdp"), "mixed" where they
        are no whole axes, "host".
      network: "ici", "dcn" (across slices) or "host".
      groups: devices of each group by their place in the slice's part of the mesh; of
        a permute, its (source, target) pairs.
      group: devices per group; of dcn, slices.
      calls: executions per step.
      result_bytes: of one execution's result on one device.
      link_bytes: what one execution sends from one device, by rings.
      computation, start, done: where it begins and must have ended; start = done where
        nothing can run beside it.
    """

    kind: str
    opcode: str
    axis: str
    network: str
    groups: Groups
    group: int
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
    """The devices of one slice's program, in the order that its groups count them.

    Attributes:
      axes: names of the mesh's axes.
      index: [devices, axes], each device's place along each axis.
      coords: [devices, 3], chips' places in the torus; `core` the device of the chip.
      slice_axes: the axes that cross slices.
    """

    def __init__(self, mesh: Mesh):
        slices = np.vectorize(lambda d: getattr(d, "slice_index", None) or 0)(
            mesh.devices
        )
        self.axes = tuple(mesh.axis_names)
        self.slices = len(np.unique(slices))
        here = slices == slices.flat[0]
        devices = mesh.devices[here]
        self.index = np.stack(np.nonzero(here), axis=1)
        self.coords = np.array(
            [getattr(d, "coords", (i, 0, 0)) for i, d in enumerate(devices)]
        )
        self.core = np.array([getattr(d, "core_on_chip", 0) for d in devices])
        self.slice_axes = tuple(
            axis
            for i, axis in enumerate(self.axes)
            if (np.diff(slices, axis=i) != 0).any()
        )

    def axis_of(self, groups: Groups, pairs: bool) -> str:
        """Name of the mesh axes that the groups are; "mixed" if they are none."""
        varies = np.zeros(len(self.axes), bool)
        for group in groups:
            places = self.index[list(group)]
            varies |= (places != places[0]).any(axis=0)
        name = "+".join(a for a, v in zip(self.axes, varies, strict=True) if v)
        if pairs:
            return name or "none"
        expected = collections.defaultdict(set)
        for i, place in enumerate(self.index):
            expected[tuple(place[~varies])].add(i)
        whole = {frozenset(g) for g in expected.values()}
        return (name or "none") if {frozenset(g) for g in groups} == whole else "mixed"


def collectives(program: Program, mesh: Mesh) -> tuple[Collective, ...]:
    """Every transfer of the step; `mesh` is the one that it was compiled for."""
    devices = Devices(mesh)
    times: collections.Counter[str] = collections.Counter()
    for instruction, name, count in walk(program):
        if instruction.root:
            times[name] += count
    found: list[Collective] = []
    for name, calls in times.items():
        found += _of_computation(program, name, calls, devices)
    return tuple(found)


def by_kind_and_axis(found: tuple[Collective, ...]) -> list[dict]:
    """Rows {kind, axis, network, calls, result_bytes, link_bytes} per step, summed."""
    rows: dict[tuple, dict] = {}
    for c in found:
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


# --- reading ----------------------------------------------------------------------


def _of_computation(
    program: Program, name: str, calls: int, devices: Devices
) -> Iterator[Collective]:
    here = program.computations[name]
    users = _users(here)
    for first, last, op, scattered in _chains(program, here, users):
        yield _ici(op, scattered, devices, name, calls, first.name, last.name)
    for instruction in here.values():
        if instruction.opcode == "send" and "_xla_megascale" in instruction.rest:
            yield _dcn(here, instruction, devices, name, calls)
        if instruction.opcode in _HOST_COPIES and _crosses_to_host(instruction):
            done = users.get(instruction.name, instruction.name)
            yield _host(instruction, name, calls, done)


def _users(here: Computation) -> dict[str, str]:
    """Of each instruction that starts something, the one that waits for it."""
    return {
        x.operands[0]: x.name
        for x in here.values()
        if x.opcode.endswith("-done") and x.operands
    }


def _chains(program: Program, here: Computation, users: dict[str, str]):
    """(first, last instruction, the collective itself, whether it scatters).

    A TPU program writes one asynchronous collective in its start, in compute that it
    runs beside and in its done, all with one channel.
    """
    chains: dict[str, list] = {}
    for instruction in here.values():
        scattered = False
        inside = [instruction]
        if instruction.opcode in ("fusion", "async-start"):
            called = instruction.attribute("calls") or ""
            scattered = "all-reduce-scatter" in called
            inside = list(program.computations.get(called, {}).values())
        for op in inside:
            if op.opcode.removesuffix("-start") not in KINDS:
                continue
            channel = re.search(r"channel_id=(\d+)", op.rest)
            key = channel.group(1) if channel else op.name
            chain = chains.setdefault(key, [instruction, instruction, op, scattered])
            chain[1] = instruction
    for first, last, op, scattered in chains.values():
        if first is last and first.name in users:
            last = here[users[first.name]]
        yield first, last, op, scattered


def _ici(op, scattered, devices, computation, calls, start, done) -> Collective:
    opcode = op.opcode.removesuffix("-start")
    kind = "reduce-scatter" if scattered and opcode == "all-reduce" else opcode
    pairs = kind == "collective-permute"
    groups = replica_groups(op.rest, len(devices.index))
    n = len(groups[0])
    size = result_bytes(op)
    whole = size * n if opcode == "reduce-scatter" else size
    sent = {
        "all-gather": whole * (n - 1) // n,
        "reduce-scatter": whole * (n - 1) // n,
        "all-reduce": 2 * whole * (n - 1) // n,
        "all-to-all": whole * (n - 1) // n,
        "collective-permute": size,
    }
    return Collective(
        kind=kind,
        opcode=opcode,
        axis=devices.axis_of(groups, pairs),
        network="ici",
        groups=groups,
        group=n,
        calls=calls,
        result_bytes=size,
        link_bytes=sent[kind],
        computation=computation,
        start=start,
        done=done,
        op_name=op.op_name,
        source=op.location,
    )


def _dcn(here, send, devices, computation, calls) -> Collective:
    """Transfers between slices are a send and a receive through the host's runtime."""

    def attribute(instruction: Instruction, key: str) -> str:
        match = re.search(rf'_xla_{key}="([^"]*)"', instruction.rest)
        return match.group(1) if match else ""

    meeting = attribute(send, "host_transfer_rendezvous")
    receive = next(
        x
        for x in here.values()
        if x.opcode == "recv" and attribute(x, "host_transfer_rendezvous") == meeting
    )
    done = next(
        x.name
        for x in here.values()
        if x.opcode == "recv-done" and x.operands[0] == receive.name
    )
    kind = attribute(send, "megascale_transfer_type").lower().replace("_", "-")
    kind = kind if kind in KINDS else "collective-permute"
    n = devices.slices
    sent, received = (x.arrays[0].bytes for x in (send, receive))
    share = {
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
        group=n,
        calls=calls,
        result_bytes=received,
        link_bytes=share.get(kind, sent * (n - 1) // n),
        computation=computation,
        start=send.name,
        done=done,
        op_name=send.op_name,
        source=send.location,
    )


def _crosses_to_host(instruction: Instruction) -> bool:
    """Whether one side lies in host memory and the other does not."""
    return len({x.space == HOST for x in instruction.arrays if x.dims}) == 2


def _host(instruction, computation, calls, done) -> Collective:
    size = min(x.bytes for x in instruction.arrays if x.dims)
    return Collective(
        kind="host-copy",
        opcode=instruction.opcode,
        axis="host",
        network="host",
        groups=(),
        group=1,
        calls=calls,
        result_bytes=size,
        link_bytes=size,
        computation=computation,
        start=instruction.name,
        done=done,
        op_name=instruction.op_name,
        source=instruction.location,
    )


def replica_groups(rest: str, devices: int) -> Groups:
    """Groups of devices in any of XLA's three forms, or a permute's pairs.

    {{0,1},{2,3}}; [2,4]<=[4,2]T(1,0), an iota transposed and cut; and
    mesh['x'=2,'y'=4] {'y'}, the axes of a mesh. No groups: all devices.

    Raises:
      ValueError: a form that is none of these.
    """
    pairs = re.search(r"(?:source_target_pairs|replica_groups)=\{(\{.*?\})\}", rest)
    if pairs:
        return tuple(
            tuple(int(n) for n in group.split(","))
            for group in re.findall(r"\{([\d,]+)\}", pairs.group(1))
        )
    iota = re.search(
        r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest
    )
    if iota:
        shape, source = ([int(n) for n in x.split(",")] for x in iota.group(1, 2))
        order = [int(n) for n in iota.group(3).split(",")] if iota.group(3) else None
        ids = np.arange(math.prod(source)).reshape(source).transpose(order)
        return tuple(map(tuple, ids.reshape(shape).tolist()))
    named = re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", rest)
    if named:
        sizes = {a: int(n) for a, n in re.findall(r"'(\w+)'=(\d+)", named.group(1))}
        return _mesh_groups(sizes, named.group(2))
    if "replica_groups={}" in rest or "replica_groups" not in rest:
        return (tuple(range(devices)),)
    form = rest[rest.index("replica_groups") :][:60]
    raise ValueError(f"{form!r} is a form of replica groups that is not known here")


def _mesh_groups(sizes: dict[str, int], axes: str) -> Groups:
    """'y', or of an axis a part: 'y':(before)size (Shardy's sub-axes)."""
    shape: list[int] = []
    chosen: list[int] = []
    parts = {
        a: (int(before), int(size)) if size else None
        for a, before, size in re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", axes)
    }
    for axis, n in sizes.items():
        part = parts.get(axis, (1, 1))
        before, size = (1, n) if part is None else part
        chosen.append(len(shape) + 1)
        shape += [before, size, n // before // size]
        if axis not in parts:
            chosen.pop()
    ids = np.arange(math.prod(sizes.values())).reshape(shape)
    others = [i for i in range(ids.ndim) if i not in chosen]
    groups = ids.transpose(others + chosen)
    return tuple(
        map(tuple, groups.reshape(-1, math.prod(shape[i] for i in chosen)).tolist())
    )


def result_bytes(instruction: Instruction) -> int:
    """Bytes of the result; of a -start's tuple half, operands lie in it as well."""
    total = sum(x.bytes for x in instruction.arrays)
    return total // 2 if instruction.opcode.endswith("-start") else total
