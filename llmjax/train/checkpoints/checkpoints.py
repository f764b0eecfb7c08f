"""Checkpoints by orbax: the state, and beside it what a reader must know of it.

`<workdir>/checkpoints/<step>/{state, run, checksums.json}`. The latest and the best
ones are kept; writing is asynchronous and a checkpoint that was not finished does not
count. Frozen weights are written once, beside the checkpoints
(`llmjax.train.checkpoints.frozen`); `run` holds their hashes, the format's version, the
config, the metrics of an evaluation and the path of the averaged weights. The hashes of
all files are compared before any of them is believed.
"""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as policies

from llmjax.config import RunConfig, TrainConfig, to_dict
from llmjax.models.forward import REFERENCE
from llmjax.parallel.processes import distributed
from llmjax.train.checkpoints import checksums, leaves
from llmjax.train.checkpoints import frozen as frozen_lib
from llmjax.train.checkpoints.best import Best, LatestAndBest, best_first
from llmjax.train.checkpoints.damage import DamagedError, reading, writing
from llmjax.train.checkpoints.folder import FORMAT
from llmjax.train.checkpoints.folder import Folder as CheckpointFolder
from llmjax.train.optimizers import averages
from llmjax.train.state import State

FOLDER = "checkpoints"
ASIDE = "damaged"
UNKNOWN = Best()

T = TypeVar("T")


