"""FLOPs by hand for the benchmarks, and that every config builds and steps."""

import importlib
from pathlib import Path

import jax
import pytest

from experiments.benchmark import random_batch
from llmjax import config as cfg
from llmjax.parallel.mesh import make_mesh, use
from llmjax.tasks.registry import make_task
from llmjax.train import flops, setup
from tests.train import toy

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(
    ".".join(p.relative_to(ROOT).with_suffix("").parts)
    for p in (ROOT / "configs").rglob("*.py")
    if p.name != "__init__.py"
)


def load(name):
    return cfg.parse(importlib.import_module(name).get_config())


@pytest.mark.parametrize(
    ("name", "layer", "output", "square", "causal"),
    [
        # q, k, v, o of 384 x 384 and two of 384 x 1536; 12 L T (N H) per token
        (
            "gpt2_6l",
            4 * 384 * 384 + 2 * 384 * 1536,
            384 * 8192,
            12 * 6 * 256 * 384,
            0.5,
        ),
        # q, o of 512 x 512, k, v of 512 x 256 (four heads of 64), three of 512 x 1408
        (
            "llama_4l",
            2 * 512 * 512 + 2 * 512 * 256 + 3 * 512 * 1408,
            512 * 8192,
            12 * 4 * 512 * 512,
            0.5,
        ),
        # an encoder with two outputs: nothing is causal
        (
            "minilm_classify",
            4 * 384 * 384 + 2 * 384 * 1536,
            384 * 2,
            12 * 6 * 128 * 384,
            1.0,
        ),
    ],
)
def test_flops_of_the_benchmarks(name, layer, output, square, causal):
    config = load(f"configs.benchmark.{name}")
    B, T = config.data.batch_size, config.data.seq_len
    outputs = getattr(config.task, "num_labels", None)
    weights = 6 * (config.model.L * layer + output)
    assert flops.training_flops(config.model, B * T, T, outputs) == (
        B * T * (weights + square),
        B * T * (weights + causal * square),
    )


def test_flops_of_llama_4l_in_one_number():
    """6 (4 (524288 + 262144 + 2162688) + 4194304) 2048 + 12 4 512 512 2048."""
    config = load("configs.benchmark.llama_4l")
    assert flops.training_flops(config.model, 2048, 512)[0] == 222_264_557_568


def test_an_encoder_decoder_counts_both_stacks_and_the_cross_attention():
    cfg_ = toy.change(toy.CONFIG, model={"architecture": "encoder_decoder"}).model
    attention, mlp = 4 * 16 * 16, 3 * 16 * 32
    layers = 2 * (2 * (attention + mlp) + attention)
    assert flops.matmul_weights(cfg_) == layers + 16 * 64


def test_a_peak_is_measured_where_none_is_published(monkeypatch):
    monkeypatch.setattr(flops, "CPU_SHAPES", ((64, 32, 16), (8, 8, 8)))
    peak, measured = flops.matmul_peak(repeats=2)
    assert set(measured) == {"64x32x16", "8x8x8"}
    assert peak == max(measured.values()) > 0


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_builds_and_its_step_keeps_the_shapes(name):
    """Under eval_shape: however large, nothing is computed."""
    config = load(name)
    vocabulary = toy.Vocabulary()
    vocabulary.vocab_size = config.model.vocab_size
    task = make_task(config, vocabulary)
    mesh = make_mesh(config.layout, jax.devices()[:1])
    program = setup.build(config, task, random_batch(config), mesh=mesh)
    with use(mesh):
        state, (metrics, scalars) = jax.eval_shape(
            program.step, program.abstract, program.batch
        )
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), program.abstract)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == shapes
    assert {"loss"} <= set(metrics) and "grad_norm" in scalars
    assert {x.dtype.name for x in jax.tree.leaves(program.abstract.params)} == {
        "float32"
    }
