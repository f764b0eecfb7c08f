"""A small causal language model on the documentation that Python carries.

    python -m experiments.prepare_data --config=configs/pretrain/python_docs.py
    python -m experiments.pretrain --config=configs/pretrain/python_docs.py \
        --workdir=runs/pretrain

What `launch/quickstart.sh` pretrains, on two CPU cores in about four minutes, to about
two bits per byte of held-out text.
"""

import ml_collections

from llmjax import config as cfg


def get_config() -> ml_collections.ConfigDict:
    config = cfg.default()
    config.data.tokenizer.vocab_size = 4096
    config.data.batch_size = 8
    config.data.seq_len = 256
    config.model.vocab_size = 4096
    config.model.d_model = 256
    config.model.d_ff = 704
    config.model.num_layers = 4
    config.model.num_heads = 4
    config.layout.plan_topology = "v5e:2x2"
    config.layout.plan_gpus = "h100:4"
    config.layout.unroll = 4
    config.layout.attention.kind = "blocked"
    config.train.steps = 330
    config.train.log_every = 10
    config.train.eval_every = 110
    config.train.eval_batches = 16
    config.train.checkpoint_every = 165
    config.optimizer.algorithm.kind = "muon"
    config.optimizer.algorithm.newton_schulz_steps = 3
    config.optimizer.learning_rate = 3e-3
    config.optimizer.schedule.kind = "linear"
    config.optimizer.schedule.warmup_steps = 40
    return config
