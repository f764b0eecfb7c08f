"""Topologies of either kind, by name."""

from llmjax.plan.cost import chips, gpus
from llmjax.plan.cost.chips import CHIPS
from llmjax.plan.cost.gpus import GPUS, GpuTopology

Topology = chips.Topology | GpuTopology


def of_gpus(text: str) -> bool:
    """Whether a topology's name is one of GPUs."""
    return text.partition(":")[0] in GPUS


def parse(text: str, num_slices: int = 1) -> Topology:
    """Parses a name as "v5p:4x4x4", TPU chips, or "h100:8x16", GPUs x hosts.

    Raises:
      ValueError: an unknown chip or GPU, or shape; names those that are accepted; or
        slices of GPUs, whose hosts are part of the name.
    """
    if text.partition(":")[0] in CHIPS:
        return chips.parse(text, num_slices)
    if not of_gpus(text):
        raise ValueError(
            f"topology is {text!r}; it is CHIP:SHAPE, as v5e:16x16 or v5p:4x4x4, with "
            f"a chip of {', '.join(CHIPS)}; or GPU:COUNTxHOSTS, as h100:8 or "
            f"h100:8x16, with a GPU of {', '.join(GPUS)}"
        )
    if num_slices != 1:
        raise ValueError(
            f"num_slices is {num_slices} and the topology {text!r}; slices are of "
            "TPUs, and hosts with GPUs are part of the name, as h100:8x16"
        )
    return gpus.parse(text)
