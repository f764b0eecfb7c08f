"""Eight devices on a CPU, a compilation cache in the repository, and tiny models."""

import gc
import importlib.metadata
import importlib.util
import os
from pathlib import Path

FLAGS = "--xla_force_host_platform_device_count=8"
# the emitters compile a tiny program in twice the time; XLA ends the process of who
# doesn't know a flag: jaxlib 0.11 has no other emitters, and libtpu none at all
with_tpu_compiler = importlib.util.find_spec("libtpu") is not None
if importlib.metadata.version("jaxlib").startswith("0.10.") and not with_tpu_compiler:
    FLAGS += " --xla_cpu_use_fusion_emitters=false"
CACHE = Path(__file__).parents[1] / ".cache" / "jax"

os.environ["JAX_PLATFORMS"] = "cpu"
# of a repeated flag the last one counts
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}".strip()
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

# while tests are collected: a collection amid ast.parse fails it (cpython#106905)
gc.disable()

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.config import ModelConfig


def pytest_collection_finish() -> None:
    gc.enable()


def pytest_sessionfinish() -> None:
    """Collects what is left, and no more: pytest does once the session is over, when a
    worker of xdist is interrupted after five seconds, which a whole suite exceeds."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny() -> ModelConfig:
    """A decoder whose axes all differ in size: D 16, F 24, N 4, K 2, H 6, V 40."""
    return ModelConfig(
        vocab_size=40,
        d_model=16,
        d_ff=24,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=6,
    )


@pytest.fixture(scope="session")
def random_params():
    """(module, *args) -> params by numpy, none of them 0 or 1 as an initialiser's."""

    def make(module: nn.Module, *args, std: float = 0.3, method=None):
        rng = np.random.default_rng(0)

        def leaf(path, shape):
            around = 1.0 if "scale" in jax.tree_util.keystr(path) else 0.0
            return jnp.float32(around + std * rng.standard_normal(shape.shape))

        shapes = jax.eval_shape(
            lambda *a: module.init(*a, method=method), jax.random.key(0), *args
        )
        params = nn.unbox(shapes).get("params", {})
        return jax.tree_util.tree_map_with_path(leaf, params)

    return make


@pytest.fixture
def quick_compile():
    """Compiles three times faster, for programs that run for microseconds."""
    before = jax.config.values["jax_disable_most_optimizations"]  # a package's own
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
