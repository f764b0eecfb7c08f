"""The plain loop of the benchmark trains the very model that it is timed beside."""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from experiments import benchmark, benchmark_plain
from llmjax import config as cfg
from llmjax.data.tokenizers.vocabulary import PlainVocabulary
from llmjax.parallel import mesh as mesh_lib
from llmjax.tasks.registry import make_task
from llmjax.train import setup

BLOCK = {  # ours within a layer -> the plain loop's, whose k-th layer has two norms
    "attention/query": "Attention_{k}/query",
    "attention/key": "Attention_{k}/key",
    "attention/value": "Attention_{k}/value",
    "attention/out": "Attention_{k}/out",
    "attention_norm": "{norm}_{first}",
    "mlp_norm": "{norm}_{second}",
    "mlp/up": "Dense_{up}",
    "mlp/gate": "Dense_{gate}",
    "mlp/down": "Dense_{down}",
}
WHOLE = {
    "embedder/table": "Embed_0/embedding",
    "embedder/positions": "Embed_1/embedding",
    "stack/final_norm": "{norm}_{last}",
}


def shrunk(name: str) -> cfg.RunConfig:
    """A benchmark's config with toy sizes; heads, kinds and depth stay."""
    config = importlib.import_module(f"configs.benchmark.{name}").get_config()
    config.data.batch_size = 8
    config.data.seq_len = 16
    config.model.vocab_size = 64
    config.model.d_model = 48
    config.model.d_ff = 40
    config.model.num_layers = 2
    config.layout.unroll = 1
    return cfg.parse(config)


def ours_from(plain, shapes, config):
    """The plain loop's weights under our names, stacked over layers."""
    flat = flatten_dict(plain, sep="/")
    model = config.model
    norm = "RMSNorm" if isinstance(model.norm, cfg.RMSNorm) else "LayerNorm"
    step = 3 if isinstance(model.mlp, cfg.Gated) else 2

    def find(name, k=0):
        numbers = {
            "norm": norm,
            "k": k,
            "first": 2 * k,
            "second": 2 * k + 1,
            "last": 2 * model.L,
            "up": step * k + step - 2,
            "gate": step * k,
            "down": step * k + step - 1,
        }
        return flat.pop(name.format(**numbers))

    ours = {}
    for name in flatten_dict(shapes, sep="/"):
        if "/group_0/layer_0/" in name:
            module, _, leaf = name.partition("/layer_0/")[2].rpartition("/")
            path = f"{BLOCK[module]}/{leaf}"
            ours[name] = jnp.stack([find(path, k) for k in range(model.L)])
            continue
        short = name.removeprefix("transformer/")
        if short in WHOLE:
            ours[name] = find(WHOLE[short])
        elif short == "unembedding":
            ours[name] = find(f"Dense_{step * model.L}/kernel").T
        elif short.startswith("classifier/"):
            ours[name] = find(f"Dense_{step * model.L}/{short.split('/')[1]}")
        else:
            module, _, leaf = short.rpartition("/")
            ours[name] = find(f"{WHOLE[module]}/{leaf}")
    assert not flat, sorted(flat)
    return unflatten_dict(ours, sep="/")


@pytest.mark.parametrize("name", ["gpt2_6l", "llama_4l", "minilm_classify"])
def test_same_weights_give_the_same_loss_and_the_same_gradient(name):
    config = shrunk(name)
    task = make_task(config, PlainVocabulary(config.model.vocab_size))
    rows = benchmark.without_packing(task.example_batch(config.data.batch_size))
    program = setup.build(config, task, rows)
    contestant = benchmark.plain(config, rows)
    started = jax.device_get(contestant.state.params)  # its step donates them
    ours = ours_from(started, program.abstract.params, config)
    state = program.with_params(program.init(), ours)
    with mesh_lib.use(program.mesh):
        state, (metrics, _) = program.step(state, program.place(rows))
    plain_state, plain_loss = contestant.step(contestant.state, contestant.batch)
    total, count = metrics["loss"]
    np.testing.assert_allclose(total / count, plain_loss, rtol=1e-5)
    mu = optax.tree.get(plain_state.opt_state, "mu")  # a tenth of the clipped gradient
    plain = ours_from(mu, program.abstract.params, config)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7),
        optax.tree.get(state.opt_state, "mu"),
        plain,
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.dropout", 0.1),
        ("model.embedding_scale", 2.0),
        ("model.groups", (cfg.Group(2, (cfg.LayerSpec(cfg.SlidingWindow(8)),)),)),
        ("model.head_dim", 64),
        ("model.softcap", 30.0),
        ("model.output_bias", True),
        ("model.qk_norm", "head"),
        ("model.biases", "qkv"),
        ("model.mlp", cfg.Plain("relu_squared")),
        ("model.norm", cfg.RMSNorm(offset=1.0)),
        ("model.positions", cfg.Rotary(interleaved=True)),
        ("model.architecture", "encoder"),
        ("task", cfg.SequenceClassification(2)),
        ("optimizer.ema", 0.9),
        ("optimizer.freeze", ("transformer/embedder/*",)),
        ("layout.precision", cfg.BFloat16()),
        ("layout.quantization", cfg.Int8()),
        ("loss.z_loss", 1e-4),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_what_the_plain_loop_would_leave_out_is_refused(key, value):
    config = shrunk("llama_4l")
    benchmark_plain.check(config)
    section, _, field = key.partition(".")
    if field:
        value = dataclasses.replace(getattr(config, section), **{field: value})
    with pytest.raises(
        ValueError, match=rf"^({key}|{section}|model\.arch\w+)=.* is not in the plain"
    ):
        benchmark_plain.check(dataclasses.replace(config, **{section: value}))
