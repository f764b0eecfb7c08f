"""Log-likelihoods by the weights that a run begins with, computed once and kept.

A file of `<workdir>/reference` has those of one split, and is named after a hash of its
pairs. Training reads them in place of a second forward pass, by weights that need no
memory then.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from etils import epath

from llmjax.config import wording
from llmjax.parallel.processes import distributed
from llmjax.tasks.preferences.rows import OTHER, Referenced
from llmjax.train.metrics import evaluation
from llmjax.train.setup import Batches, HostBatch, Program
from llmjax.train.state import State

FOLDER = "reference"


@dataclasses.dataclass(frozen=True)
class _Rejected:
    """The batches of an evaluation with the rejected answers as the chosen ones."""

    batches: Batches

    def evaluation(self, *arguments: Any) -> Iterator[HostBatch]:
        """See `Batches.evaluation`."""
        for batch in self.batches.evaluation(*arguments):
            names = [name for name in batch if name.startswith(OTHER)]
            other = {name.removeprefix(OTHER): batch[name] for name in names}
            yield batch | other


def fill(
    program: Program,
    batches: Batches,
    workdir: epath.PathLike,
    begin: Callable[[Program], tuple[State, Any]],
    *,
    fresh: bool,
) -> None:
    """Fills in the log-likelihoods of all pairs of `batches` whose task keeps them.

    Args:
      program: of the run.
      batches: of a split.
      workdir: of the run.
      begin: program -> the state that its run begins with, and words for it.
      fresh: whether the run begins: what was kept by other weights is then made anew.
    """
    sources: tuple[Any, ...] = getattr(batches, "sources", ())
    if not any(isinstance(source, Referenced) for source in sources):
        return
    hashed = hashlib.sha256("".join(source.digest() for source in sources).encode())
    file = epath.Path(workdir).expanduser() / FOLDER / f"{hashed.hexdigest()[:32]}.npz"
    state = begin(program)[0] if fresh or not file.exists() else None
    weights = None if state is None else _weights(state)
    values = _kept(file, weights)
    if values is None:
        assert state is not None and weights is not None
        values = _computed(program, batches, state)
        if distributed.is_leader():
            said = wording.count(len(values), "pair")
            print(f"log-likelihoods by the reference: {said}, kept in {file}")
            _write(file, values, weights)
    assert len(values) == sum(map(len, sources))
    start = 0
    for source in sources:
        source.values[:] = values[start : start + len(source)]
        start += len(source)


def _computed(program: Program, batches: Batches, state: State) -> np.ndarray:
    """Float32 [n, 2], of both answers of each pair."""
    train = dataclasses.replace(program.config.train, eval_batches=None)
    config = dataclasses.replace(program.config, train=train)
    program = dataclasses.replace(program, config=config)
    both: list[np.ndarray] = []
    for some in (batches, _Rejected(batches)):
        made: Any = evaluation.predictions(
            program,
            state.params,
            some,  # type: ignore[arg-type]
            state.frozen,
        )
        both.append(np.concatenate([part.values["log_likelihood"] for part in made]))
    return np.stack(both, axis=1).astype(np.float32)


def _kept(file: epath.Path, weights: str | None) -> np.ndarray | None:
    """What a file holds; None: it is not there, or was made by other weights."""
    if not file.exists():
        return None
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            values, by = arrays["values"], str(arrays["weights"])
    except (ValueError, KeyError, EOFError, OSError) as e:
        raise ValueError(
            f"{file} with log-likelihoods by the reference can't be read ({e}); remove "
            "it, and they are computed again from init.path"
        ) from e
    return values if weights in (None, by) else None


def _write(file: epath.Path, values: np.ndarray, weights: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    with part.open("wb") as stream:
        np.savez(stream, values=values, weights=np.array(weights))
    part.replace(file)


def _weights(state: State) -> str:
    """A hash of a model's weights: of sums of each leaf, which another layout may round
    otherwise; then they are taken for others, and the pairs are read again."""
    trees = state.params, state.frozen.get("params", {})

    @jax.jit
    def sums(trees):
        return jax.tree.map(lambda x: (x.sum(), jax.numpy.abs(x).sum()), trees)

    hashed = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(sums(trees)):
        hashed.update(f"{jax.tree_util.keystr(path)} {float(leaf):.5g}".encode())
    return hashed.hexdigest()
