r"""Continues prompts with a pretrained model, to standard output.

    python -m experiments.generate --run=runs/quickstart/pretrain \
        --prompt='Return the' --prompt='Raises' --temperature=0.8 --top_p=0.95
    python -m experiments.generate --run=path/to/hub/folder --chat \
        --prompt='What is a monad?' --prompt_file=question.txt

`--run` is the workdir of a run, of which the best checkpoint is taken, or `--step`; or
a folder of the hub, a .gguf file or package:NAME, whose generation_config.json says how
tokens are drawn where no flag does. `--chat` puts each prompt into the model's chat
template, as a user's message; of a run that learned to write (`chat`, `text_to_text`) a
prompt is what its task reads, whatever the flags. `--bits=8` rounds the weights first
(extra `quantization`). `--choice`, `--regex`, `--json_schema` or `--lark` says what
form a continuation has (extra `structure`):

    python -m experiments.generate --run=path/to/hub/folder --chat \
        --prompt='A made-up person, as JSON' --json_schema=person.json

With `--workdir`, its `result.json` says from which checkpoint and how.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from experiments import cli
from experiments.sources import Source, open_source
from llmjax.infer.constraints import Form, Forms, choice
from llmjax.infer.engine.engine import Engine
from llmjax.infer.engine.request import Request
from llmjax.infer.engine.room import Room
from llmjax.infer.generate import generate
from llmjax.infer.sampling import Sampling, chosen
from llmjax.infer.weights import TYPES, quantize_weights

RUN = flags.DEFINE_string(
    "run", None, "workdir of a pretraining run, a hub folder, .gguf or package:NAME"
)
STEP = flags.DEFINE_integer("step", None, "of the checkpoint; the best when absent")
DOWNLOAD = flags.DEFINE_bool("download", False, "agree to download a package")
PROMPT = flags.DEFINE_multi_string("prompt", None, "text to continue; repeatable")
PROMPT_FILE = flags.DEFINE_multi_string(
    "prompt_file", None, "file whose text, but for its last line's end, is a prompt"
)
CHAT = flags.DEFINE_bool("chat", False, "prompts are a user's messages")
MAX_NEW_TOKENS = flags.DEFINE_integer(
    "max_new_tokens", None, "per prompt, at most; 64 where no file says otherwise"
)
TEMPERATURE = flags.DEFINE_float(
    "temperature", None, "0 takes the likeliest token; 1 where no file says otherwise"
)
TOP_K = flags.DEFINE_integer("top_k", None, "keep this many of the likeliest tokens")
TOP_P = flags.DEFINE_float("top_p", None, "keep the likeliest with this probability")
MIN_P = flags.DEFINE_float("min_p", None, "keep those this fraction of the likeliest")
SEED = flags.DEFINE_integer("seed", 0, "of the draws")
BITS = flags.DEFINE_enum(
    "bits", None, [str(bits) for bits in TYPES], "of each weight, rounded by qwix"
)
CHOICE = flags.DEFINE_multi_string("choice", None, "may be written; repeatable")
REGEX = flags.DEFINE_string("regex", None, "of all that is written")
JSON_SCHEMA = flags.DEFINE_string("json_schema", None, "of it: a file, or the schema")
LARK = flags.DEFINE_string("lark", None, "file of a grammar of it, in Lark's notation")
GROUP = flags.DEFINE_integer("group", 0, "weights that share a scale; 0: an output's")


def main() -> dict[str, Any]:
    texts = prompts()
    source = open_source(RUN.value or "", STEP.value, DOWNLOAD.value)
    sampling = chosen(
        source.settings.sampling,
        {
            "temperature": TEMPERATURE.value,
            "top_k": TOP_K.value,
            "top_p": TOP_P.value,
            "min_p": MIN_P.value,
        },
    )
    params = source.params
    if BITS.value is not None:
        batch = {"tokens": np.zeros((1, 1), np.int32)}
        params = quantize_weights(
            source.model, params, batch, bits=int(BITS.value), group=GROUP.value
        )
    max_new_tokens = MAX_NEW_TOKENS.value
    if max_new_tokens is None:
        max_new_tokens = source.settings.max_new_tokens or 64
    asked = decoder_and_encoder(source, texts)
    common: Any = {"max_new_tokens": max_new_tokens, "sampling": sampling}
    if (form := form_of_flags()) is not None:
        rows, cut = of_form(source, params, asked, form, **common)
    else:
        options = {**asked, **common, **padded(source)}
        rows = generate(source.model, params, **options, rng=SEED.value)
        cut = 0
    generations = [
        {"prompt": prompt, "text": source.tokenizer.decode(ids), "tokens": len(ids)}
        for prompt, ids in zip(texts, rows, strict=True)
    ]
    if cut:
        print(
            f"{cut} of {len(rows)} are cut before their form is complete: give more "
            f"than --max_new_tokens={max_new_tokens}",
            file=sys.stderr,
        )
    two = source.model.cfg.architecture == "encoder_decoder"
    alone = CHAT.value or two or source.task is not None
    if source.step is not None:
        print(f"by the checkpoint of step {source.step:,}", file=sys.stderr)
    for item in generations:
        print(f"{'' if alone else item['prompt']}{item['text']}\n---", flush=True)
    return {
        "run": RUN.value,
        "step": source.step,
        "sampling": dataclasses.asdict(sampling),
        "bits": BITS.value and int(BITS.value),
        "seed": SEED.value,
        "max_new_tokens": max_new_tokens,
        "left_out": dict(source.settings.left_out),
        "generations": generations,
    }


def form_of_flags() -> Form | None:
    """What `--choice`, `--regex`, `--json_schema` or `--lark` asks for.

    Raises:
      FileNotFoundError, ValueError: a file that is missing; two of them.
    """
    flag_values = {"regex": REGEX, "json_schema": JSON_SCHEMA, "lark": LARK}
    given = {k: f.value for k, f in flag_values.items() if f.value is not None}
    if len(given) + (CHOICE.value is not None) > 1:
        names = [*given, *(["choice"] if CHOICE.value is not None else [])]
        raise ValueError(f"--{' and --'.join(names)} are given; a text has one form")
    if CHOICE.value is not None:
        return choice(CHOICE.value)
    if REGEX.value is not None:
        return Form("regex", REGEX.value)
    if (schema := JSON_SCHEMA.value) is not None:
        in_words = schema.strip() == "true" or schema.lstrip()[:1] == "{"
        return Form("json_schema", schema if in_words else _text("json_schema", schema))
    return None if LARK.value is None else Form("lark", _text("lark", LARK.value))


def _text(flag: str, name: str) -> str:
    file = Path(name).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"--{flag}={name} is no file")
    return file.read_text(encoding="utf-8")


def of_form(
    source: Source,
    params: Any,
    asked: dict[str, Any],
    form: Form,
    *,
    max_new_tokens: int,
    sampling: Sampling,
) -> tuple[list[np.ndarray], int]:
    """Continuations of a form, and how many of them are cut.

    Raises:
      ValueError: an encoder-decoder; or no text has this form.
    """
    texts, stops = asked["prompts"], source.stop_tokens
    longest = max(map(len, texts)) + max_new_tokens
    room = Room(rows=min(8, len(texts)), max_length=longest)
    engine = Engine(source.model, params, room)
    forms = Forms(source.tokenizer, source.model.cfg.vocab_size, stops)
    requests = [
        Request(
            text,
            max_new_tokens,
            sampling,
            stops,
            seed=SEED.value,
            number=number,
            constraint=forms.constraint(form),
        )
        for number, text in enumerate(texts)
    ]
    answers = engine.run(requests)
    cut = sum(not r.constraint.complete for r in requests if r.constraint)
    return [answer.ids for answer in answers], cut


def prompts() -> list[str]:
    """The texts of `--prompt` and `--prompt_file`; an empty one where there is none.

    Raises:
      FileNotFoundError, ValueError: a file that is missing, or no text in UTF-8.
    """
    texts = list(PROMPT.value or ())
    for name in PROMPT_FILE.value or ():
        file = Path(name).expanduser()
        if not file.is_file():
            raise FileNotFoundError(f"--prompt_file={name} is no file")
        try:
            texts.append(file.read_bytes().decode().removesuffix("\n"))
        except UnicodeDecodeError as e:
            raise ValueError(f"--prompt_file={name} is no text in UTF-8: {e}") from e
    return texts or [""]


def decoder_and_encoder(source: Source, texts: list[str]) -> dict[str, Any]:
    """The prompts, of an encoder-decoder of the hub for its encoder.

    Raises:
      ValueError: the files don't say what the decoder begins with.
    """
    if source.task is not None:
        (name,) = source.task.inputs
        asked = [source.task.asked_of({name: text}) for text in texts]
        encoder = [a.encoder for a in asked]
        return {
            "prompts": [a.prompt for a in asked],
            "encoder_tokens": None if encoder[0] is None else encoder,
        }
    if source.step is not None or source.model.cfg.architecture != "encoder_decoder":
        return {"prompts": [source.prompt(text, CHAT.value) for text in texts]}
    start = source.settings.start_tokens
    if not start:
        raise ValueError(
            f"the files of {RUN.value} don't say decoder_start_token_id; add it to "
            "config.json, as the model's authors have it"
        )
    encoded = [
        source.prompt(text, CHAT.value)
        if CHAT.value
        else source.tokenizer.encode(text, special_tokens=True)
        for text in texts
    ]
    return {"prompts": [list(start)] * len(texts), "encoder_tokens": encoded}


def padded(source: Source) -> dict[str, Any]:
    """The tokens that end a continuation, and the one that pads the others."""
    pad = source.tokenizer.pad_id
    return {
        "stop_tokens": source.stop_tokens,
        "pad_id": pad if pad < source.model.cfg.vocab_size else 0,
    }


if __name__ == "__main__":
    cli.launch(main, ("run",), lambda _: "")  # the texts alone are its output
