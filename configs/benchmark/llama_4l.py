"""A Llama-shaped decoder of four layers, for timing.

python -m experiments.benchmark --config=configs/benchmark/llama_4l.py
"""

import ml_collections

from llmjax import config as cfg


def get_config() -> ml_collections.ConfigDict:
    config = cfg.default()
    config.data.batch_size = 4
    config.data.seq_len = 512
    config.model.vocab_size = 8192
    config.model.d_model = 512
    config.model.d_ff = 1408
    config.model.num_layers = 4
    config.model.num_heads = 8
    config.model.num_kv_heads = 4
    config.model.tie_embeddings = False
    config.layout.plan_topology = "v5e:2x2"
    config.layout.plan_gpus = "h100:4"
    config.layout.unroll = 4
    config.layout.attention.kind = "blocked"
    return config
