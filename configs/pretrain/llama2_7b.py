"""Llama 2 7B (Touvron et al. 2023, arXiv:2307.09288), on 64 chips of TPU v5p.

    python -m experiments.plan --config=configs/pretrain/llama2_7b.py
    python -m experiments.pretrain --config=configs/pretrain/llama2_7b.py \
        --workdir=gs://BUCKET/llama2_7b

The sizes of meta-llama/Llama-2-7b-hf and the paper's optimizer (2.2), with a quarter of
its 4M tokens a step; `--config.data.batch_size=1024 --config.layout.microbatches=4`
are all of them. Planned, never trained.
"""

import ml_collections

from llmjax import config as cfg


def get_config() -> ml_collections.ConfigDict:
    """The fastest layout that was found for these chips."""
    config = base()
    # Over all 64 the compiler gathers weights by sums, over 16 it does not: so there
    # are four copies of them, and the optimizer's state is cut over these.
    config.layout.data = 4
    config.layout.optimizer_sharding = "data"
    config.layout.plan_gpus = "h100:8x16"  # on 8x8 it fits with little to spare
    config.layout.attention.block_q = 1024
    config.layout.attention.block_kv = 1024
    # 15 % fewer cycles; it compiles several times as long
    config.layout.compiler_options = ("xla_tpu_scoped_vmem_limit_kib=65536",)
    return config


def base() -> ml_collections.ConfigDict:
    """The run with weights cut over all chips, for other chips and models."""
    config = cfg.default()
    config.data.source = "tfds:c4/en"
    config.data.tokenizer.kind = "file"
    config.data.tokenizer.path = "tokenizer.model"  # Llama 2's own
    config.data.batch_size = 256
    config.data.seq_len = 4096
    config.model.vocab_size = 32000
    config.model.d_model = 4096
    config.model.d_ff = 11008
    config.model.num_layers = 32
    config.model.num_heads = 32
    config.model.num_kv_heads = 32
    config.model.norm.epsilon = 1e-5
    config.model.tie_embeddings = False
    config.layout.plan_topology = "v5p:4x4x4"
    config.layout.plan_gpus = "h100:8x8"
    config.layout.data = 1
    config.layout.fsdp = -1
    config.layout.precision.kind = "bfloat16"
    config.layout.attention.kind = "auto"
    config.layout.remat.kind = "names"
    config.layout.remat.saved = ("query", "key", "out", "gate", "up")
    config.layout.loss_block = 256
    config.optimizer.algorithm.eps = 1e-5
    config.optimizer.learning_rate = 3e-4
    config.optimizer.schedule.warmup_steps = 2000
    config.train.steps = 500_000
    config.train.log_every = 100
    config.train.eval_every = 5000
    config.train.eval_batches = 100
    config.train.checkpoint_every = 1000
    return config
