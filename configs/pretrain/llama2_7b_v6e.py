"""Llama 2 7B on 256 chips of TPU v6e: 12 rows of 4096 tokens a chip.

    python -m experiments.plan --config=configs/pretrain/llama2_7b_v6e.py

The batch of MaxText's recommended settings (`tests/proofs/maxtext.py` compares both),
in the layout that a search found for it. Planned, never trained.
"""

import ml_collections

from configs.pretrain import llama2_7b


def get_config() -> ml_collections.ConfigDict:
    config = llama2_7b.base()
    config.data.batch_size = 3072
    config.layout.plan_topology = "v6e:16x16"
    config.layout.plan_gpus = "h100:8x32"
    config.layout.attention.block_q = 1024
    config.layout.attention.block_kv = 1024
    config.layout.remat.kind = "full"  # one activation more takes 12 GiB
    config.layout.remat.saved = None
    config.layout.loss_block = 512
    # with the blocks 14 % off the predicted step; it compiles several times as long
    config.layout.compiler_options = ("xla_tpu_scoped_vmem_limit_kib=98304",)
    return config
