"""What worker processes import in tests: little, so that they start soon."""

import dataclasses
import os
import pathlib
import signal


@dataclasses.dataclass(frozen=True)
class Step:
    """A job that works, raises or dies."""

    what: str
    output: str
    size: int = 10

    def done(self) -> bool:
        return os.path.exists(self.output)


def act(step: Step) -> None:
    if step.what == "raise":
        raise ValueError("the reason")
    if step.what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    print("a worker may print")
    pathlib.Path(step.output).write_text(str(os.getpid()))
