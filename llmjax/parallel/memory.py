"""The share of a GPU's memory that jax takes for a run's arrays and programs."""

import math
import os

# jax's own default is 0.75. The rest is for the driver, the libraries and NCCL.
DEFAULT = 0.9
# as jax reads them: the second name is the older one, and both together an error
_VARIABLES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")


def share() -> float:
    """The share that the environment asks for, or else `DEFAULT`.

    Raises:
      ValueError: what the environment says is no share.
    """
    name = next(filter(os.environ.get, _VARIABLES), None)
    if name is None:
        return DEFAULT
    try:
        share = float(os.environ[name])
    except ValueError:
        share = math.nan
    if not 0 < share < math.inf:
        raise ValueError(
            f"the environment has {name}={os.environ[name]!r}; it is the share of a "
            f"GPU's memory that jax takes, as {DEFAULT}"
        )
    return share


def reserve() -> None:
    """Tells jax of `share`; to be called before it looks for devices."""
    if not any(map(os.environ.get, _VARIABLES)):
        os.environ[_VARIABLES[0]] = str(DEFAULT)
