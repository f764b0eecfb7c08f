"""Writes tests/goldens anew: `python -m tests.parity.make_goldens`.

Runs in the environment of launch/parity.sh. For each variant the first seed is taken
with which greedy decoding meets no near tie and every expert is chosen by some token.
"""

import itertools
import json
import platform
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

from tests.parity import draws, reference
from tests.parity.families import INSPECTED, LIVE_ONLY, variants
from tests.parity.goldens import FOLDER, Golden, path, save_layers
from tests.parity.shapes import Shapes, Variant

GAP = 2e-3  # of the largest logit, between the best and the second
VERSIONS = {
    "python": platform.python_version(),
    "numpy": np.__version__,
    "torch": torch.__version__,
    "transformers": transformers.__version__,
}


def make(variant: Variant, shapes: Shapes) -> tuple[Golden, dict[str, np.ndarray]]:
    """The variant's golden file, and the activations of its layers; unsaved."""
    for seed in itertools.count():
        inputs = draws.inputs(variant, shapes, seed)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            tensors = reference.write(variant, folder, seed)
            model = reference.load(variant, folder)
            config = json.loads((folder / "config.json").read_text())
        layers = reference.activations(variant, model, inputs)
        outputs = reference.run(variant, model, inputs, seed)
        unused = [n for n, g in outputs.gradients.items() if not g.any()]
        tie = outputs.gaps is not None and outputs.gaps.min() < GAP
        if not tie and not any(".experts." in n for n in unused):
            shapes_ = {n: list(shape) for n, shape in tensors.items()}
            golden = Golden(
                variant.name, seed, VERSIONS, config, shapes_, inputs, outputs
            )
            return golden, layers
    raise AssertionError("unreachable")


def main() -> None:
    torch.set_num_threads(1)
    for old in (*FOLDER.glob("*.npz"), *FOLDER.glob("layers/*.npz")):
        old.unlink()
    total = 0
    for variant in (v for v in variants(Shapes.draw(0)) if v.name not in LIVE_ONLY):
        golden, layers = make(variant, Shapes.draw(0))
        golden.save()
        if variant.name in INSPECTED:
            save_layers(variant.name, layers)
        total += path(golden.name).stat().st_size
        print(f"{variant.name}: seed {golden.seed}", flush=True)
    print(f"{total / 1e6:.1f} MB in {FOLDER}")


if __name__ == "__main__":
    main()
