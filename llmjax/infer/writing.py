"""Texts that a task's model writes: for the examples of a split, or the rows of a file.

Within a chunk prompts of about one length go together, in batches of one size, so that
few shapes are compiled. What is written for a prompt does not depend on the others.
"""

import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.config import Decoding, Learned, wording
from llmjax.data.files.slices import Row
from llmjax.infer.beam import beam_search
from llmjax.infer.generate import generate
from llmjax.infer.sampling import Sampling
from llmjax.models.forward import variables
from llmjax.tasks.task import Predictions
from llmjax.train.setup import Batches, Program

CHUNK = 256  # examples that are sorted by length together
GREEDY = Sampling(temperature=0.0)


class Writer:
    """A task whose model writes.

    Attributes:
      task: with `writes`.
      cut: what was asked so far of which only a part is read.
    """

    def __init__(self, task: Any, model: Any, params: Any, batch_size: int):
        """
        Args:
          task: bound to a run; its config's `decoding` is read.
          model: the task's.
          params: the model's weights.
          batch_size: texts that are written together.

        Raises:
          ValueError: there are several processes.
        """
        if jax.process_count() > 1:
            raise ValueError(
                f"task {task.config.kind!r} writes texts, which one process does; run "
                "this command in one"
            )
        self.task, self.cut = task, 0
        self._model, self._params = model, jax.tree.map(jnp.asarray, params)
        self._batch_size = batch_size
        size = model.cfg.vocab_size
        self._options = {
            "stop_tokens": tuple(i for i in task.stop_tokens if i < size),
            "pad_id": task.vocabulary.pad_id if task.vocabulary.pad_id < size else 0,
        }

    def __call__(self, rows: Sequence[Row], columns: Mapping[str, str]) -> list[Any]:
        """The answer to each row of a file: its `prediction`, and of a search `score`.

        Args:
          rows: with values in all `columns`.
          columns: each of the task's `inputs` -> its column.

        Raises:
          ValueError: a row that asks nothing; it names its place.
        """
        asked = []
        for row in rows:
            try:
                own = {name: row.values[c] for name, c in columns.items()}
                asked.append(self.task.asked_of(own))
            except ValueError as e:
                raise ValueError(f"{row.where()}: {e}") from e
        return self.write(asked)

    def write(self, asked: Sequence[Any]) -> list[dict[str, Any]]:
        """The text for each of what is asked, as a row of a file has it."""
        self.cut += sum(a.cut for a in asked)
        prompts = self._fitting([a.prompt for a in asked])
        sizes = [
            (len(prompt), 0 if a.encoder is None else len(a.encoder))
            for prompt, a in zip(prompts, asked, strict=True)
        ]
        order = sorted(range(len(asked)), key=sizes.__getitem__)
        out: list[Any] = [None] * len(asked)
        for start in range(0, len(order), self._batch_size):
            places = order[start : start + self._batch_size]
            full = [*places, *places[-1:] * (self._batch_size - len(places))]
            encoder = None
            if asked[full[0]].encoder is not None:
                encoder = [asked[k].encoder for k in full]
            texts = self._written([prompts[k] for k in full], encoder)
            for place, text in zip(places, texts, strict=False):  # others fill up
                out[place] = text
        return out

    def _fitting(self, prompts: list[np.ndarray]) -> list[np.ndarray]:
        """The prompts, of those that leave no room the end."""
        room = self._room
        if room is None:
            return prompts
        self.cut += sum(len(prompt) > room for prompt in prompts)
        return [prompt[-room:] for prompt in prompts]

    @property
    def _decoding(self) -> Decoding:
        decoding: Decoding = self.task.config.decoding
        return decoding

    @property
    def _new(self) -> int:
        """Tokens of a text at most; half of the model's positions."""
        positions = self._model.cfg.positions
        most = self._decoding.max_new_tokens
        if isinstance(positions, Learned):
            most = min(most, max(positions.max_length // 2, 1))
        return most

    @property
    def _room(self) -> int | None:
        """Tokens of a prompt at most; None: any number."""
        positions = self._model.cfg.positions
        if not isinstance(positions, Learned):
            return None
        return max(positions.max_length - self._new + 1, 1)

    def _written(self, prompts: list[Any], encoder: Any) -> list[dict[str, Any]]:
        decoding, task = self._decoding, self.task
        common = {
            **self._options,
            "max_new_tokens": self._new,
            "encoder_tokens": encoder,
        }
        if decoding.beams == 1:
            rows = generate(
                self._model, self._params, prompts, sampling=GREEDY, **common
            )
            return [{"prediction": task.text(ids)} for ids in rows]
        found = beam_search(
            self._model,
            self._params,
            prompts,
            beams=decoding.beams,
            length_penalty=decoding.length_penalty,
            early_stopping=decoding.early_stopping,
            **common,
        )
        return [
            {"prediction": task.text(best.tokens), "score": best.score}
            for best, *_ in found
        ]


def predictions(
    program: Program, params: Any, batches: Batches, frozen: Any = None
) -> Iterator[Predictions]:
    """The texts for the examples of a split, some at a time; `values` are lists.

    Args:
      program: from `setup.build`, of a task that writes.
      params, frozen: as in a `State`.
      batches: of a split, with `sources`; of `train.eval_batches` as many examples are
        read as they have rows (None: all).
    """
    config, task = program.config, program.task
    whole = variables(params, frozen)["params"]
    batch_size = min(config.data.batch_size, 32)
    writer = Writer(task, program.model, whole, batch_size)
    sources = getattr(batches, "sources", ())
    places: Any = ((source, k) for source in sources for k in range(len(source)))
    limit = config.train.eval_batches
    if limit is not None:
        places = itertools.islice(places, limit * config.data.batch_size)
    bound: Any = task
    numbered = enumerate(places)
    while chunk := [*itertools.islice(numbered, CHUNK)]:
        asked = [bound.asked(source[k]) for _, (source, k) in chunk]
        ids = np.array([number for number, _ in chunk], np.int64)
        yield Predictions(ids, [row["prediction"] for row in writer.write(asked)], {})
    if writer.cut:
        print(
            f"{wording.count(writer.cut, 'text')} longer than what is read: cut",
            file=sys.stderr,
        )