class Checkpoints:
    """The checkpoints of one workdir."""

    def __init__(self, workdir: epath.PathLike, config: RunConfig | None = None):
        """Opens them: to write with `config`, else only to read."""
        self.directory = epath.Path(workdir).expanduser().absolute() / FOLDER
        self.config = config
        self.references: frozen_lib.References | None = None
        self._failed = False  # to write
        self._metrics: dict[int, dict[str, float] | None] = {}  # of steps saved here
        self._folders: dict[int, CheckpointFolder] = {}
        if config is None and not self.directory.is_dir():
            missing = self.directory if self.directory.parent.is_dir() else workdir
            raise FileNotFoundError(
                f"{missing} does not exist; give the workdir of a run that saved"
            )
        self.manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        keep = self.config and LatestAndBest(self.config.train, self.metrics)
        handler = checksums.StateHandler()
        # after all is written, and before the checkpoint gets its name
        background = ocp.AsyncOptions(
            post_finalization_callback=handler.write_checksums
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=keep,
            cleanup_tmp_directories=self.config is not None,
            read_only=self.config is None,
            save_decision_policy=policies.FixedIntervalPolicy(1),
            async_options=background,
            lightweight_initialize=True,  # reads no metrics, which may be damaged
        )
        return ocp.CheckpointManager(
            self.directory,
            options=options,
            item_handlers={"state": handler, "run": ocp.JsonCheckpointHandler()},
        )

    def save(
        self,
        state: State,
        metrics: dict[str, float] | None = None,
        best: Best = UNKNOWN,
        metrics_file: dict[str, Any] | None = None,
    ) -> None:
        """Starts writing `state`.

        Args:
          state: to be saved.
          metrics: of an evaluation at its step.
          best: the best evaluation up to its step.
          metrics_file: size and sha256 of the rows up to its step.

        Frozen weights are written first, and not again by the same object.

        Raises:
          OSError: the disk is full or can't be written, now or for the one before.
        """
        assert self.config is not None
        if self.references is None:
            with self._writing():
                self.references = frozen_lib.save(self.directory.parent, state.frozen)
        run = {
            "format": FORMAT,
            "config": to_dict(self.config),
            "frozen": self.references,
            "metrics": metrics,
            "metrics_file": metrics_file,
            "best": dataclasses.asdict(best),
            "average": dataclasses.asdict(averages.place(state)),
        }
        state = dataclasses.replace(state, frozen={})
        step = int(state.step)
        self._metrics[step] = metrics
        items = {"state": checksums.SaveState(state), "run": ocp.args.JsonSave(run)}
        with self._writing():
            self.manager.save(step, args=ocp.args.Composite(**items), force=True)

    @property
    def steps(self) -> list[int]:
        """All steps whose checkpoint is complete."""
        return sorted(self.manager.all_steps())

    @property
    def latest_step(self) -> int | None:
        """The last step whose checkpoint is complete."""
        return self.manager.latest_step()

    @property
    def best_step(self) -> int | None:
        """The saved step of the best evaluation; without one, the latest."""
        readable, _ = self._best_first()
        return readable[0] if readable else self.latest_step

    def _best_first(self) -> tuple[list[int], dict[int, DamagedError]]:
        """Steps by their evaluations, and those whose item `run` is damaged."""
        metrics, damaged = {}, {}
        train = TrainConfig()
        for step in self.steps:
            try:
                metrics[step] = self.metrics(step)
                train = self.run_config(step).train
            except DamagedError as e:
                damaged[step] = e
        return best_first(train, metrics), damaged

    def best_whole(self, read: Callable[[int], T]) -> T:
        """`read(step)` of the best checkpoint that is whole; says what it passed over.

        Raises:
          ValueError: none is whole; of the first that `read` was given.
        """
        self._existing(self.latest_step)
        steps, damaged = self._best_first()
        errors = list(damaged.values())
        for step in steps:
            try:
                out = read(step)
            except DamagedError as e:
                errors.append(e)
                continue
            for error in errors:
                _say(str(error))
            if errors:
                _say(f"step {step} is the best that is whole, and is read instead")
            return out
        raise errors[0]

    def set_aside_damaged(self) -> None:
        """Moves checkpoints after the last whole one to `<workdir>/damaged`.

        Raises:
          ValueError: none is whole.
        """
        damaged: dict[int, DamagedError] = {}
        for step in reversed(self.steps):
            try:
                self._folder(step).check()
                break
            except DamagedError as e:
                damaged[step] = e
        else:
            if damaged:
                raise ValueError(
                    f"no checkpoint in {self.directory} is whole: "
                    f"{damaged[max(damaged)]}"
                )
        for step, error in damaged.items():
            target = self.directory.parent / ASIDE / str(step)
            while target.exists():
                target = target.with_name(f"{target.name}_again")
            reason = str(error).removesuffix(f"; {self._folder(step).remedy}")
            _say(f"{reason}; its checkpoint was moved to {target}")
            if distributed.is_leader():
                target.parent.mkdir(exist_ok=True)
                (self.directory / str(step)).rename(target)
        if damaged:
            multihost_utils.sync_global_devices("damaged checkpoints set aside")
            self.manager.close()
            self.manager = self._open()
            self._folders.clear()

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
        self._folder(step).check()
        references = self._folder(step).run["frozen"]
        trees = self._frozen(step, references, abstract.frozen, frozen or {})
        rest = dataclasses.replace(abstract, frozen={})
        leaves.check(rest, self._saved(step), self.directory / str(step))
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
            leaves.check({name: abstract[name]}, {name: saved}, where)
            trees[name] = frozen_lib.restore(
                self.directory.parent, name, reference, abstract[name]
            )
        for name, tree in callers.items():
            frozen_lib.check_same(name, tree, trees[name])
        return trees

    def run_config(self, step: int | None = None) -> RunConfig:
        """The config that a checkpoint was saved with; raises as `restore`."""
        return self._folder(self._existing(step)).config

    def run(self, step: int | None = None) -> dict[str, Any]:
        """What was saved beside a state; raises as `restore`."""
        return self._folder(self._existing(step)).run

    def best(self, step: int | None = None) -> Best:
        """The best evaluation up to a checkpoint; raises as `restore`."""
        return Best(**self.run(step)["best"])

    def metrics(self, step: int) -> dict[str, float] | None:
        """Metrics of the evaluation at a saved step, if any; raises as `restore`."""
        if step in self._metrics:  # it may still be being written
            return self._metrics[step]
        return self._folder(step).metrics

    def _folder(self, step: int) -> CheckpointFolder:
        if step not in self._folders:
            self._folders[step] = CheckpointFolder(self.directory / str(step))
        return self._folders[step]

    def params(self, step: int) -> Any:
        """The model's weights at `step`, each on one device; raises as `restore`.

        Averaged ones where the run kept an average, and frozen ones among them.
        """
        step = self._existing(step)
        self._folder(step).check()
        run = self._folder(step).run
        average = averages.Place(run["average"]["kind"], tuple(run["average"]["path"]))

        def pick(path, leaf):
            needed = average.needed(averages.key_path(path))
            return _here(leaf) if needed else ocp.PLACEHOLDER

        picked = jax.tree_util.tree_map_with_path(pick, self._saved(step))
        args = ocp.args.Composite(state=_restore(picked))
        with self._reading(step):
            params = average.weights(self.manager.restore(step, args=args)["state"])
        rest = self._frozen_tree(step, frozen_lib.PARAMS)
        return params if rest is None else frozen_lib.merge(params, rest)

    def reference(self, step: int) -> Any:
        """The model's weights as the run at `step` began, each on one device, if it
        keeps them; else None. Raises as `restore`."""
        first = self._frozen_tree(self._existing(step), REFERENCE)
        rest = self._frozen_tree(step, frozen_lib.PARAMS)
        if first is None or rest is None:
            return first
        return frozen_lib.merge(rest, first)

    def _frozen_tree(self, step: int, name: str) -> Any:
        """One frozen tree of a checkpoint, each leaf on one device; None: there is
        none."""
        saved = self._folder(step).run["frozen"].get(name)
        if saved is None:
            return None
        workdir = self.directory.parent
        shapes = jax.tree.map(_here, frozen_lib.shapes(workdir, name, saved))
        return frozen_lib.restore(workdir, name, saved, shapes)

    def close(self) -> None:
        """Waits until everything is written; raises as `save`, of one error once."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._close)
            if not self._failed:
                with self._writing():
                    self.manager.wait_until_finished()

    def _close(self) -> None:
        with contextlib.suppress(*([Exception] if self._failed else [])):
            self.manager.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with writing(self.directory):
                yield
        except BaseException:
            self._failed = True
            raise

    def _existing(self, step: int | None) -> int:
        step = self.latest_step if step is None else step
        if step is None or step not in self.steps:
            raise ValueError(
                f"{self.directory} has no checkpoint of step {step}; it has "
                f"{self.steps}"
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

    def _reading(self, step: int) -> contextlib.AbstractContextManager[None]:
        return reading(self.directory / str(step), self._folder(step).remedy)


def _say(line: str) -> None:
    if distributed.is_leader():
        print(line, file=sys.stderr)


def _here(leaf: Any) -> jax.ShapeDtypeStruct:
    """A leaf that is restored on the first device of this process."""
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device)


def _restore(abstract: Any) -> Any:
    """Restores what `abstract` describes, laid out as it says, without placeholders."""
    return checksums.RestoreState(
        item=abstract,
        restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
    )
