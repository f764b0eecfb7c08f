"""Shared tensors: one that several places read has a name for each of them.

Files hold any of these names, or several: PyTorch's `state_dict` repeats a tied head,
transformers drops all but one name, and safetensors' `save_model` keeps whichever it
meets first. Here a file comes to have the names that the table reads. Where copies
differ, the model is the one that transformers makes of them, or there is none.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from llmjax.config import ModelConfig
from llmjax.hub.files import StoredTensor
from llmjax.hub.table import Table

EMBEDDINGS, HEAD = "transformer/embedder/table", "unembedding"
BLOCK_BYTES = 1 << 25  # of each of two tensors, while they are compared


def copies(table: Table, cfg: ModelConfig) -> dict[str, str]:
    """Name of a copy -> name of the tensor that it repeats.

    Of a tied model the head's table is one, whatever the family.
    """
    pairs = dict(table.copies)
    names = {e.leaf: e.name for e in table.entries if isinstance(e.leaf, str)}
    if cfg.tie_embeddings and HEAD in names and EMBEDDINGS in names:
        pairs[names[HEAD]] = names[EMBEDDINGS]
    return pairs


def stored_names(table: Table, tensors: Mapping[str, object]) -> Callable[[str], str]:
    """A table's name -> the name in a file, whose names may lack the table's base."""
    base = table.base
    if base and not any(name.startswith(base) for name in tensors):
        return lambda name: name.removeprefix(base)
    return lambda name: name


def settle(
    cfg: ModelConfig,
    make_table: Callable[[ModelConfig], Table],
    tensors: Mapping[str, StoredTensor],
) -> tuple[ModelConfig, Table, dict[str, StoredTensor]]:
    """The config, its table and the tensors by the names that the table reads.

    A tied config whose file has a head of its own becomes an untied one, as in
    transformers from version 5 on.

    Raises:
      ValueError: copies that differ where the family has only one tensor.
    """
    table = make_table(cfg)
    settled = dict(tensors)
    named = stored_names(table, settled)
    for copy, name in copies(table, cfg).items():
        copy, name = named(copy), named(name)
        if copy not in settled:
            continue
        if name not in settled:
            settled[name] = settled.pop(copy)
        elif equal(settled[name], settled[copy]):
            del settled[copy]
        elif cfg.tie_embeddings and _unties(copy, cfg, make_table, named):
            untied = dataclasses.replace(cfg, tie_embeddings=False)
            return settle(untied, make_table, tensors)
        else:
            raise ValueError(
                f"its tensors {name!r} and {copy!r} differ, and this family has one "
                "for both; remove the one that was not trained"
            )
    for repeat, name in table.repeats:
        repeat, name = named(repeat), named(name)
        if repeat in settled and name not in settled:
            settled[name] = settled.pop(repeat)
    return cfg, table, settled


def _unties(
    copy: str,
    cfg: ModelConfig,
    make_table: Callable[[ModelConfig], Table],
    named: Callable[[str], str],
) -> bool:
    """Whether the untied model reads the copy as a tensor of its own."""
    table = make_table(dataclasses.replace(cfg, tie_embeddings=False))
    return copy in {named(entry.name) for entry in table.entries}


def equal(a: StoredTensor, b: StoredTensor) -> bool:
    """Whether two tensors have the same values, read block by block."""
    if a is b or a.shape != b.shape:
        return a is b
    if a.kind == b.kind:
        return all(
            x.tobytes() == y.tobytes()
            for x, y in zip(_blocks(a), _blocks(b), strict=True)
        )
    return all(
        np.array_equal(x.astype(np.float32), y.astype(np.float32))
        for x, y in zip(_blocks(a), _blocks(b), strict=True)
    )


def _blocks(tensor: StoredTensor) -> Iterator[np.ndarray]:
    """The tensor's rows, some at a time."""
    rows, *others = tensor.shape or (1,)
    if not tensor.shape:
        yield tensor.read(())
        return
    step = max(1, BLOCK_BYTES // (4 * max(1, math.prod(others))))
    for start in range(0, rows, step):
        first = slice(start, min(start + step, rows))
        yield tensor.read((first, *(slice(0, n) for n in others)))
