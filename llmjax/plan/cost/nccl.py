"""Seconds of transfers between GPUs: NCCL's own model of its rings and trees.

NCCL chooses an algorithm and a protocol by the time that it expects: a latency, and the
bytes at a bus bandwidth (src/graph/tuning.cc of NVIDIA/nccl 2.28, whose constants
follow; bus bandwidth as in NVIDIA/nccl-tests, doc/PERFORMANCE.md). A ring of several
hosts enters and leaves each host through the adapters of all members in it. XLA queues
collectives on one stream, so that they never share the links.
"""

import math

from llmjax.plan.cost.gpus import GpuTopology
from llmjax.plan.hlo.collectives import Collective, Devices

# Protocols: LL, LL128, Simple. Seconds to begin, and of one hop, by algorithm.
_BASE = {"ring": (6.6e-6, 14.0e-6, 8.4e-6), "tree": (6.8e-6, 14.0e-6, 8.4e-6)}
_HOP = {
    ("ring", "nvlink"): (0.6e-6, 1.9e-6, 3.4e-6),
    ("ring", "pcie"): (1.0e-6, 2.5e-6, 5.7e-6),
    ("ring", "network"): (2.7e-6, 4.0e-6, 14.0e-6),
    ("tree", "nvlink"): (0.6e-6, 1.25e-6, 4.0e-6),
    ("tree", "pcie"): (1.0e-6, 1.9e-6, 4.0e-6),
    ("tree", "network"): (5.0e-6, 8.5e-6, 14.0e-6),
}
# Share of the bandwidth that a protocol carries besides its flags.
_PROTOCOL = (0.25, 0.92, 1.0)
_TREE = 0.92
# GB/s that NCCL counts per NVLink, of 25 (src/graph/topo.h: SM80_NVLINK_BW 20.0,
# SM90_NVLINK_BW 20.6) or 50 (SM100_NVLINK_BW 40.1), by major compute capability.
_NVLINK_SHARE = {8: 20.0 / 25, 9: 20.6 / 25, 10: 40.1 / 50}
_NVLS_LATENCY = 25e-6
# In one host of an HGX the switches themselves add (NVLink SHARP). Bus bandwidth of
# all_reduce_perf on 8 H100: 475 of 450 GB/s, as aliyun/SimAI has it (calbusbw.h,
# H100_NVLS_BW); nccl-tests in public logs show 460 to 480.
_NVLS_SHARE = 475 / 450
# Measured share of an adapter's line rate: 48.5 of 50 GB/s (SimAI, CX7_BW).
_ADAPTER_SHARE = 48.5 / 50
# And of PCIe's, from the host's memory to an H100: 54.8 of 64 GB/s
# (https://github.com/aigatech/vpbenchmarking).
_PCIE_SHARE = 54.8 / 64


class GpuLinks:
    """Times of transfers over one cluster, and the queues that they wait in."""

    def __init__(self, topology: GpuTopology, devices: Devices):
        self.topology = topology
        self.devices = devices
        gpu = topology.chip
        share = _NVLINK_SHARE.get(gpu.capability[0], 0.8) if gpu.nvlink_bandwidth else 1
        self.local = gpu.local_bandwidth * share
        self.adapter = gpu.network_bandwidth * _ADAPTER_SHARE
        self.link = "nvlink" if gpu.nvlink_bandwidth else "pcie"

    def seconds(self, transfer: Collective) -> float:
        """Time of one execution, alone on its network."""
        if transfer.network == "host":
            rate = self.topology.chip.host_bandwidth * _PCIE_SHARE
            return transfer.link_bytes / rate
        pairs = transfer.kind == "collective-permute"
        if not pairs and transfer.group_size < 2:
            return 0.0
        hosts = self.hosts(transfer)
        if pairs:
            rate = self.adapter if hosts > 1 else self.local
            hop = _HOP["ring", "network" if hosts > 1 else self.link][2]
            return _BASE["ring"][2] + hop + transfer.link_bytes / rate
        if transfer.kind in ("all-to-all", "ragged-all-to-all"):
            return self._exchange(transfer, hosts)
        return min(self._choices(transfer, hosts))

    def busy_links(self, transfer: Collective) -> frozenset:
        """The stream of collectives, or of copies to and from the host."""
        return frozenset(["host" if transfer.network == "host" else "collectives"])

    def hosts(self, transfer: Collective) -> int:
        """Hosts that a group spans, the widest group's."""
        host = self.devices.host
        return max(len(set(host[list(group)])) for group in transfer.groups)

    def _choices(self, transfer: Collective, hosts: int):
        """Seconds of each way that NCCL may choose."""
        n = transfer.group_size
        bandwidth = self._ring_bandwidth(n, hosts)
        passes = 2 if transfer.kind == "all-reduce" else 1
        across = passes * (hosts - 1)
        near = passes * (n - 1) - across
        for protocol, share in enumerate(_PROTOCOL):
            latency = _BASE["ring"][protocol] + near * _HOP["ring", self.link][protocol]
            latency += across * _HOP["ring", "network"][protocol]
            yield latency + transfer.link_bytes / (bandwidth * share)
        if transfer.kind != "all-reduce":
            return
        sent = 2 * transfer.result_bytes  # up and down
        for protocol, share in enumerate(_PROTOCOL):
            chain = (n / hosts - 1) * _HOP["tree", self.link][protocol]
            levels = math.log2(hosts) * _HOP["tree", "network"][protocol]
            latency = _BASE["tree"][protocol] + 2 * (chain + levels)
            yield latency + sent / (bandwidth * _TREE * share)
        if hosts == 1 and n > 2 and self._adds_in_switches():
            rate = self.topology.chip.nvlink_bandwidth * _NVLS_SHARE
            yield _NVLS_LATENCY + transfer.link_bytes / rate

    def _ring_bandwidth(self, n: int, hosts: int) -> float:
        """Bus bandwidth of a ring, limited by its slowest part."""
        members = n / hosts
        if hosts == 1:
            return self.local
        return min(self.local, self.adapter * members) if members > 1 else self.adapter

    def _exchange(self, transfer: Collective, hosts: int) -> float:
        """All to all: to each member a part, through its own link or adapter."""
        n = transfer.group_size
        part = transfer.link_bytes / max(n - 1, 1)
        near = n / hosts - 1
        local, across = part * near / self.local, part * (n - 1 - near) / self.adapter
        hop = _HOP["ring", "network" if hosts > 1 else self.link][2]
        return _BASE["ring"][2] + hop + max(local, across)

    def _adds_in_switches(self) -> bool:
        chip = self.topology.chip
        return chip.capability[0] in (9, 10) and chip.nvlink_bandwidth > 0
