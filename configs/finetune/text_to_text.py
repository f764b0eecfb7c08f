"""A text for a text, summary or translation, by a model of the hub that is fine-tuned.

    llmjax finetune --config=finetune/text_to_text --config.init.path=FOLDER \
        --config.data.source=pairs.jsonl --config.task.prefix='summarize: ' \
        --workdir=runs/summaries
    llmjax evaluate --run=runs/summaries --split=test --workdir=runs/summaries_test
    llmjax predict --run=runs/summaries --input=new.csv --output=summaries.jsonl

FOLDER has an encoder-decoder (T5, BART, Marian) or a decoder of transformers, or a run.
A row of `pairs.jsonl` (.csv, .parquet) has a `source` and a `target`, or other usual
names (`article` and `highlights`), or two columns alone. With the extra `eval`,
`--config.task.metrics="('bleu','chrf','rouge')"` counts these of what is written.
"""

import ml_collections

from llmjax import config as cfg


def get_config() -> ml_collections.ConfigDict:
    config = cfg.default()
    config.init.kind = "checkpoint"
    config.init.path = "FOLDER"
    config.task.kind = "text_to_text"
    config.task.decoding.beams = 4
    config.model.architecture = "encoder_decoder"
    config.data.source = "pairs.jsonl"
    config.data.prepare.validation = 0.05
    config.data.prepare.test = 0.05
    config.data.packing = "pad"
    config.data.batch_size = 16
    config.data.encoder_seq_len = 512
    config.data.seq_len = 128
    config.layout.plan_topology = "v5e:2x2"
    config.layout.plan_gpus = "rtx4090:4"
    config.train.steps = 1000
    config.train.eval_every = 250
    config.train.checkpoint_every = 250
    config.optimizer.learning_rate = 3e-4
    config.optimizer.weight_decay = 0.0
    config.optimizer.algorithm.b2 = 0.999
    config.optimizer.schedule.kind = "linear"
    config.optimizer.schedule.warmup_steps = 50
    return config
