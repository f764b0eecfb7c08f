r"""Compiles a run's step for TPUs or GPUs; reports whether it fits and how fast.

    python -m experiments.plan --config=configs/pretrain/llama2_7b.py \
        [--topology=v5p:4x4x4] [--num_slices=2] [--price=4.2] [--workdir=runs/plan] \
        [--search] [--compiles=12] [--fixed=compiler_options]
    python -m experiments.plan --config=configs/pretrain/llama2_7b.py \
        --topology=h100:8x8
    python -m experiments.plan --compare=runs/a,runs/b

Needs the TPU compiler (`pip install -e '.[tpu]'`) or that for GPUs (`'.[plan-gpu]'`),
but neither TPU nor GPU. A topology is one slice of TPU chips, or GPUs x hosts; without
--topology, the config's `layout.plan_topology` is taken. Where the step does not fit,
the cheapest changes that save memory are compiled. `--search` compiles other layouts of
the same run, `--compiles` of them at most: meshes, what is kept, blocks, options of the
compiler; it keeps what helps, and prints the fastest as flags and as lines of a config.
Writes `result.json`, `report.md` and `plan.png` into the workdir, if one is given.
"""

import json
from dataclasses import fields

import jax
from absl import flags
from etils import epath
from ml_collections import config_flags

from experiments import cli
from llmjax import config as cfg
from llmjax.plan import compare, picture, report
from llmjax.plan.compiler import compile
from llmjax.plan.cost import topologies
from llmjax.plan.cost.estimate import Size
from llmjax.plan.layouts import remedies, search

TOPOLOGY = flags.DEFINE_string(
    "topology", None, "TPUs of a slice, v5p:4x4x4; or GPUs x hosts, h100:8x16."
)
SLICES = flags.DEFINE_integer("num_slices", None, "Slices of TPUs.")
SEARCH = flags.DEFINE_boolean("search", False, "Search for a faster layout.")
COMPILES = flags.DEFINE_integer("compiles", 12, "Layouts that --search compiles.")
FIXED = flags.DEFINE_list(
    "fixed", [], "Fields of the layout that --search leaves: remat,compiler_options."
)
PRICE = flags.DEFINE_float("price", None, "Dollars per hour of a chip or GPU.")
COMPARE = flags.DEFINE_string("compare", None, "Two results, as a,b.")


def main() -> None:
    jax.config.update("jax_platforms", "cpu")
    if COMPARE.value is not None:
        paths = COMPARE.value.split(",")
        if len(paths) != 2:
            raise ValueError(f"--compare={COMPARE.value}; accepted: two paths, as a,b")
        print(compare.compare(*map(compare.read, paths)))
        return
    if cli.CONFIG.value is None:
        raise ValueError("give --config=configs/..., or --compare=a.json,b.json")
    if COMPILES.value < 1:
        raise ValueError(f"--compiles={COMPILES.value}; it must be at least 1")
    if unknown := set(FIXED.value) - {f.name for f in fields(cfg.LayoutConfig)}:
        raise ValueError(
            f"--fixed={','.join(FIXED.value)}: layout has no {min(unknown)}; accepted: "
            f"{', '.join(f.name for f in fields(cfg.LayoutConfig))}"
        )
    result = plan(cli.config())
    text = report.text(result)
    print(text)
    if cli.WORKDIR.value is not None:
        write(result, text, cli.WORKDIR.value)


def topology(run: cfg.RunConfig) -> topologies.Topology:
    """The topology of the flags, or else of the config.

    Raises:
      ValueError: neither names one, or there is none of that name.
    """
    name = TOPOLOGY.value or run.layout.plan_topology
    if name is None:
        raise ValueError(
            "give --topology, as v5e:4x4 or h100:8, or set layout.plan_topology in "
            "the config"
        )
    slices = 1 if topologies.of_gpus(name) else run.layout.slices
    return topologies.parse(name, slices if SLICES.value is None else SLICES.value)


def plan(run: cfg.RunConfig) -> report.Result:
    """The content of `result.json`."""
    compiled = compile.compile_step(run, topology(run))
    result = {
        "config": config_flags.get_config_filename(flags.FLAGS["config"]),
        "layout": cfg.to_dict(compiled.config.layout),
        **report.describe(compiled, PRICE.value),
    }
    if SEARCH.value:
        ranking = search.search(
            compiled.config,
            compiled.topology,
            Size.of(compiled.program),
            lambda candidate: report.predict(candidate, PRICE.value),
            COMPILES.value,
            start=compiled,
            fixed=FIXED.value,
        )
        result["search"] = report.describe_search(ranking)
    elif not compiled.fits:
        result["remedies"] = report.describe_remedies(remedies.find(compiled))
    return result


def write(result: report.Result, text: str, workdir: str) -> None:
    """Writes the result, the report and its picture into the workdir."""
    cli.write_result(workdir, json.dumps(result, indent=1))
    folder = epath.Path(workdir).expanduser()
    (folder / "report.md").write_text(text + "\n")
    if missing := picture.draw(result, folder / "plan.png"):
        print(missing)


if __name__ == "__main__":
    cli.launch(main)
