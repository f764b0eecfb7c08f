"""Seconds that a transfer keeps the links of a torus busy.

Costs of collectives on a torus: Austin et al. 2025, "How to Scale Your Model", part 3
("Sharded Matrices and How to Multiply Them"): gathers and scatters run rings along all
dimensions that the group spans at once; on a dimension without wrap-around one link
must carry everything.
"""

import functools

import numpy as np

from llmjax.plan.chips import HOP_SECONDS, Topology
from llmjax.plan.collectives import Collective, Devices, Groups

# Die-to-die link of a chip with two devices, in units of one ICI link:
# https://docs.cloud.google.com/tpu/docs/tpu7x, "six times faster than a 1D ICI link".
_DIE_LINKS = 6.0


class Links:
    """Times of transfers over one topology."""

    def __init__(self, topology: Topology, devices: Devices):
        self.topology = topology
        self.devices = devices
        self._ring = functools.cache(self._ring_links)
        self._load = functools.cache(self._permute_load)

    def seconds(self, transfer: Collective) -> float:
        """Of one execution, alone on its network."""
        chip = self.topology.chip
        if transfer.network == "host":
            return transfer.link_bytes * chip.devices / chip.host_bandwidth
        if transfer.network == "dcn":
            return transfer.link_bytes * chip.devices / chip.dcn_bandwidth
        if transfer.kind == "collective-permute":
            load = self._load(transfer.groups)
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

    def channel(self, transfer: Collective) -> frozenset:
        """The links that the transfer keeps busy: (dimension, direction), or a network.

        Permutes up and down a ring use the two directions of its links.
        """
        if transfer.network != "ici":
            return frozenset([transfer.network])
        members = tuple({x for group in transfer.groups for x in group})
        one_way = transfer.kind == "collective-permute"
        if not one_way:
            members = transfer.groups[0]
        dimensions = [d for d, _, _ in self._spans(members)]
        ways = [1, -1]
        if one_way:
            source, target = transfer.groups[0]
            ways = [1 if target == source + 1 else -1]
        return frozenset((d, way) for d in dimensions for way in ways)

    def _spans(self, group: tuple[int, ...]) -> list[tuple[int, int, int]]:
        """(dimension, chips along it, distance between them) of a group."""
        coords = self.devices.coords[list(group)]
        spans = []
        for d in range(len(self.topology.shape)):
            places = np.unique(coords[:, d])
            if len(places) > 1:
                spans.append((d, len(places), int(np.diff(places).min())))
        return spans

    def _ring_links(self, group: tuple[int, ...]) -> tuple[float, int]:
        """Links that bring data to one device at once, and hops to the farthest.

        Two along a ring, one along a line; a group of every s-th chip shares each link
        with s - 1 others.
        """
        links, hops = 0.0, 0
        for d, size, stride in self._spans(group):
            ring = self.topology.wraps[d] and size * stride == self.topology.shape[d]
            links += (2 if ring else 1) / stride
            hops += size * stride // 2 if ring else (size - 1) * stride
        both = len(np.unique(self.devices.core[list(group)])) > 1
        if links == 0:
            return _DIE_LINKS, 1
        return (links if both else links / self.topology.chip.devices), hops

    def _exchange_load(self, group: tuple[int, ...]) -> float:
        """All-to-all: operands' worth of bytes over the busiest link.

        Half of a line's data crosses its middle: s/2 chips send half of theirs over one
        link each way, s/4 operands; of a ring over two.
        """
        load = 0.0
        for d, size, stride in self._spans(group):
            ring = self.topology.wraps[d] and size * stride == self.topology.shape[d]
            load = max(load, size * stride / (8 if ring else 4))
        return load * self.topology.chip.devices or 1 / _DIE_LINKS

    def _permute_load(self, pairs: Groups) -> float:
        """Messages over the busiest link, each sent along one dimension after another,
        the shorter way round where there are two."""
        used: dict[tuple, int] = {}
        shape, wraps = self.topology.shape, self.topology.wraps
        for source, target in pairs:
            place = list(self.devices.coords[source])
            end = self.devices.coords[target]
            for d in range(len(shape)):
                distance = int(end[d] - place[d])
                if wraps[d] and abs(distance) * 2 > shape[d]:
                    distance -= int(np.sign(distance)) * shape[d]
                for _ in range(abs(distance)):
                    step = int(np.sign(distance))
                    link = (*place, d, step)
                    used[link] = used.get(link, 0) + 1
                    place[d] = (place[d] + step) % shape[d]
        return float(max(used.values(), default=1 / _DIE_LINKS))
