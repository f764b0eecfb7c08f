"""A tiny model behind a real socket, and what its engine alone writes."""

import contextlib
import functools
import socket
import threading
import time

import flax.linen as nn
import httpx2
import jax
import jax.numpy as jnp
import numpy as np
import uvicorn

from llmjax.config import ModelConfig
from llmjax.data.tokenizers import training
from llmjax.data.tokenizers.conventions import Conventions
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.infer.constraints import Forms
from llmjax.infer.engine.engine import Engine
from llmjax.infer.engine.room import Room
from llmjax.models.heads.language import LanguageModel
from llmjax.serve import app as app_lib
from llmjax.serve.run import Draining
from llmjax.serve.served import Served
from llmjax.serve.worker import Worker

TEXT = 'the cat sat; {"name": "x", "age": 12}, ["yes", "no", "maybe not"] äöü ' * 9
ASK = {"prompt": "the cat", "temperature": 0, "max_tokens": 6}
ROOM = Room(rows=4, max_length=64, page=16, chunk=16)
TEMPLATE = (
    "{% for m in messages %}<bos>{{ m['role'] }}: {{ m['content'] }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<bos>assistant:{% endif %}"
)


@functools.cache
def tokenizer():
    conventions = Conventions(chat_templates={"default": TEMPLATE})
    return Tokenizer(training.bpe([TEXT], 300), conventions)


@functools.cache
def model():
    cfg = ModelConfig(
        vocab_size=tokenizer().vocab_size, d_model=16, d_ff=32, num_layers=1
    )
    lm, rng = LanguageModel(cfg), np.random.default_rng(3)
    shapes = jax.eval_shape(
        lm.init, jax.random.key(0), {"tokens": jnp.ones((1, 4), int)}
    )
    return lm, jax.tree.map(
        lambda x: jnp.array(rng.normal(0.0, 0.4, x.shape), x.dtype),
        nn.unbox(shapes["params"]),
    )


@functools.cache
def forms():
    return Forms(tokenizer(), tokenizer().vocab_size, (tokenizer().eos_id,))


def make_engine():
    return Engine(*model(), ROOM)


def served(**changes):
    fields = {
        "name": "toy",
        "cfg": model()[0].cfg,
        "tokenizer": tokenizer(),
        "room": ROOM,
        "encode": lambda text: tokenizer().with_beginning(tokenizer().encode(text)),
        "stop_tokens": (tokenizer().eos_id,),
        "forms": forms,
    }
    return Served(**(fields | changes))


class Running:
    """A server in a thread.

    Attributes:
      worker, server: its parts.
      url: where it is.
      client: asks it.
    """

    def __init__(self, make=make_engine, waiting=64, keys=(), drain=20.0, **options):
        self.worker = Worker(make, ROOM.rows, waiting)
        app = app_lib.make_app(served(), self.worker, keys, **options)
        config = uvicorn.Config(app, log_config=None, access_log=False)
        self.server = Draining(config, self.worker, drain)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.client = httpx2.Client(base_url=self.url, trust_env=False, timeout=120)
        self.thread = threading.Thread(target=self.server.run, args=([self._socket],))
        self.thread.start()

    def until(self, what, seconds=60.0):
        """Waits for it to be true."""
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end, "it took too long"
            time.sleep(0.01)

    def post(self, path, **body):
        return self.client.post(path, json={"model": "toy"} | body)


@contextlib.contextmanager
def running(**options):
    server = Running(**options)
    try:
        server.until(lambda: server.worker.ready or server.worker.dead)
        yield server
    finally:
        server.client.close()
        server.server.should_exit = True
        server.thread.join(60)
        assert not server.thread.is_alive()
