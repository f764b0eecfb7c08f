"""Compiles a run's step for TPUs that are not there; says whether and how well it runs.

    python -m experiments.plan --config=configs/pretrain/llama2_7b.py \
        [--topology=v5p:4x4x4] [--num_slices=2] [--search] [--price=4.2] \
        [--workdir=runs/plan]
    python -m experiments.plan --compare=runs/a,runs/b

Needs the TPU compiler (`pip install -e '.[tpu]'`) and no TPU. Without --topology, the
config's `layout.plan_topology`. Where the step does not fit, the cheapest changes are
tried. With a workdir, `result.json`, `report.md` and `plan.png` are written there.
"""

import json

import jax
from absl import flags
from etils import epath
from ml_collections import config_flags

from experiments import cli
from llmjax import config as cfg
from llmjax.plan import chips, compare, compile, picture, remedies, report, search
from llmjax.plan.estimate import Size

TOPOLOGY = flags.DEFINE_string("topology", None, "Of one slice, as v5p:4x4x4.")
SLICES = flags.DEFINE_integer("num_slices", None, "Over the data-centre network.")
SEARCH = flags.DEFINE_boolean("search", False, "Look for a faster layout.")
BEST = flags.DEFINE_integer("best", 4, "Layouts that --search compiles.")
PRICE = flags.DEFINE_float("price", None, "Dollars per chip and hour.")
COMPARE = flags.DEFINE_string("compare", None, "Two results, with a comma between.")


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
    if BEST.value < 1:
        raise ValueError(f"--best={BEST.value}; it must be at least 1")
    result = plan(cli.config())
    text = report.text(result)
    print(text)
    if cli.WORKDIR.value is not None:
        write(result, text, cli.WORKDIR.value)


def topology(run: cfg.RunConfig) -> chips.Topology:
    """What the flags say, else the config.

    Raises:
      ValueError: neither names one, or there is none such.
    """
    name = TOPOLOGY.value or run.layout.plan_topology
    if name is None:
        raise ValueError(
            "give --topology, as v5e:4x4, or set layout.plan_topology in the config"
        )
    slices = run.layout.slices if SLICES.value is None else SLICES.value
    return chips.parse(name, slices)


def plan(run: cfg.RunConfig) -> report.Result:
    """Everything that the flags ask for, as `result.json` has it."""
    where = topology(run)
    compiled = compile.compile_step(run, where)
    result = {
        "config": config_flags.get_config_filename(flags.FLAGS["config"]),
        "layout": cfg.to_dict(compiled.config.layout),
        **report.describe(compiled, PRICE.value),
    }
    if SEARCH.value:
        found = search.search(
            compiled.config,
            where,
            Size.of(compiled.program),
            lambda made: report.predict(made, PRICE.value),
            BEST.value,
        )
        result["search"] = report.describe_search(found)
    elif not compiled.fits:
        tried = remedies.find(compiled)
        result["remedies"] = report.describe_remedies(tried)
    return result


def write(result: report.Result, text: str, workdir: str) -> None:
    """The report beside the result, and its picture."""
    cli.write_result(workdir, json.dumps(result, indent=1))
    folder = epath.Path(workdir).expanduser()
    (folder / "report.md").write_text(text + "\n")
    picture.draw(result, folder / "plan.png")


if __name__ == "__main__":
    cli.launch(main)
