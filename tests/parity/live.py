"""Every family against transformers, live: `bash launch/parity.sh [--seed=7] [llama]`.

Sizes, weights and inputs are fresh at each run; the seed is printed and `--seed=`
repeats it. Further arguments keep only the families or variants that begin so.
"""

import argparse
import collections
import multiprocessing
import random
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file

from llmjax.hub.load import load
from llmjax.hub.save import save
from tests.parity import draws, ours, reference
from tests.parity import saved as saved_lib
from tests.parity.compare import TOLERANCE, Error, compare, compare_layers, distance
from tests.parity.families import variants
from tests.parity.shapes import Shapes, Variant

COLUMNS = ("logits", "gradients", "layers", "decode", "load", "reload", "changed")


def check(variant: Variant, shapes: Shapes, seed: int) -> dict[str, Error]:
    """All errors of a variant; "hidden" and "pooled" too."""
    with tempfile.TemporaryDirectory() as name:
        folder, saved = Path(name, "theirs"), Path(name, "ours")
        folder.mkdir()
        reference.write(variant, folder, seed)
        theirs = reference.load(variant, folder)
        inputs = draws.inputs(variant, shapes, seed)
        expected = reference.run(variant, theirs, inputs, seed)
        model, params = load(folder)
        decode = expected.decoded is not None
        actual = ours.run(folder, model, params, inputs, seed=seed, decode=decode)
        errors = compare(actual, expected)
        layers = compare_layers(
            ours.layers(model, params, inputs),
            reference.activations(variant, theirs, inputs),
        )
        errors |= {f"layers {name}": error for name, error in layers.items()}
        errors["load"] = loaded(folder, model, params)
        save(model, params, saved, family=variant.family)
        errors["reload"] = reloaded(variant, saved, inputs, expected)
    changed = saved_lib.check(variant, shapes, seed, count=1)
    errors |= {f"changed {name}": error for name, error in changed.items()}
    return errors


def loaded(folder: Path, model, params) -> Error:
    """The error of what we loaded against the file: none is tolerated."""
    file = load_file(folder / "model.safetensors")
    tensors = ours.named(folder, model, params)
    sizes = {
        name: distance(tensors[name], value) if name in tensors else float("inf")
        for name, value in file.items()
    }
    worst = max(sizes, key=lambda name: sizes[name])
    return Error(sizes[worst], worst, 0.0)


def reloaded(variant: Variant, folder: Path, inputs, expected) -> Error:
    """The error of transformers' outputs from the model as we saved it."""
    model = reference.load(variant, folder)
    if model.config.architectures != [variant.architecture]:
        return Error(float("inf"), f"saved as {model.config.architectures}", 0.0)
    logits, hidden, _ = reference.outputs(variant, model, inputs)
    kind, value, other = "logits", logits, expected.logits
    if logits is None:
        kind, value, other = "hidden", hidden, expected.hidden
    return Error(distance(value, other), kind, TOLERANCE)


def table(errors: dict[str, dict[str, Error]]) -> str:
    """Family × quantity: the largest error of a family's variants."""
    families: dict[str, dict[str, list[Error]]] = {}
    for name, quantities in errors.items():
        family = families.setdefault(name.split("/")[0], collections.defaultdict(list))
        for quantity, error in quantities.items():
            quantity = quantity.split()[0]  # "changed theta"
            shown = {"hidden": "logits", "pooled": "logits"}.get(quantity, quantity)
            family[shown].append(error)
    lines = ["".join([f"{'family':14}", *(f"{c:>12}" for c in COLUMNS)])]
    for family, columns in families.items():
        cells = []
        for column in COLUMNS:
            of_column = columns.get(column, columns.get("failed", []))
            wrong = "" if all(e.fine for e in of_column) else " !"
            sizes = [e.size for e in of_column]
            cells.append(f"{np.max(sizes):.1e}{wrong}" if sizes else "-")
        lines.append("".join([f"{family:14}", *(f"{c:>12}" for c in cells)]))
    return "\n".join(lines)


def timed(job: tuple[str, Shapes, int]) -> tuple[str, float, dict[str, Error]]:
    """The name, the seconds and the errors of a variant that it names."""
    name, shapes, seed = job
    (variant,) = (v for v in variants(shapes) if v.name == name)
    torch.set_num_threads(1)
    started = time.monotonic()
    try:
        errors = check(variant, shapes, seed)
    except Exception:  # the others are still of interest
        traceback.print_exc()
        errors = {"failed": Error(float("inf"), "raised", 0.0)}
    return name, time.monotonic() - started, errors


def main(arguments: list[str]) -> int:
    """Checks all variants; 1 where one is off."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(1, 2**31))
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("only", nargs="*", help="families or variants")
    options = parser.parse_args(arguments)
    shapes = Shapes.draw(options.seed)
    print(f"parity: --seed={options.seed} {shapes}", flush=True)
    errors: dict[str, dict[str, Error]] = {}
    names = [v.name for v in variants(shapes)]
    if options.only:
        names = [name for name in names if name.startswith(tuple(options.only))]
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(options.workers, maxtasksperchild=8) as pool:
        jobs = ((name, shapes, options.seed) for name in names)
        for name, seconds, errors[name] in pool.imap(timed, jobs):
            wrong = {k: e for k, e in errors[name].items() if not e.fine}
            verdict = f"FAILED {wrong}" if wrong else "fine"
            print(f"parity: {name:26} {seconds:5.1f} s {verdict}", flush=True)
    print(f"\n{table(errors)}\n")
    failed = [n for n, e in errors.items() if not all(x.fine for x in e.values())]
    if failed or not errors:
        print(f"parity: {len(failed)} of {len(errors)} variants are off: {failed}")
        print(f"parity: repeat with --seed={options.seed}")
        return 1
    print(f"parity: all {len(errors)} variants within tolerance")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
