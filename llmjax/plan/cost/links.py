"""Seconds that a transfer keeps the links of a torus busy.

Costs of collectives on a torus follow Austin et al. 2025, "How to Scale Your Model",
part 3 ("Sharded Matrices and How to Multiply Them"). Gathers and scatters run rings
along all dimensions that the group spans, at once; in a dimension without wrap-around
one link must carry everything.
"""

import functools

import numpy as np

from llmjax.plan.cost.chips import HOP_SECONDS, Topology
from llmjax.plan.hlo.collectives import Collective, Devices, Groups

# Die-to-die link of a chip with two devices, in units of one ICI link:
# https://docs.cloud.google.com/tpu/docs/tpu7x, "six times faster than a 1D ICI link".
_DIE_LINKS = 6.0


class Links:
    """Times of transfers over one topology, and the links that they use."""

    def __init__(self, topology: Topology, devices: Devices):
        self.topology = topology
        self.devices = devices
        self._ring = functools.cache(self._ring_links)
        self._permute = functools.cache(self._permute_load)

    def seconds(self, transfer: Collective) -> float:
        """Time of one execution, alone on its network."""
        chip = self.topology.chip
        if transfer.network == "host":
            return transfer.link_bytes * chip.devices / chip.host_bandwidth
        if transfer.network == "dcn":
            return transfer.link_bytes * chip.devices / chip.dcn_bandwidth
        if transfer.kind == "collective-permute":
            load = self._permute(transfer.groups)
            return HOP_SECONDS + load * transfer.link_bytes / chip.link_bandwidth
        group = transfer.groups[0]
        if len(group) < 2:
            return 0.0
        links, hops = self._ring(group)
        if transfer.kind == "all-to-all":
            load = self._exchange_load(group)
            return HOP_SECONDS * hops + load * transfer.result_bytes / (
                chip.link_bandwidth
            )
        passes = 2 if transfer.kind == "all-reduce" else 1
        return passes * HOP_SECONDS * hops + transfer.link_bytes / (
            links * chip.link_bandwidth
        )

    def busy_links(self, transfer: Collective) -> frozenset:
        """Links that a transfer uses: (dimension, direction), or the slow network.

        A permute uses one direction of a ring's links, any other collective both.
        """
        if transfer.network != "ici":
            return frozenset([transfer.network])
        if transfer.kind == "collective-permute":
            members = tuple({x for pair in transfer.groups for x in pair})
            source, target = transfer.groups[0]
            directions = [1 if target == source + 1 else -1]
        else:
            members = transfer.groups[0]
            directions = [1, -1]
        dimensions = [d for d, _, _ in self._spans(members)]
        return frozenset((d, way) for d in dimensions for way in directions)

    def _spans(self, group: tuple[int, ...]) -> list[tuple[int, int, int]]:
        """The torus dimensions that a group spans, as (dimension, chips, stride)."""
        coords = self.devices.coords[list(group)]
        spans = []
        for d in range(len(self.topology.shape)):
            positions = np.unique(coords[:, d])
            if len(positions) > 1:
                stride = int(np.diff(positions).min())
                spans.append((d, len(positions), stride))
        return spans

    def _ring_links(self, group: tuple[int, ...]) -> tuple[float, int]:
        """(links that bring data to one device at once, hops to the farthest one).

        A ring has two such links, a line one. A group of every s-th chip shares each
        link with s - 1 other groups.
        """
        links, hops = 0.0, 0
        for d, size, stride in self._spans(group):
            ring = self.topology.wraps[d] and size * stride == self.topology.shape[d]
            links += (2 if ring else 1) / stride
            hops += size * stride // 2 if ring else (size - 1) * stride
        if links == 0:
            return _DIE_LINKS, 1
        whole_chips = len(np.unique(self.devices.core[list(group)])) > 1
        return (links if whole_chips else links / self.topology.chip.devices), hops

    def _exchange_load(self, group: tuple[int, ...]) -> float:
        """Bytes that an all-to-all sends over its busiest link, in units of an operand.

        Half of a line's data crosses its middle: s/2 chips send half of their operands
        over one link each way, which makes s/4. A ring has two links there.
        """
        load = 0.0
        for d, size, stride in self._spans(group):
            ring = self.topology.wraps[d] and size * stride == self.topology.shape[d]
            load = max(load, size * stride / (8 if ring else 4))
        return load * self.topology.chip.devices or 1 / _DIE_LINKS

    def _permute_load(self, pairs: Groups) -> float:
        """Messages of a permute that cross its busiest link.

        Each goes along one dimension after another, the shorter way round a ring.
        """
        messages: dict[tuple, int] = {}
        shape, wraps = self.topology.shape, self.topology.wraps
        for source, target in pairs:
            position = list(self.devices.coords[source])
            end = self.devices.coords[target]
            for d in range(len(shape)):
                distance = int(end[d] - position[d])
                if wraps[d] and abs(distance) * 2 > shape[d]:
                    distance -= int(np.sign(distance)) * shape[d]
                for _ in range(abs(distance)):
                    step = int(np.sign(distance))
                    link = (*position, d, step)
                    messages[link] = messages.get(link, 0) + 1
                    position[d] = (position[d] + step) % shape[d]
        return float(max(messages.values(), default=1 / _DIE_LINKS))
