"""Golden files: outputs of transformers, to be compared without it.

A file holds a variant's config.json, the names and shapes of its tensors, the inputs
and the outputs; weights are drawn again by name. Of some variants another file, in
`layers`, holds the states and attention maps of all layers.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tests.parity import draws
from tests.parity.compare import Outputs
from tests.parity.draws import Inputs

FOLDER = Path(__file__).parents[1] / "goldens"


@dataclasses.dataclass(frozen=True)
class Golden:
    """One variant.

    Attributes:
      name: "family/variant".
      seed: seed of weights and cotangents.
      versions: package -> version, of those that computed it.
      config: config.json.
      tensors: name -> shape.
      inputs, outputs: those of the reference.
    """

    name: str
    seed: int
    versions: dict[str, str]
    config: dict[str, Any]
    tensors: dict[str, list[int]]
    inputs: Inputs
    outputs: Outputs

    def save(self) -> None:
        """Writes the file."""
        outputs = self.outputs
        about = {
            "name": self.name,
            "seed": self.seed,
            "versions": self.versions,
            "config": self.config,
            "tensors": self.tensors,
            "gradients": list(outputs.gradients),
            "prompts": self.inputs.prompts,
        }
        arrays = {
            f"{prefix}.{field.name}": getattr(holder, field.name)
            for prefix, holder in (("inputs", self.inputs), ("outputs", outputs))
            for field in dataclasses.fields(holder)
            if isinstance(getattr(holder, field.name), np.ndarray)
        }
        flat = np.concatenate([g.ravel() for g in outputs.gradients.values()])
        FOLDER.mkdir(exist_ok=True)
        np.savez_compressed(
            path(self.name), about=np.array(json.dumps(about)), gradients=flat, **arrays
        )

    def write(self, folder: Path) -> None:
        """Writes the folder, in the hub's format, that the reference read."""
        (folder / "config.json").write_text(json.dumps(self.config))
        weights = {
            name: draws.weight(
                name, tuple(shape), self.seed, draws.norms_around(self.name)
            )
            for name, shape in self.tensors.items()
        }
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def layers_path(name: str) -> Path:
    """The path of the activations of a variant's layers."""
    return FOLDER / "layers" / path(name).name


def save_layers(name: str, activations: dict[str, np.ndarray]) -> None:
    """Writes the activations of all layers of a variant, for its golden file."""
    layers_path(name).parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = dict(activations)
    np.savez_compressed(layers_path(name), **arrays)


def read_layers(name: str) -> dict[str, np.ndarray]:
    """The activations of all layers of a variant."""
    with np.load(layers_path(name), allow_pickle=False) as npz:
        return dict(npz)


def path(name: str) -> Path:
    """The path of a variant's golden file."""
    return FOLDER / f"{name.replace('/', '-')}.npz"


def read(file: Path) -> Golden:
    """The golden file at `file`."""
    with np.load(file, allow_pickle=False) as npz:
        about = json.loads(str(npz["about"]))
        arrays = {name: npz[name] for name in npz.files}
    sizes = [int(np.prod(about["tensors"][n])) for n in about["gradients"]]
    parts = np.split(arrays["gradients"], np.cumsum(sizes)[:-1])
    gradients = {
        name: part.reshape(about["tensors"][name])
        for name, part in zip(about["gradients"], parts, strict=True)
    }

    def fields(prefix: str) -> dict[str, Any]:
        return {
            name.removeprefix(prefix): value
            for name, value in arrays.items()
            if name.startswith(prefix)
        }

    outputs = {"logits": None, "pooled": None} | fields("outputs.")
    inputs = fields("inputs.")
    prompts = tuple(tuple(row) for row in about["prompts"])
    return Golden(
        **{k: about[k] for k in ("name", "seed", "versions", "config", "tensors")},
        inputs=Inputs(**inputs, prompts=prompts),
        outputs=Outputs(**outputs, gradients=gradients),
    )
