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
from llmjax import hub
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.hub import packages
from llmjax.hub.generation import Generation
from llmjax.hub.origin import HUB
from llmjax.infer.constraints import Form, Forms, choice
from llmjax.infer.engine.engine import Engine
from llmjax.infer.engine.request import Request
from llmjax.infer.engine.room import Room
from llmjax.infer.generate import generate, generates
from llmjax.infer.sampling import Sampling
from llmjax.infer.weights import TYPES, quantize_weights
from llmjax.tasks.registry import TASKS, make_model
from llmjax.train.checkpoints import checkpoints, reading
from llmjax.train.checkpoints.weights import load_tokenizer

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


@dataclasses.dataclass(frozen=True)
class Source:
    """A model to generate from.

    Attributes:
      model, params: a module that generates, and its weights.
      tokenizer: the model's own.
      settings: what its files say of its continuations.
      step: of the checkpoint of a run, whose texts each began with <bos>; None: the
        model is the hub's.
      task: of a run that learned to write, which says what a prompt asks.
    """

    model: Any
    params: Any
    tokenizer: Tokenizer
    settings: Generation
    step: int | None
    task: Any = None

    def prompt(self, text: str) -> np.ndarray:
        """The ids of a prompt, with the specials before it that the model expects."""
        if CHAT.value:
            message = {"role": "user", "content": text}
            chat = self.tokenizer.apply_chat_template([message])
            return self.tokenizer.encode(chat, parse_specials=True)
        ids = self.tokenizer.encode(text)
        if self.step is not None:
            return np.append(np.int32(self.tokenizer.bos_id), ids)
        return self.tokenizer.with_beginning(ids)


def main() -> dict[str, Any]:
    texts = prompts()
    source = open_source(RUN.value or "")
    sampling = choose_sampling(source.settings)
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
    common = {"max_new_tokens": max_new_tokens, "sampling": sampling}
    if (form := form_of_flags()) is not None:
        rows, cut = of_form(source, params, asked, form, **common)
    else:
        options = {**asked, **common, **ends(source)}
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
    values = {
        "choice": CHOICE.value,
        "regex": REGEX.value,
        "json_schema": JSON_SCHEMA.value,
        "lark": LARK.value,
    }
    given = {kind: value for kind, value in values.items() if value is not None}
    if len(given) > 1:
        raise ValueError(f"--{' and --'.join(given)} are given; a text has one form")
    for kind, value in given.items():
        if kind == "choice":
            return choice(value)
        in_words = value.strip() == "true" or value.lstrip()[:1] == "{"
        if kind == "regex" or (kind == "json_schema" and in_words):
            return Form(kind, value)
        file = Path(value).expanduser()
        if not file.is_file():
            raise FileNotFoundError(f"--{kind}={value} is no file")
        return Form(kind, file.read_text(encoding="utf-8"))
    return None


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
    texts, stops = asked["prompts"], ends(source)["stop_tokens"]
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


def open_source(name: str) -> Source:
    """The model of a run or of the hub.

    Raises:
      FileNotFoundError, ValueError: there is none, or one that generates nothing.
    """
    path = Path(name).expanduser()
    of_hub = path.is_file() or (path / "config.json").is_file()
    if name.startswith(packages.PREFIX):
        path = packages.fetch(name, consent=DOWNLOAD.value or None)
    elif (path / checkpoints.FOLDER).is_dir() or not of_hub:
        return open_run(name)
    if STEP.value is not None:
        raise ValueError(f"--step={STEP.value} is a run's, and {name} is of the hub")
    model, params = hub.load(path)
    if not generates(model):
        raise ValueError(
            f"--run={name} is of the kind {type(model).__name__} "
            f"({model.cfg.architecture}), "
            "which predicts no next tokens; give a language model"
        )
    return hub_source(name, path, model, params)


def open_run(name: str) -> Source:
    """The model of a run's checkpoint."""
    step, config, params = reading.read(name, STEP.value)
    model = make_model(config)
    if not generates(model):
        raise ValueError(
            f"--run={name} has task.kind={config.task.kind!r}, whose model "
            f"({type(model).__name__}, {config.model.architecture}) predicts no next "
            "tokens; give the run of a language model"
        )
    kept = Path(name).expanduser() / HUB
    if kept.is_dir():  # converted: its config names no corpus of its own
        return hub_source(name, kept, model, params)
    tokenizer = load_tokenizer(name, config)
    task: Any = TASKS[type(config.task)](config, tokenizer)
    if not task.writes:
        return Source(model, params, tokenizer, Generation(), step)
    settings = Generation(stop_tokens=task.stop_tokens)
    return Source(model, params, tokenizer, settings, step, task)


def hub_source(name: str, folder: Path, model: Any, params: Any) -> Source:
    """A model with the tokenizer and the settings that a folder of the hub holds."""
    settings = hub.generation(folder)
    for key, value in settings.left_out.items():
        note = f"note: {name} asks for {key}={str(value)[:80]}, which is left out"
        print(note, file=sys.stderr)
    return Source(model, params, hub.tokenizer(folder), settings, None)


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
        return {"prompts": [source.prompt(text) for text in texts]}
    start = source.settings.start_tokens
    if not start:
        raise ValueError(
            f"the files of {RUN.value} don't say decoder_start_token_id; add it to "
            "config.json, as the model's authors have it"
        )
    encoded = [
        source.prompt(text)
        if CHAT.value
        else source.tokenizer.encode(text, special_tokens=True)
        for text in texts
    ]
    return {"prompts": [list(start)] * len(texts), "encoder_tokens": encoded}


def choose_sampling(settings: Generation) -> Sampling:
    """How tokens are drawn: by the flags, else by the model's files."""
    flag_values = {
        "temperature": TEMPERATURE.value,
        "top_k": TOP_K.value,
        "top_p": TOP_P.value,
        "min_p": MIN_P.value,
    }
    fields: dict[str, Any] = dict(settings.sampling)
    by_flags = {key: value for key, value in flag_values.items() if value is not None}
    if by_flags and fields.get("temperature") == 0:
        fields = {}  # a flag asks for draws
    return Sampling(**(fields | by_flags))


def ends(source: Source) -> dict[str, Any]:
    """The tokens that end a continuation, and the one that pads the others; tokens
    beyond the model's table are never drawn."""
    size = source.model.cfg.vocab_size
    stops = source.settings.stop_tokens or (source.tokenizer.eos_id,)
    pad = source.tokenizer.pad_id
    return {
        "stop_tokens": tuple(i for i in stops if i < size),
        "pad_id": pad if pad < size else 0,
    }


if __name__ == "__main__":
    cli.launch(main, ("run",), lambda _: "")  # the texts alone are its output
