"""One draw of sizes, and the variant of a family.

Sizes are odd on purpose: head counts that are no powers of two, windows shorter than
the row, soft caps small enough to matter.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Shapes:
    """The sizes of one draw; letters as in the legend of `llmjax.parallel.axes`."""

    N: int  # heads; query heads where keys are grouped: twice or three times K
    K: int
    H: int  # even: rotary positions turn pairs
    F: int
    V: int
    E: int
    T: int
    S: int  # length of the encoder's rows

    @property
    def D(self) -> int:
        """The width where a family has no other choice."""
        return self.N * self.H

    @property
    def D_free(self) -> int:
        """A width other than N * H that N still divides, as some configs demand."""
        return self.N * (self.H - 1)

    @classmethod
    def draw(cls, seed: int) -> "Shapes":
        """Random sizes; seed 0 gives the ones of the golden files."""
        rng = np.random.default_rng(seed)
        n, k = rng.choice([(6, 2), (6, 3), (9, 3), (5, 1)] if seed else [(6, 3)])
        return cls(
            N=int(n),
            K=int(k),
            H=int(rng.choice([4, 6, 8])) if seed else 4,
            F=int(rng.integers(11, 30)) if seed else 13,
            V=int(rng.integers(41, 70)) if seed else 43,
            E=int(rng.choice([4, 6])) if seed else 6,
            T=int(rng.integers(10, 15)) if seed else 11,
            S=int(rng.integers(6, 10)) if seed else 7,
        )


@dataclass(frozen=True)
class Variant:
    """One model to compare.

    Attributes:
      name: family and variant, "llama/yarn".
      architecture: class of transformers.
      config: arguments of its config.
      kind: "encoder", "decoder" or "encoder-decoder".
      left_padding: whether a row may start with padding.
      token_types: number of token types to draw; 0: none.
      two_stream: whether XLNet's query stream is compared.
      decode: whether cached decoding is compared; False needs a comment beside it.
      takes_positions: whether it has `position_ids`.
      alone: whether transformers gets each row by itself, because its rates of rotation
        follow the longest position of the batch.
    """

    name: str
    architecture: str
    config: dict
    kind: str = "decoder"
    left_padding: bool = True
    token_types: int = 0
    two_stream: bool = False
    decode: bool = True
    takes_positions: bool = True
    alone: bool = False

    @property
    def family(self) -> str:
        return self.name.split("/")[0]
