"""Continues prompts with a pretrained model, to standard output.

    python -m experiments.generate --run=runs/quickstart/pretrain \
        --prompt='Return the' --prompt='Raises' --temperature=0.8 --top_p=0.95

`--bits=8` rounds the weights first (extra `quantization`). With `--workdir`, its
`result.json` says from which checkpoint and how.
"""

import dataclasses
from typing import Any

import numpy as np
from absl import flags

from experiments import cli
from llmjax.data.prepare.prepare import open_corpus
from llmjax.infer.generate import generate, generates
from llmjax.infer.sampling import Sampling
from llmjax.infer.weights import TYPES, quantize_weights
from llmjax.tasks.registry import make_model
from llmjax.train.checkpoints.checkpoints import load_params

RUN = flags.DEFINE_string("run", None, "workdir of a pretraining run")
STEP = flags.DEFINE_integer("step", None, "of the checkpoint; the best when absent")
PROMPT = flags.DEFINE_multi_string("prompt", [""], "text to continue; repeatable")
MAX_NEW_TOKENS = flags.DEFINE_integer("max_new_tokens", 64, "per prompt, at most")
TEMPERATURE = flags.DEFINE_float("temperature", 1.0, "0 takes the likeliest token")
TOP_K = flags.DEFINE_integer("top_k", None, "keep this many of the likeliest tokens")
TOP_P = flags.DEFINE_float("top_p", None, "keep the likeliest with this probability")
MIN_P = flags.DEFINE_float("min_p", None, "keep those this fraction of the likeliest")
SEED = flags.DEFINE_integer("seed", 0, "of the draws")
BITS = flags.DEFINE_enum(
    "bits", None, [str(bits) for bits in TYPES], "of each weight, rounded by qwix"
)
GROUP = flags.DEFINE_integer("group", 0, "weights that share a scale; 0: an output's")


def main() -> dict[str, Any]:
    sampling = Sampling(TEMPERATURE.value, TOP_K.value, TOP_P.value, MIN_P.value)
    config, params = load_params(RUN.value, step=STEP.value)
    model = make_model(config)
    if not generates(model):
        raise ValueError(
            f"--run={RUN.value} has task.kind={config.task.kind!r}, whose model "
            f"({type(model).__name__}, {config.model.architecture}) predicts no next "
            "tokens; give the run of a language model"
        )
    tokenizer = open_corpus(config.data).tokenizer
    start = np.int32(tokenizer.bos_id)
    if BITS.value is not None:
        batch = {"tokens": np.zeros((1, 1), np.int32)}
        params = quantize_weights(
            model, params, batch, bits=int(BITS.value), group=GROUP.value
        )
    continuations = generate(
        model,
        params,
        [np.append(start, tokenizer.encode(text)) for text in PROMPT.value],
        max_new_tokens=MAX_NEW_TOKENS.value,
        sampling=sampling,
        rng=SEED.value,
        stop_tokens=(tokenizer.eos_id,),
        pad_id=tokenizer.pad_id,
    )
    generations = [
        {"prompt": prompt, "text": tokenizer.decode(ids), "tokens": len(ids)}
        for prompt, ids in zip(PROMPT.value, continuations, strict=True)
    ]
    for item in generations:
        print(f"{item['prompt']}{item['text']}\n---", flush=True)
    return {
        "run": RUN.value,
        "step": "best" if STEP.value is None else STEP.value,
        "sampling": dataclasses.asdict(sampling),
        "bits": BITS.value and int(BITS.value),
        "seed": SEED.value,
        "max_new_tokens": MAX_NEW_TOKENS.value,
        "generations": generations,
    }


if __name__ == "__main__":
    cli.launch(main, required=("run",))
