"""The folder of one checkpoint: what it says of its run, and whether it is whole."""

import functools
import sys
from typing import Any

from etils import epath

from llmjax.config import RunConfig, parse
from llmjax.data.store import manifest
from llmjax.parallel.processes import distributed
from llmjax.train.checkpoints import checksums
from llmjax.train.checkpoints.damage import DamagedError

FORMAT = 3
UNCHECKED = 2  # a format without checksums, and with metrics in a file of their own
RUN = "run/metadata"


class Folder:
    """A complete checkpoint; what is read of it raises ValueError.

    A DamagedError names a file that is missing, cut off or was changed; of another
    format it is a plain ValueError.
    """

    def __init__(self, path: epath.Path):
        """Names the checkpoint at `path`; reads nothing yet."""
        self.path = path
        self.remedy = (
            f"move {path} away to use the one before it, or name another step; "
            "train.damaged='set_aside' lets a run that trains on do so itself"
        )

    @functools.cached_property
    def run(self) -> dict[str, Any]:
        """What was saved beside the state."""
        reason = None if (self.path / RUN).exists() else "it is missing"
        if self._accounts is not None:
            reason = checksums.problem(self.path, RUN, self._accounts[RUN])
        if reason is not None:
            raise DamagedError(f"{self.path / RUN} is damaged: {reason}; {self.remedy}")
        run = self._read(RUN)
        if run.get("format") not in (UNCHECKED, FORMAT):
            raise ValueError(
                f"{self.path} has checkpoint format {run.get('format')}; this version "
                f"reads {UNCHECKED} and {FORMAT}; read it with the one that wrote it"
            )
        if run["format"] == FORMAT and self._accounts is None:
            raise DamagedError(
                f"{self.path / checksums.FILE} is missing; {self.remedy}"
            )
        return run

    @functools.cached_property
    def metrics(self) -> dict[str, float] | None:
        """Metrics of the evaluation at its step, if there was one."""
        if self.run["format"] == UNCHECKED:
            return self._read("metrics/metrics") or None
        return self.run["metrics"]

    @property
    def config(self) -> RunConfig:
        """What it was saved with."""
        return parse(self.run["config"])

    def check(self) -> None:
        """Compares its files with their hashes, once; see `checksums.check`."""
        return self._check

    @functools.cached_property
    def _check(self) -> None:
        assert self.run
        if self._accounts is not None:
            checksums.check(self.path, self._accounts, self.remedy)
        elif distributed.is_leader():
            print(
                f"{self.path} was saved without checksums, by an earlier version: its "
                "files are not verified",
                file=sys.stderr,
            )

    @functools.cached_property
    def _accounts(self) -> checksums.Accounts | None:
        return checksums.read(self.path, self.remedy)

    def _read(self, name: str) -> dict[str, Any]:
        try:
            return manifest.read_json(self.path / name, self.remedy)
        except ValueError as e:
            raise DamagedError(str(e)) from e
