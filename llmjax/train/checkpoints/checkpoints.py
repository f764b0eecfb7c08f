"""Checkpoints by orbax: the state, and beside it what a reader must know of it.

`<workdir>/checkpoints/<step>/{state, run}`. The latest and the best ones are kept;
writing is asynchronous and a checkpoint that was not finished does not count. Frozen
weights are written once, beside the checkpoints (`llmjax.train.checkpoints.frozen`);
`run` holds their hashes, the format's version, the config and the path of the averaged
weights.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies

from llmjax.config import RunConfig, TrainConfig, parse, to_dict
from llmjax.train.checkpoints import frozen as frozen_lib
from llmjax.train.checkpoints.best import Best, order
from llmjax.train.checkpoints.damage import DamagedError, reading
from llmjax.train.optimizers import averages
from llmjax.train.state import State

FORMAT = 2
FOLDER = "checkpoints"
UNKNOWN = Best()


class Checkpoints:
    """The checkpoints of one workdir."""

    def __init__(self, workdir: epath.PathLike, config: RunConfig | None = None):
        """Opens them: to write with `config`, else only to read."""
        self.directory = epath.Path(workdir).expanduser().absolute() / FOLDER
        self.config = config
        self.references: frozen_lib.References | None = None
        if config is None and not self.directory.is_dir():
            raise FileNotFoundError(
                f"{self.directory} does not exist; give the workdir of a run that saved"
            )
        train = config.train if config else TrainConfig()
        best = policies.BestN(
            get_metric_fn=functools.partial(order, train),
            n=train.keep_best,
            keep_checkpoints_without_metrics=False,
        )
        latest = policies.LatestN(1)
        keep = policies.AnyPreservationPolicy([latest, best])
        options = ocp.CheckpointManagerOptions(
            preservation_policy=keep if config else None,
            best_fn=functools.partial(order, train),  # or no metrics are written
            best_mode="max",
            cleanup_tmp_directories=config is not None,
            read_only=config is None,
            save_decision_policy=policies.FixedIntervalPolicy(1),
        )
        handlers = {
            "state": ocp.PyTreeCheckpointHandler(),
            "run": ocp.JsonCheckpointHandler(),
        }
        self.manager = ocp.CheckpointManager(
            self.directory,
            options=options,
            item_handlers=handlers,
        )

    def save(
        self,
        state: State,
        metrics: dict[str, float] | None = None,
        best: Best = UNKNOWN,
    ) -> None:
        """Starts writing `state`.

        Args:
          state: to be saved.
          metrics: of an evaluation at its step.
          best: the best evaluation up to its step.

        Frozen weights are written first, and not again by the same object.
        """
        assert self.config is not None
        if self.references is None:
            self.references = frozen_lib.save(self.directory.parent, state.frozen)
        run = {
            "format": FORMAT,
            "config": to_dict(self.config),
            "frozen": self.references,
            "best": dataclasses.asdict(best),
            "average": dataclasses.asdict(averages.place(state)),
        }
        state = dataclasses.replace(state, frozen={})
        self.manager.save(
            int(state.step),
            args=ocp.args.Composite(
                state=ocp.args.PyTreeSave(state), run=ocp.args.JsonSave(run)
            ),
            metrics=metrics,
            force=True,
        )

    @property
    def latest_step(self) -> int | None:
        """The last step whose checkpoint is complete."""
        return self.manager.latest_step()

    @property
    def best_step(self) -> int | None:
        """The saved step of the best evaluation; without one, the latest."""
        train = self.run_config(self.latest_step).train
        scored = []
        for step in self.manager.all_steps():
            metrics = self.manager.metrics(step)
            if metrics and train.best_metric in metrics:
                scored.append((order(train, metrics), -step))
        return -max(scored)[1] if scored else self.latest_step

    def restore(
        self,
        abstract: State,
        step: int | None = None,
        frozen: Mapping[str, Any] | None = None,
    ) -> State:
        """The state of `step` (None: the latest), laid out as `abstract` says.

        Args:
          abstract: ShapeDtypeStructs with shardings; any mesh will do.
          step: of the checkpoint.
          frozen: a caller's frozen trees, which must be those that were saved.

        Raises:
          ValueError: another format, a leaf that is missing, extra or mis-shaped,
            other frozen weights, or files that cannot be read; it names the checkpoint
            and the leaf or tree.
        """
        step = self._existing(step)
        references = self._run(step)["frozen"]
        trees = self._frozen(step, references, abstract.frozen, frozen or {})
        rest = dataclasses.replace(abstract, frozen={})
        self._check(_shapes(rest), self._saved(step), step)
        args = ocp.args.Composite(state=_restore(rest))
        with self._reading(step):
            state = self.manager.restore(step, args=args)["state"]
        self.references = references
        return dataclasses.replace(state, frozen=trees)

    def _frozen(
        self,
        step: int,
        references: frozen_lib.References,
        abstract: Mapping[str, Any],
        callers: Mapping[str, Any],
    ) -> dict[str, Any]:
        """The frozen trees of a checkpoint."""
        where = self.directory / str(step)
        if references.keys() != abstract.keys():
            raise ValueError(
                f"{where} has the frozen trees {sorted(references) or 'none'} and this "
                f"run {sorted(abstract) or 'none'}; give those that it was saved with, "
                "or another workdir"
            )
        trees = {}
        for name, reference in references.items():
            saved = frozen_lib.shapes(self.directory.parent, name, reference)
            self._check(_shapes({name: abstract[name]}), {name: saved}, step)
            trees[name] = frozen_lib.restore(
                self.directory.parent, name, reference, abstract[name]
            )
        for name, tree in callers.items():
            frozen_lib.check_same(name, tree, trees[name])
        return trees

    def run_config(self, step: int | None = None) -> RunConfig:
        """The config that a checkpoint was saved with; raises as `restore`."""
        return parse(self._run(self._existing(step))["config"])

    def best(self, step: int | None = None) -> Best:
        """The best evaluation up to a checkpoint; raises as `restore`."""
        return Best(**self._run(self._existing(step))["best"])

    def _run(self, step: int) -> dict[str, Any]:
        """The item `run` of a checkpoint, of this format."""
        args = ocp.args.Composite(run=ocp.args.JsonRestore())
        with self._reading(step):
            self._require("run", step)
            run = self.manager.restore(step, args=args)["run"]
        if not isinstance(run, dict) or run.get("format") != FORMAT:
            version = run.get("format") if isinstance(run, dict) else None
            raise ValueError(
                f"{self.directory / str(step)} has checkpoint format {version}; this "
                f"version reads {FORMAT}; read it with the version that wrote it"
            )
        return run

    def params(self, step: int | None = None) -> Any:
        """The model's weights at `step` (None: the best), each on one device.

        Averaged ones where the run kept an average, and frozen ones among them.
        """
        step = self._existing(self.best_step if step is None else step)
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

        def abstract(leaf):
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device)

        run = self._run(step)
        average = averages.Place(run["average"]["kind"], tuple(run["average"]["path"]))

        def pick(path, leaf):
            needed = average.needed(averages.key_path(path))
            return abstract(leaf) if needed else ocp.PLACEHOLDER

        picked = jax.tree_util.tree_map_with_path(pick, self._saved(step))
        args = ocp.args.Composite(state=_restore(picked))
        with self._reading(step):
            params = average.weights(self.manager.restore(step, args=args)["state"])
        reference = run["frozen"].get(frozen_lib.PARAMS)
        if reference is None:
            return params
        workdir, name = self.directory.parent, frozen_lib.PARAMS
        shapes = frozen_lib.shapes(workdir, name, reference)
        rest = jax.tree.map(abstract, shapes)
        rest = frozen_lib.restore(workdir, name, reference, rest)
        return frozen_lib.merge(params, rest)

    def close(self) -> None:
        """Waits until everything is written."""
        self.manager.wait_until_finished()
        self.manager.close()

    def _existing(self, step: int | None) -> int:
        step = self.latest_step if step is None else step
        steps = sorted(self.manager.all_steps())
        if step is None or step not in steps:
            raise ValueError(
                f"{self.directory} has no checkpoint of step {step}; it has {steps}"
            )
        return step

    def _saved(self, step: int) -> Any:
        """Shapes and types of the leaves of a saved state."""
        with self._reading(step):
            self._require("state", step)
            metadata = self.manager.item_metadata(step)["state"]
            tree = metadata.tree if hasattr(metadata, "tree") else metadata
            if not tree:
                raise DamagedError("its state has no metadata")
            jax.tree.map(lambda leaf: leaf.shape, tree)
            return tree

    def _require(self, item: str, step: int) -> None:
        if not (self.directory / str(step) / item).is_dir():
            raise DamagedError(f"it has no folder {item!r}")

    def _check(self, expected: dict[str, Any], tree: Any, step: int) -> None:
        """Raises ValueError where a saved tree has other leaves or shapes."""
        saved = _shapes(tree)
        for name in sorted(expected.keys() | saved.keys()):
            if name not in saved:
                problem = f"lacks {name} {expected[name]}"
            elif name not in expected:
                problem = f"has {name} {saved[name]}, which this run does not"
            elif expected[name] != saved[name]:
                problem = f"has {name} {saved[name]}; this run has {expected[name]}"
            else:
                continue
            raise ValueError(
                f"{self.directory / str(step)} {problem}; use the config that it was "
                "saved with, or another workdir"
            )

    def _reading(self, step: int) -> contextlib.AbstractContextManager[None]:
        where = self.directory / str(step)
        return reading(where, "move that folder away to go on from the one before it")


def _restore(abstract: Any) -> Any:
    """Restores what `abstract` describes, laid out as it says, without placeholders."""
    return ocp.args.PyTreeRestore(
        item=abstract,
        restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
    )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(p, simple=True, separator="/"): tuple(leaf.shape)
        for p, leaf in leaves
    }


def load_params(
    workdir: epath.PathLike, step: int | None = None
) -> tuple[RunConfig, Any]:
    """The config and the weights of a run at `step` (None: the best).

    The weights are the averaged ones where the run kept an average.

    Raises:
      FileNotFoundError, ValueError: no such run or step, or one that can't be read.
    """
    checkpoints = Checkpoints(workdir)
    step = checkpoints.best_step if step is None else step
    config = checkpoints.run_config(step)
    params = checkpoints.params(step)
    checkpoints.close()
    return config, params
