"""Going on from what was saved: the same run's checkpoint, or another's weights."""

import json
from typing import Any

import jax
from etils import epath

from llmjax.config import Checkpoint, RunConfig, to_dict
from llmjax.train.checkpoints import load_params
from llmjax.train.state import State

CONFIG_FILE = "config.json"
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
    "train.writers",
)


def save_or_check_config(config: RunConfig, workdir: epath.Path, resumed: bool) -> None:
    """Writes `<workdir>/config.json`; a resumed run's is compared with it first.

    Raises:
      ValueError: a field that makes it another run; it names the key, what was saved
        and what came.
    """
    path = workdir / CONFIG_FILE
    given = _flat(to_dict(config))
    if resumed and path.exists():
        saved = _flat(json.loads(path.read_text()))
        for key in sorted(saved.keys() | given.keys()):
            free = any(key == f or key.startswith(f + ".") for f in FREE)
            if saved.get(key) != given.get(key) and not free:
                raise ValueError(
                    f"{workdir} holds a run with {key}={saved.get(key)!r} and this one "
                    f"has {given.get(key)!r}; set it back, or give another --workdir"
                )
    part = path.with_suffix(".part")
    part.write_text(json.dumps(to_dict(config), indent=2))
    part.replace(path)


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix[:-1]: tree}
    out: dict[str, Any] = {}
    for key, value in tree.items():
        out |= _flat(value, f"{prefix}{key}.")
    return out


def load_initial(state: State, shardings: State, init: Checkpoint) -> tuple[State, str]:
    """A fresh state with the weights of an earlier run where names agree.

    Returns:
      The state, and a text that says which leaves were loaded, created and left over.

    Raises:
      ValueError: a leaf of the same name and another shape, or none that agree.
    """
    _, source = load_params(init.path, init.step)
    found = _named(source)
    wanted = _named(state.params)
    loaded = sorted(wanted.keys() & found.keys())
    if not loaded:
        raise ValueError(f"{init.path}: none of its weights has a name of this model's")
    for name in loaded:
        if wanted[name].shape != found[name].shape:
            raise ValueError(
                f"{init.path}: {name} has shape {found[name].shape} and this model "
                f"wants {wanted[name].shape}; give the model its sizes of then"
            )

    def pick(path, leaf, sharding):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return jax.device_put(found.get(name, leaf), sharding)

    params = jax.tree_util.tree_map_with_path(pick, state.params, shardings.params)
    created = sorted(wanted.keys() - found.keys())
    left = sorted(found.keys() - wanted.keys())
    lines = [f"initial weights from {init.path}:"]
    for what, names in (("loaded", loaded), ("created", created), ("left over", left)):
        lines.append(f"  {what} {len(names)}: {_brief(names)}")
    return state.replace(params=params), "\n".join(lines)  # type: ignore[attr-defined]


def _named(tree: Any) -> dict[str, Any]:
    return {
        jax.tree_util.keystr(p, simple=True, separator="/"): leaf
        for p, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _brief(names: list[str]) -> str:
    return ", ".join(names) or "none"
