"""Llama 3 70B (Dubey et al. 2024, arXiv:2407.21783), on 256 chips of TPU v6e.

    python -m experiments.plan --config=configs/pretrain/llama3_70b.py
    python -m experiments.pretrain --config=configs/pretrain/llama3_70b.py \
        --workdir=gs://BUCKET/llama3_70b

The sizes of meta-llama/Meta-Llama-3-70B and the paper's optimizer (3.4.1), with rows of
8192 and 4M tokens a step. Planned, never trained.
"""

import ml_collections

from configs.pretrain import llama3_8b


def get_config() -> ml_collections.ConfigDict:
    config = llama3_8b.get_config()
    config.model.d_model = 8192
    config.model.d_ff = 28672
    config.model.num_layers = 80
    config.model.num_heads = 64
    config.layout.remat.saved = None
    config.layout.remat.offloaded = ("input",)  # 20 GiB a chip, of 31
    config.optimizer.learning_rate = 1.5e-4
    return config
