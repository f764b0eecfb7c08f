r"""Fine-tunes a pretrained model.

    python -m experiments.finetune --config=configs/finetune/python_docs.py \
        --workdir=runs/finetune --config.init.path=runs/pretrain
    python -m experiments.finetune --config=configs/finetune/text_classification.py \
        --config.init.path=FOLDER --config.data.source=texts.csv --workdir=runs/labels

The same main as pretraining: the config's `init` and `task` make it fine-tuning. The
model, its tokenizer and its special tokens are those at `init.path`: a run, a folder or
.gguf file of the hub, or package:NAME. Prints which weights were loaded, created and
left over.
"""

from experiments import cli, words
from experiments.pretrain import main

if __name__ == "__main__":
    cli.launch(main, ("config", "workdir"), words.training)
