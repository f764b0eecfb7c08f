"""What worker processes import in tests: little, so that they start soon."""

import dataclasses
import os
import pathlib
import signal
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Step:
    """A task that does as it is told."""

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


def annotate(text: str, offsets: Any) -> Mapping[str, Any]:
    """The length of each token's text, and whether it has a k."""
    import numpy as np

    spans = [text[a:b] for a, b in offsets]
    return {
        "span": np.array([len(span) for span in spans]),
        "is_k": np.array(["k" in span for span in spans]),
    }
