r"""Checks that every config compiles for the TPUs that it names, fits and is sharded.

    python -m experiments.plan_gate [--compile=quick|all|none] [--only=llama3] \
        [--workers=2]

"quick" compiles all configs but those that take more than two minutes (`SLOW`). These
are only lowered; `tests/proofs/plan_compile.py` compiles them. Ends with code 1 where a
config fails. Needs the TPU compiler (`pip install -e '.[tpu]'`) and no TPU.
"""

import importlib
import sys
from pathlib import Path

from absl import flags

from experiments import cli
from llmjax import config as cfg
from llmjax.plan import gate
from llmjax.plan.compiler import platforms

COMPILE = flags.DEFINE_enum(
    "compile", "quick", ["quick", "all", "none"], "Which configs to compile."
)
ONLY = flags.DEFINE_string("only", "", "Check only configs whose path contains this.")
WORKERS = flags.DEFINE_integer("workers", 2, "Processes.")

ROOT = Path(__file__).parents[1]
# They compile in more than two minutes on two cores.
SLOW = (
    "configs/pretrain/llama2_70b.py",
    "configs/pretrain/llama3_405b.py",
    "configs/pretrain/llama3_70b.py",
    "configs/pretrain/llama3_8b.py",
    "configs/pretrain/mixtral_8x7b.py",
)


def paths(only: str = "") -> list[str]:
    """Every config, as `configs/pretrain/llama2_7b.py`."""
    files = sorted((ROOT / "configs").rglob("*.py"))
    names = [str(f.relative_to(ROOT)) for f in files if f.name != "__init__.py"]
    return [name for name in names if only in name]


def load(path: str) -> cfg.RunConfig:
    """Parses a config file."""
    module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    return cfg.parse(module.get_config())


def main() -> None:
    platforms.require_tpu()
    names = paths(ONLY.value)
    if not names:
        raise ValueError(f"--only={ONLY.value}: no config's path contains it")
    lowered_only = {"quick": SLOW, "all": (), "none": names}[COMPILE.value]
    runs = {name: load(name) for name in names}
    verdicts = gate.check_all(runs, lowered_only, WORKERS.value)
    print(gate.report(verdicts))
    sys.exit(any(v.fault for v in verdicts))


if __name__ == "__main__":
    cli.launch(main)
