"""Llama 2 70B (Touvron et al. 2023, arXiv:2307.09288), on 512 chips of TPU v5p.

    python -m experiments.plan --config=configs/pretrain/llama2_70b.py
    python -m experiments.pretrain --config=configs/pretrain/llama2_70b.py \
        --workdir=gs://BUCKET/llama2_70b

The sizes of meta-llama/Llama-2-70b-hf; the paper's 4M tokens a step and its optimizer.
Planned, never trained.
"""

import ml_collections

from configs.pretrain import llama2_7b


def get_config() -> ml_collections.ConfigDict:
    config = llama2_7b.base()
    config.data.batch_size = 1024
    config.model.d_model = 8192
    config.model.d_ff = 28672
    config.model.num_layers = 80
    config.model.num_heads = 64
    config.model.num_kv_heads = 8
    config.layout.plan_topology = "v5p:8x8x8"
    config.layout.plan_gpus = "h100:8x64"
    config.layout.remat.saved = ("query", "key", "value", "context", "out")
    config.optimizer.learning_rate = 1.5e-4
    return config
