"""Compiler options that are worth a try, by chip, with what each does.

The names and values are those of MaxText's recipes (`benchmarks/xla_flags_library.py`
and the recipes of AI-Hypercomputer/tpu-recipes). libtpu documents none of them: what
stands here was read off compiled steps, or off the recipes. None changes the numbers
that a step computes, up to rounding.
"""

import dataclasses

from llmjax.config import NamesRemat, RunConfig
from llmjax.plan.cost.topologies import Topology


@dataclasses.dataclass(frozen=True)
class Option:
    """Options of the compiler that belong together, as `layout.compiler_options`."""

    settings: tuple[str, ...]
    what: str

    @property
    def names(self) -> set[str]:
        """The options that it sets."""
        return {setting.partition("=")[0] for setting in self.settings}

    def added(self, options: tuple[str, ...]) -> tuple[str, ...]:
        """Options with these, in place of other values of them."""
        others = (o for o in options if o.partition("=")[0] not in self.names)
        return (*others, *self.settings)


def vmem(kib: int) -> Option:
    """An option that gives each fusion and kernel so much of a core's fast memory."""
    return Option(
        (f"xla_tpu_scoped_vmem_limit_kib={kib}",),
        f"a fusion or kernel may hold {kib // 1024} MiB of a core's fast memory: "
        "larger tiles of matmuls and blocks of attention, and longer compiles",
    )


GATHERS_AHEAD = Option(
    ("xla_tpu_enable_ag_backward_pipelining=true",),
    "the backward loop gathers a layer's weights during the layer before",
)
HOST_TRANSFERS = Option(
    (
        "xla_tpu_enable_all_experimental_scheduler_features=true",
        "xla_tpu_enable_scheduler_memory_pressure_tracking=true",
        "xla_tpu_host_transfer_overlap_limit=24",
        "xla_max_concurrent_host_send_recv=100",
        "xla_tpu_scheduler_percent_shared_memory_limit=100",
        "xla_latency_hiding_scheduler_rerun=2",
    ),
    "more transfers to and from the host's memory at a time, started earlier",
)
SLICES = Option(
    (
        "xla_tpu_enable_data_parallel_all_reduce_opt=true",
        "xla_tpu_data_parallel_opt_different_sized_ops=true",
    ),
    "sums of gradients between slices go beside several iterations of a loop",
)

# KiB; a core has 128 MiB, of which a fusion gets a part unasked.
LIMITS = {"v5e": (65536, 98304), "v5p": (65536, 81920), "v6e": (98304, 65536)}


def options(config: RunConfig, topology: Topology) -> list[Option]:
    """Options for a run, those that are expected to give most first."""
    if topology.platform != "tpu":
        return []
    found = [vmem(kib) for kib in LIMITS.get(topology.chip.name, ())]
    if isinstance(config.layout.remat, NamesRemat) and config.layout.remat.offloaded:
        found.append(HOST_TRANSFERS)
    if config.layout.optimizer_memory == "host":
        found.append(HOST_TRANSFERS)
    if topology.num_slices > 1:
        found.append(SLICES)
    return [*dict.fromkeys(found), GATHERS_AHEAD]
