"""How a run starts from what was saved: its own checkpoint, or another's weights."""

import dataclasses
import json
import textwrap
from collections.abc import Collection, Mapping, Set
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from llmjax import hub
from llmjax.config import (
    Checkpoint,
    Constant,
    DataConfig,
    ModelConfig,
    RunConfig,
    parse,
    to_dict,
    wording,
)
from llmjax.models.forward import variables
from llmjax.parallel.processes import distributed
from llmjax.train.checkpoints.frozen import PARAMS, split
from llmjax.train.checkpoints.reading import load_params
from llmjax.train.checkpoints.weights import CONFIG_FILE, describe, of_hub
from llmjax.train.optimizers import optimizers
from llmjax.train.optimizers.roles import may_grow
from llmjax.train.state import State

CLASSES = "C"  # axis of a head's classes
# What may differ when a run is resumed: it changes neither data nor updates.
FREE = (
    "layout",
    "data.directory",
    "data.prefetch",
    "train.log_every",
    "train.eval_every",
    "train.eval_batches",
    "train.checkpoint_every",
    "train.keep_best",
    "train.patience",
    "train.writers",
    "train.heartbeat_timeout_seconds",
    "train.damaged",
)


def save_or_check_config(
    config: RunConfig,
    workdir: epath.Path,
    saved: Mapping[str, Any] | None,
    step: int | None = None,
) -> None:
    """Writes `<workdir>/config.json`, for a person; first compares with the last one.

    A run may have more steps than before: it is then extended.

    Args:
      config: of this run.
      workdir: of this run.
      saved: the config in the checkpoint from which it goes on; None: there is none.
      step: of that checkpoint.

    Raises:
      ValueError: a field that makes it another run; it names the key, the saved value
        and this one.
    """
    path = workdir / CONFIG_FILE
    if saved is not None:
        before = parse(saved)
        _check_same(config, before, workdir)
        if config.train.steps > before.train.steps and distributed.is_leader():
            print(extension(config, before.train.steps, step or 0))
    if not distributed.is_leader():
        return
    part = path.with_suffix(".part")
    part.write_text(json.dumps(to_dict(config), indent=2))
    part.replace(path)


def _check_same(config: RunConfig, before: RunConfig, workdir: epath.Path) -> None:
    old, new = _flat(to_dict(before)), _flat(to_dict(config))
    for key in sorted(old.keys() | new.keys()):
        free = any(key == f or key.startswith(f + ".") for f in FREE)
        longer = key == "train.steps" and old[key] < new[key]
        named = key == "task.labels" and not old.get(key)  # from before they were kept
        if old.get(key) != new.get(key) and not (free or longer or named):
            raise _another(workdir, key, old.get(key), new.get(key))


def check_sources(data: DataConfig, before: DataConfig, workdir: Any) -> None:
    """Raises ValueError for other sources than those of the run in `workdir`."""
    for field in ("source", "mixture"):
        old, new = getattr(before, field), getattr(data, field)
        if old != new:
            raise _another(workdir, f"data.{field}", old, new)


def _another(workdir: Any, key: str, old: Any, new: Any) -> ValueError:
    return ValueError(
        f"{workdir} holds a run with {key}={old!r} and this one has {new!r}; set it "
        "back, or give another --workdir"
    )


def extension(config: RunConfig, steps: int, step: int) -> str:
    """Words for what becomes of the learning rate of a run that was to end at `steps`
    and goes on from `step`.

    A schedule is a function of the step and of `train.steps` alone, so that a run can
    be interrupted: one that decays is that of the longer run from here on, and the rate
    rises to it, as in a warm restart (Loshchilov & Hutter 2017, arXiv:1608.03983).
    """
    optimizer, more = config.optimizer, config.train.steps
    text = f"the run is extended from {steps} to {more} steps"
    if isinstance(optimizer.schedule, Constant):
        return f"{text}; its learning rate stays as it is"
    last = optimizers.schedule(optimizer, steps)(max(step - 1, 0))
    following = optimizers.schedule(optimizer, more)(step)
    kind = optimizer.schedule.kind
    return textwrap.fill(
        f"{text}: its schedule {kind!r} now ends at step {more}, and the learning rate "
        f"goes from {float(last):.3g} to {float(following):.3g} at step {step}; under "
        "optimizer.schedule.kind='constant' a longer run is the same run",
        wording.WIDTH,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix[:-1]: tree}
    out: dict[str, Any] = {}
    for key, value in tree.items():
        out |= _flat(value, f"{prefix}{key}.")
    return out


