"""Llama 3.1 405B (Dubey et al. 2024, arXiv:2407.21783), on 512 chips of TPU v5p.

    python -m experiments.plan --config=configs/pretrain/llama3_405b.py
    python -m experiments.pretrain --config=configs/pretrain/llama3_405b.py \
        --workdir=gs://BUCKET/llama3_405b

The sizes of meta-llama/Llama-3.1-405B as it was first trained, in rows of 8192, and the
paper's optimizer (3.4.1), with 4M tokens a step. Planned, never trained.
"""

import ml_collections

from configs.pretrain import llama3_8b


def get_config() -> ml_collections.ConfigDict:
    config = llama3_8b.get_config()
    config.model.d_model = 16384
    config.model.d_ff = 53248
    config.model.num_layers = 126
    config.model.num_heads = 128
    config.layout.plan_topology = "v5p:8x8x8"
    config.layout.plan_gpus = "h100:8x64"
    config.layout.remat.kind = "full"
    config.layout.remat.saved = None
    config.layout.compiler_options = ()
    config.optimizer.learning_rate = 8e-5
    return config
