"""Llama 2 7B on 256 chips of TPU v5e: 4 rows of 2048 tokens a chip.

    python -m experiments.plan --config=configs/pretrain/llama2_7b_v5e.py

The batch of MaxText's recommended settings (`tests/proofs/maxtext.py` compares both),
in the layout that a search found for it. Planned, never trained.
"""

import ml_collections

from configs.pretrain import llama2_7b


def get_config() -> ml_collections.ConfigDict:
    config = llama2_7b.base()
    config.data.batch_size = 1024
    config.data.seq_len = 2048
    config.layout.plan_topology = "v5e:16x16"
    config.layout.plan_gpus = "h100:8x32"
    config.layout.remat.saved = ("value", "out")
    # 9 % fewer cycles; it compiles several times as long
    config.layout.compiler_options = ("xla_tpu_scoped_vmem_limit_kib=65536",)
    return config
