"""Mixtral 8x7B (Jiang et al. 2024, arXiv:2401.04088), on 256 chips of TPU v5p.

    python -m experiments.plan --config=configs/pretrain/mixtral_8x7b.py
    python -m experiments.pretrain --config=configs/pretrain/mixtral_8x7b.py \
        --workdir=gs://BUCKET/mixtral_8x7b

The sizes of mistralai/Mixtral-8x7B-v0.1. How it was trained is not published: rows of
4096, Llama 2's optimizer, and 4M tokens a step. Experts take 1.25 times their share of
a row's tokens; `--config.model.mlp.dispatch.kind=dropless` drops none. Planned, never
trained.
"""

import ml_collections

from configs.pretrain import llama2_7b


def get_config() -> ml_collections.ConfigDict:
    config = llama2_7b.base()
    config.data.batch_size = 1024
    config.model.num_kv_heads = 8
    config.model.positions.theta = 1e6
    config.model.mlp.kind = "mixture"
    config.model.mlp.num_experts = 8
    config.model.mlp.top_k = 2
    config.model.mlp.d_ff = 14336
    config.model.mlp.dispatch.kind = "capacity"
    config.layout.plan_topology = "v5p:4x8x8"
    config.layout.plan_gpus = "h100:8x32"
    config.layout.remat.saved = ("query", "key", "value", "context", "out")
    return config