def load_initial(
    state: State,
    shardings: State,
    axes: State,
    init: Checkpoint,
    model: ModelConfig,
    labels: tuple[str, ...] = (),
) -> tuple[State, str]:
    """A fresh state with the weights of another model where names agree.

    A larger vocabulary or more learned positions keep their fresh rows at the end. A
    head of classes is taken where it is of the same classes, in the same order.

    Args:
      state, shardings, axes: of the fresh state.
      init: where the weights are.
      model: of the state.
      labels: names of the state's classes; (): unknown.

    Returns:
      The state, and a text that says which leaves were loaded, grown, created and left
      over, and in what the models' configs differ.

    Raises:
      ValueError: a leaf of the same name and another shape, or none that agree.
    """
    mesh = jax.tree.leaves(shardings)[0].mesh
    source_model, tree = _weights(init, mesh)
    source = _named(tree)
    weights = variables(state.params, state.frozen)["params"]
    fresh = _named(weights)
    leaf_axes = flatten_dict(variables(axes.params, axes.frozen)["params"], sep="/")
    others = labels and describe(init).labels != labels
    heads = {name for name in fresh if others and CLASSES in leaf_axes[name]}
    left, source = source, {k: v for k, v in source.items() if k not in heads}
    loaded = sorted(fresh.keys() & source.keys())
    if not loaded:
        raise ValueError(f"{init.path}: none of its weights has a name of this model's")
    grown = [name for name in loaded if fresh[name].shape != source[name].shape]
    for name in grown:
        new, old = fresh[name].shape, source[name].shape
        if not may_grow(leaf_axes[name]) or new[1:] != old[1:] or new[0] < old[0]:
            raise ValueError(
                f"{init.path}: {name} has shape {old} and this model's is {new}; "
                "configure the model with the sizes of those weights"
            )

    def pick(path, leaf, sharding):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name not in source:
            return leaf
        value = source[name].astype(leaf.dtype)
        if name not in grown:
            return distributed.spread(value, sharding)
        value = distributed.spread(value, NamedSharding(mesh, PartitionSpec()))
        grow = jax.jit(_with_first_rows, out_shardings=sharding)
        return grow(leaf, value)

    places = variables(shardings.params, shardings.frozen)["params"]
    weights = jax.tree_util.tree_map_with_path(pick, weights, places)
    params, rest = split(weights, _named(state.frozen.get(PARAMS, {})))
    trees = {**state.frozen, PARAMS: rest} if rest else state.frozen
    lines = _report(init.path, fresh.keys(), source.keys(), grown, left.keys())
    lines += [f"  model.{line}" for line in _differences(source_model, model)]
    return dataclasses.replace(state, params=params, frozen=trees), "\n".join(lines)


def _report(
    path: str,
    fresh: Set[str],
    source: Set[str],
    grown: Collection[str],
    there: Set[str],
) -> list[str]:
    """The lines that list the weights loaded, grown by rows, created and left over."""
    kinds = {
        "loaded": (fresh & source) - set(grown),
        "loaded, with new rows": grown,
        "created": fresh - source,
        "left over": there - (fresh & source),
    }
    if not grown:
        del kinds["loaded, with new rows"]
    return [f"initial weights from {path}:"] + [
        textwrap.fill(
            f"{kind} {len(names)}: {', '.join(sorted(names)) or 'none'}",
            wording.WIDTH,
            initial_indent="  ",
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for kind, names in kinds.items()
    ]


def _with_first_rows(leaf: jax.Array, rows: jax.Array) -> jax.Array:
    return leaf.at[: rows.shape[0]].set(rows)


def _weights(init: Checkpoint, mesh: Mesh) -> tuple[ModelConfig, Any]:
    """The model's config and the weights at `init.path`, of a run or of the hub."""
    if of_hub(init.path):
        model, params = hub.load(init.path, mesh=mesh, dtype=jnp.float32)
        return model.cfg, params
    run, params = load_params(init.path, init.step)
    return run.model, params


def _differences(source: ModelConfig, model: ModelConfig) -> list[str]:
    """One line per field that the two models do not share, sizes of rows aside."""
    old, new = _flat(to_dict(source)), _flat(to_dict(model))
    grow = (
        "vocab_size",
        "positions.max_length",
        "dropout",
        "attention_dropout",
        "layer_drop",
    )
    return [
        f"{key} was {old.get(key)!r} and is {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and key not in grow
    ]


def _named(tree: Any) -> dict[str, Any]:
    return {
        jax.tree_util.keystr(p, simple=True, separator="/"): leaf
        for p, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
