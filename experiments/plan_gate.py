r"""Checks that every config compiles for the TPUs and GPUs that it names, and fits.

    python -m experiments.plan_gate [--compile=quick|all|none] [--only=llama3] \
        [--platform=all|tpu|gpu] [--workers=2]

Every config is lowered for both, and its state must be sharded. "quick" compiles for
TPUs all but those that take more than two minutes (`SLOW`), which
`tests/proofs/plan_compile.py` compiles, and for GPUs a few (`ON_GPUS`). Ends with code
1 where a config fails. Needs the compilers (`pip install -e '.[tpu,plan-gpu]'`), but
neither TPU nor GPU; without cuDNN, GPUs' attention is XLA's.
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
PLATFORM = flags.DEFINE_enum(
    "platform", "all", ["all", "tpu", "gpu"], "Compilers to check with."
)
ONLY = flags.DEFINE_string("only", "", "Check only configs whose path contains this.")
WORKERS = flags.DEFINE_integer("workers", 2, "Processes.")

ROOT = Path(__file__).parents[1]
# They compile in more than two minutes on two cores.
SLOW = (
    "configs/pretrain/llama2_70b.py",
    "configs/pretrain/llama2_7b.py",
    "configs/pretrain/llama2_7b_v5e.py",
    "configs/pretrain/llama2_7b_v6e.py",
    "configs/pretrain/llama3_405b.py",
    "configs/pretrain/llama3_70b.py",
    "configs/pretrain/llama3_8b.py",
    "configs/pretrain/mixtral_8x7b.py",
)
# A few of each kind that compile quickly for GPUs too: A100, H100, L4.
ON_GPUS = (
    "configs/benchmark/gpt2_6l.py",
    "configs/benchmark/llama_4l.py",
    "configs/benchmark/minilm_classify.py",
    "configs/pretrain/llama2_7b.py",
)
TPUS, GPUS = "plan_topology", "plan_gpus"  # fields of the layout


def paths(only: str = "") -> list[str]:
    """Every config, as `configs/pretrain/llama2_7b.py`."""
    files = sorted((ROOT / "configs").rglob("*.py"))
    names = [str(f.relative_to(ROOT)) for f in files if f.name != "__init__.py"]
    return [name for name in names if only in name]


def load(path: str) -> cfg.RunConfig:
    """Parses a config file."""
    module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    return cfg.parse(module.get_config())


def lowered_only(names: list[str]) -> list[tuple[str, str]]:
    """The (config, field of its layout) that --compile leaves out."""
    match COMPILE.value:
        case "all":
            return []
        case "none":
            return [(name, field) for name in names for field in (TPUS, GPUS)]
    gpus = [(name, GPUS) for name in names if name not in ON_GPUS]
    return [*((name, TPUS) for name in SLOW), *gpus]


def main() -> None:
    fields = {"tpu": [TPUS], "gpu": [GPUS]}.get(PLATFORM.value, [TPUS, GPUS])
    if TPUS in fields:
        platforms.require_tpu()
    if GPUS in fields:
        platforms.require_cuda()
    names = paths(ONLY.value)
    if not names:
        raise ValueError(f"--only={ONLY.value}: no config's path contains it")
    runs = {name: load(name) for name in names}
    verdicts = gate.check_all(runs, fields, lowered_only(names), WORKERS.value)
    print(gate.report(verdicts))
    if GPUS in fields and not platforms.has_cudnn():
        print(
            "Not covered: cuDNN's attention, which is not installed; on GPUs this was "
            f"attention as XLA computes it, which takes more memory: "
            f"{platforms.INSTALL_GPU}"
        )
    sys.exit(any(v.fault for v in verdicts))


if __name__ == "__main__":
    cli.launch(main)
