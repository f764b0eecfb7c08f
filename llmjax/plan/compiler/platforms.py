"""The compilers of the platforms, and the devices of a topology that is not here."""

import contextlib
import importlib.metadata
import importlib.util
import os
import types
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from jax.experimental import topologies

from llmjax.parallel import memory
from llmjax.parallel import mesh as mesh_lib
from llmjax.plan.cost.gpus import GpuTopology
from llmjax.plan.cost.topologies import Topology

INSTALL = "pip install -e '.[tpu]'"
INSTALL_GPU = "pip install -e '.[plan-gpu]'"
PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")
# Without these libtpu queries the machine it runs on, and for other users of the chip.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def require(topology: Topology) -> None:
    """Checks that the topology's compiler is here, and readies it.

    Raises:
      ValueError: it is not installed; gives the command that installs it. Or the
        environment asks for a share of the GPUs' memory that is none.
    """
    if isinstance(topology, GpuTopology):
        memory.share()
        require_cuda()
    else:
        require_tpu()


def require_tpu() -> None:
    """Sets the environment in which libtpu loads without a TPU.

    Raises:
      ValueError: libtpu is not installed; gives the command that installs it.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            "planning needs the TPU compiler (libtpu), which is not installed; no TPU "
            f"is needed to run it: {INSTALL}; or plan for GPUs, as --topology=h100:8"
        )
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def require_cuda() -> None:
    """Checks that jax has a plugin for CUDA of its own version.

    Raises:
      ValueError: it has none, or one of another version, which jax leaves aside; gives
        the command that installs it.
    """
    plugin = next(filter(importlib.util.find_spec, PLUGINS), None)
    if plugin is None:
        raise ValueError(
            "planning for GPUs needs XLA's compiler for them (jax-cuda12-plugin and "
            "jax-cuda12-pjrt), which is not installed; no GPU and no driver is needed "
            f"to run it: {INSTALL_GPU}"
        )
    versions = importlib.metadata.version(plugin), importlib.metadata.version("jaxlib")
    if versions[0] != versions[1]:
        raise ValueError(
            f"{plugin} is of version {versions[0]} and jaxlib of {versions[1]}; they "
            f"work only with their equals: {INSTALL_GPU}"
        )


def has_cudnn() -> bool:
    """Whether cuDNN is here, without which its attention kernel does not compile."""
    from jax._src.lib import cuda_versions  # as jax itself asks

    try:
        return cuda_versions is not None and cuda_versions.cudnn_get_version() > 0
    except RuntimeError:
        return False


@contextlib.contextmanager
def libraries(topology: Topology, cudnn: bool) -> Iterator[None]:
    """Traces with the libraries that kernels come from, or without cuDNN.

    Raises:
      ValueError: something traced inside needs cuDNN, which is not here.
    """
    if isinstance(topology, GpuTopology) and not cudnn:
        kind = topology.chip.device_kind
        plain = types.SimpleNamespace(platform="gpu", device_kind=kind)
        with mesh_lib.targeting(plain):
            yield
        return
    try:
        yield
    except RuntimeError as e:
        if "cuDNN" not in str(e):
            raise
        raise ValueError(
            "the run's attention is cuDNN's kernel, and compiling it needs cuDNN, "
            f"which is not installed; no GPU is needed to run it: {INSTALL_GPU}; or "
            "plan another, as --config.layout.attention.kind=chunked"
        ) from e


def devices(topology: Topology) -> Sequence[jax.Device]:
    """Devices of a topology; none of them has to exist.

    Raises:
      ValueError: the compiler does not know the topology.
    """
    settings: dict[str, Any] = dict(topology.options)
    try:
        return topologies.get_topology_desc(
            platform=topology.platform, **settings
        ).devices
    except (jax.errors.JaxRuntimeError, NotImplementedError) as e:
        raise ValueError(
            f"the compiler does not know the topology {topology.name!r}: "
            f"{str(e).splitlines()[0]}"
        ) from e
