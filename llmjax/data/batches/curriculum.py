"""Rows of a batch and their length: pure functions of the step."""

from collections.abc import Sequence

import numpy as np

from llmjax.config import DataConfig, Stage


class Curriculum:
    """`data.batch_sizes` and `data.seq_lens`.

    A batch has `batch_size(step)` whole rows of `data.seq_len`; where `seq_len(step)`
    is shorter, each is cut into several. So the tokens of a step and their order do
    not depend on the sequence length (as in Li et al. 2021, 2108.06084, but nothing is
    thrown away).
    """

    def __init__(self, data: DataConfig):
        """Reads the batch sizes and sequence lengths of `data`."""
        self._sizes = data.batch_sizes or (Stage(0, data.batch_size),)
        self._lengths = data.seq_lens or (Stage(0, data.seq_len),)
        self._seq_len = data.seq_len
        self.batch_sizes: tuple[int, ...] = tuple(s.value for s in self._sizes)

    def batch_size(self, step: int) -> int:
        """Rows of `data.seq_len` in the batch of `step`."""
        return _at(self._sizes, step)

    def seq_len(self, step: int) -> int:
        """Tokens of a row in the batch of `step`, after cutting."""
        return _at(self._lengths, step)

    def tokens(self, step: int) -> int:
        """Places for tokens in the batch of `step`, padding included."""
        return self.batch_size(step) * self._seq_len

    def shapes(self) -> list[tuple[int, int]]:
        """The distinct (rows, length) of batches, in order of their first step."""
        steps = sorted({stage.step for stage in (*self._sizes, *self._lengths)})
        shapes = [
            (self.batch_size(s) * (self._seq_len // self.seq_len(s)), self.seq_len(s))
            for s in steps
        ]
        return list(dict.fromkeys(shapes))

    def first_row(self, step: int) -> int:
        """Rows of all batches before the one of `step`."""
        stops = [stage.step for stage in self._sizes[1:]] + [step]
        return sum(
            max(min(stop, step) - stage.step, 0) * stage.value
            for stage, stop in zip(self._sizes, stops, strict=True)
        )


def cut(batch: dict[str, np.ndarray], length: int) -> dict[str, np.ndarray]:
    """Rows [B, T, …] as [B * (T // length), length, …]; `length` divides T.

    Each of them starts at segment 1 and position 0.
    """
    if batch["segment_ids"].shape[1] == length:
        return batch
    out = {k: v.reshape(-1, length, *v.shape[2:]) for k, v in batch.items()}
    segments, positions = out["segment_ids"], out["positions"]
    first = segments[:, :1]
    out["positions"] = positions - np.where(segments == first, positions[:, :1], 0)
    out["segment_ids"] = np.where(segments > 0, segments - first + 1, 0)
    return out


def _at(stages: Sequence[Stage], step: int) -> int:
    return [stage.value for stage in stages if stage.step <= step][-1]
