"""FLOPs by hand for the benchmarks, and that every config builds and steps."""

import dataclasses
import importlib
from pathlib import Path

import jax
import pytest

from llmjax import config as cfg
from llmjax.data.tokenizers.vocabulary import PlainVocabulary
from llmjax.models.heads.language import LanguageModel
from llmjax.parallel.axes import param_axes
from llmjax.parallel.mesh import make_mesh, use
from llmjax.tasks.registry import make_task
from llmjax.train import setup
from llmjax.train.metrics import flops
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


def test_the_published_active_weights_of_mixtral_8x7b():
    """Jiang et al. 2024: 12.9e9 a token; here without the 32000 x 4096 embeddings."""
    model = cfg.ModelConfig(
        vocab_size=32000,
        d_model=4096,
        num_layers=32,
        num_heads=32,
        num_kv_heads=8,
        mlp=cfg.Mixture(8, 2, 14336),
        tie_embeddings=False,
    )
    attention = 2 * 4096 * 4096 + 2 * 4096 * 1024
    experts = 2 * 3 * 4096 * 14336 + 4096 * 8
    weights = flops.matmul_weights(model)
    assert weights == 32 * (attention + experts) + 4096 * 32000
    assert round((weights + 4096 * 32000) / 1e9, 1) == 12.9


def latent_model():
    """DeepSeek-V3 (arXiv:2412.19437, 4.2)."""
    experts = cfg.Mixture(256, 8, 2048, 2048, router=cfg.SigmoidRouter(8, 4))
    dense, sparse = cfg.LayerSpec(), cfg.LayerSpec(mlp=experts)
    return cfg.ModelConfig(
        vocab_size=129280,
        d_model=7168,
        d_ff=18432,
        num_heads=128,
        head_dim=128,
        heads=cfg.Latent(1536, 512, 64, 128),
        groups=(cfg.Group(3, (dense,)), cfg.Group(58, (sparse,))),
        tie_embeddings=False,
    )


def test_the_published_active_weights_of_deepseek_v3():
    """37e9 a token, its 0.9e9 embeddings counted with them (their model card)."""
    D, N = 7168, 128
    queries = D * 1536 + 1536 * N * (128 + 64)
    keys_values = D * (512 + 64) + 512 * N * (128 + 128)
    attention = queries + keys_values + N * 128 * D
    dense, sparse = 3 * D * 18432, 9 * 3 * D * 2048 + 256 * D
    weights = flops.matmul_weights(latent_model())
    assert weights == 61 * attention + 3 * dense + 58 * sparse + D * 129280
    assert int((weights + D * 129280) / 1e9) == 37


def test_the_square_of_latent_attention_has_its_own_sizes():
    """12 L T N (128 + 64 + 128) / 2: scores of 192 sizes, values of 128."""
    model = latent_model()
    full, causal = flops.training_flops(model, 10, 4096)
    square = 12 * 61 * 4096 * 128 * 160
    assert full - 60 * flops.matmul_weights(model) == 10 * square
    assert full - causal == 5 * square


def test_the_squares_of_an_encoder_decoder_are_those_of_its_three_attentions():
    """A window hides nothing from the count; only the decoder's own is causal."""
    window = cfg.LayerSpec(cfg.SlidingWindow(2))
    model = toy.change(
        toy.CONFIG,
        model={
            "architecture": "encoder_decoder",
            "encoder_groups": (cfg.Group(5, (window,)),),
        },
    ).model
    full, causal = flops.training_flops(model, 10, 8)
    square = 12 * 8 * 16 * 10
    assert full - 60 * flops.matmul_weights(model) == (5 + 2 + 2) * square
    assert full - causal == square


MIXTURE = cfg.Mixture(6, 2, 24, 40)
MODELS = {
    "layers of their own": {
        "groups": (
            cfg.Group(2, (cfg.LayerSpec(), cfg.LayerSpec(mlp=MIXTURE, d_ff=8))),
            cfg.Group(3, (cfg.LayerSpec(mlp=cfg.Plain(), d_ff=48),), shared=True),
        )
    },
    "plain experts": {
        "mlp": cfg.Mixture(4, 3, 24, 8, expert=cfg.Plain()),
        "biases": "all",
    },
    "clamped": {"mlp": cfg.ClampedGated(), "num_kv_heads": 1},
    "latent": {"heads": cfg.Latent(None, 12, 4, 10), "head_dim": 6},
    "factorised": {
        "architecture": "encoder",
        "embedding_size": 6,
        "output": cfg.Transformed(),
        "groups": (cfg.Group(4, shared=True),),
    },
    "encoder-decoder": {
        "architecture": "encoder_decoder",
        "encoder_groups": (cfg.Group(3, (cfg.LayerSpec(mlp=MIXTURE),)),),
    },
    "transformer-xl": {"positions": cfg.TransformerXL()},
}


@pytest.mark.parametrize("name", MODELS)
def test_matmul_weights_are_the_kernels_of_the_model(name):
    """All of them, repeated where shared, of experts those that a token reaches."""
    model = toy.change(toy.CONFIG, model=MODELS[name]).model
    tokens = jax.ShapeDtypeStruct((2, 4), "int32")
    batch = {"tokens": tokens}
    if model.architecture == "encoder_decoder":
        batch["encoder_tokens"] = tokens
    params, _ = param_axes(LanguageModel(model), batch)
    total = model.vocab_size * (model.embedding_size or model.d_model)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        keys = [p.key for p in path]
        if keys[-1] != "kernel" or keys[-2] == "relative":
            continue
        times = 1
        if "stack" in keys or "encoder" in keys:
            stack = model.encoder_layers if "encoder" in keys else model.layers
            group = stack[int(keys[2].removeprefix("group_"))]
            times = group.repeat if group.shared else 1
            mlp, _ = model.layer_mlp(group.pattern[int(keys[3].removeprefix("layer_"))])
            if "experts" in keys:
                times = times * mlp.top_k / mlp.num_experts
        total += times * leaf.size
    assert flops.matmul_weights(model) == total


def test_a_peak_is_measured_where_none_is_published(monkeypatch):
    monkeypatch.setattr(flops, "CPU_SHAPES", ((64, 32, 16), (8, 8, 8)))
    peak, measured = flops.matmul_peak(repeats=2)
    assert set(measured) == {"64x32x16", "8x8x8"}
    assert peak == max(measured.values()) > 0


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_builds_and_its_step_keeps_the_shapes(name):
    """Under eval_shape: however large, nothing is computed."""
    config = load(name)
    tokens = getattr(config.data.tokenizer, "vocab_size", config.model.vocab_size)
    task = make_task(config, PlainVocabulary(tokens))
    single = config.layout.mesh_fields(cfg.LayoutConfig().mesh_sizes)
    layout = dataclasses.replace(config.layout, **single)
    mesh = make_mesh(layout, jax.devices()[:1])
    batch = task.example_batch(config.data.batch_size)
    program = setup.build(config, task, batch, mesh=mesh)
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
