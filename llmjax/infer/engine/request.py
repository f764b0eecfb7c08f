"""What an engine is asked for, and what it answers."""

import dataclasses
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from llmjax.infer.engine.penalties import NONE, Penalties
from llmjax.infer.prompts import Prompt
from llmjax.infer.sampling import Sampling

Reason = Literal["stop", "length", "cancelled", "not_finite", "constraint", "failed"]


@runtime_checkable
class Constraint(Protocol):
    """Which tokens may come next, as a text grows; one object a text."""

    @property
    def complete(self) -> bool:
        """Whether the text may end here."""

    @property
    def ended(self) -> bool:
        """Whether nothing may follow."""

    def allowed(self) -> np.ndarray:
        """Uint32 [V / 32, rounded up]: bit i of word w is for token 32 w + i."""

    def advance(self, token: int) -> None:
        """Tells it the token that was drawn."""


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """A text to continue.

    Attributes:
      prompt: token ids.
      max_new_tokens: the most tokens that it gets.
      sampling: how they are drawn.
      stop_tokens: it ends at the first of these, which is left out.
      seed, number: a draw depends on (seed, number, the token's number in the text) and
        on nothing else. `number` tells apart texts of one seed.
      priority: lower ones are served first, and give way last.
      penalties: how what was said changes what is drawn.
      constraint: what may be drawn; None: everything.
      top: whether the likeliest tokens are told of each token's place.
    """

    prompt: Prompt
    max_new_tokens: int
    sampling: Sampling = Sampling()
    stop_tokens: tuple[int, ...] = ()
    seed: int = 0
    number: int = 0
    priority: int = 0
    penalties: Penalties = NONE
    constraint: Constraint | None = None
    top: bool = False


@dataclasses.dataclass(frozen=True)
class Token:
    """One token of an answer.

    Attributes:
      id: of the token.
      log_p: its log-probability by the model at temperature 1.
      top: the likeliest tokens in its place and their log-probabilities, the best
        first.
    """

    id: int
    log_p: float
    top: tuple[tuple[int, float], ...] = dataclasses.field(repr=False, default=())


@dataclasses.dataclass(frozen=True)
class Event:
    """News of one request: tokens, its end, or both.

    Attributes:
      id: of the request, as `Engine.submit` gave it.
      tokens: new ones.
      finished: why it ended; None: it goes on.
      cached: tokens of the prompt whose keys and values were there already.
    """

    id: int
    tokens: tuple[Token, ...] = ()
    finished: Reason | None = None
    cached: int = 0


@dataclasses.dataclass
class Answer:
    """All that an engine wrote for a request.

    Attributes:
      tokens: without the one that ended it.
      finished: why it ended.
      cached: tokens of the prompt whose keys and values were there already.
    """

    tokens: list[Token] = dataclasses.field(default_factory=list)
    finished: Reason | None = None
    cached: int = 0

    @property
    def ids(self) -> np.ndarray:
        """Int32 [n]."""
        return np.array([token.id for token in self.tokens], np.int32)
