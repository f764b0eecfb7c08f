r"""Fine-tunes a pretrained model.

    python -m experiments.finetune --config=configs/finetune/python_docs.py \
        --workdir=runs/finetune --config.init.path=runs/pretrain

The same main as pretraining: the config's `init` and `task` make it fine-tuning. Prints
which weights were loaded, created and left over.
"""

from experiments import cli, words
from experiments.pretrain import main

if __name__ == "__main__":
    cli.launch(main, ("config", "workdir"), words.training)
