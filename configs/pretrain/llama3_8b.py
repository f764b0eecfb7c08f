"""Llama 3 8B (Dubey et al. 2024, arXiv:2407.21783), on 256 chips of TPU v6e.

    python -m experiments.plan --config=configs/pretrain/llama3_8b.py
    python -m experiments.pretrain --config=configs/pretrain/llama3_8b.py \
        --workdir=gs://BUCKET/llama3_8b

The sizes of meta-llama/Meta-Llama-3-8B and the paper's optimizer (3.4.1), with rows of
8192 and 4M tokens a step. Planned, never trained.
"""

import ml_collections

from llmjax import config as cfg


def get_config() -> ml_collections.ConfigDict:
    config = cfg.default()
    config.data.source = "tfds:c4/en"
    config.data.tokenizer.kind = "file"
    config.data.tokenizer.path = "tokenizer.model"  # Llama 3's own, tiktoken ranks
    config.data.batch_size = 512
    config.data.seq_len = 8192
    config.model.vocab_size = 128256
    config.model.d_model = 4096
    config.model.d_ff = 14336
    config.model.num_layers = 32
    config.model.num_heads = 32
    config.model.num_kv_heads = 8
    config.model.positions.theta = 500_000.0
    config.model.norm.epsilon = 1e-5
    config.model.tie_embeddings = False
    config.layout.plan_topology = "v6e:16x16"
    config.layout.plan_gpus = "h100:8x32"
    config.layout.data = 1
    config.layout.fsdp = -1
    config.layout.precision.kind = "bfloat16"
    config.layout.attention.kind = "auto"
    config.layout.remat.kind = "names"
    config.layout.remat.saved = ("query", "key", "value", "context")
    config.layout.loss_block = 512
    # 17 % off the predicted step; it compiles four times as long
    config.layout.compiler_options = ("xla_tpu_scoped_vmem_limit_kib=98304",)
    config.optimizer.learning_rate = 3e-4
    config.optimizer.schedule.warmup_steps = 8000
    config.train.steps = 1_200_000
    config.train.log_every = 100
    config.train.eval_every = 5000
    config.train.eval_batches = 100
    config.train.checkpoint_every = 1000
    return config
