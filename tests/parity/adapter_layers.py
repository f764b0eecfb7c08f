"""One matrix with each of peft's methods: what it gives and its gradients.

`read` gives the cases to the tests. With peft itself, as `tests.parity.adapters` says,

    PYTHONPATH=.:peft-lib python -m tests.parity.adapter_layers

computes them and writes the golden file; AdaLoRA's ranks are there too, after each step
of a small run.
"""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.parity import draws
from tests.parity.adapters import BLOCKS, FIXED, FOLDER, METHODS, drawn

FILE = FOLDER / "layers.npz"
INPUTS, OUTPUTS = 12, 18
STEPS = 12  # of AdaLoRA's run
ALLOCATION: dict[str, Any] = {
    "init_r": 4,
    "target_r": 2,
    "tinit": 2,
    "tfinal": 3,
    "deltaT": 2,
    "total_step": STEPS,
    "lora_alpha": 6,
}
RATE = 0.3  # of its gradient descent
WIDTHS = ((INPUTS, OUTPUTS), (OUTPUTS, INPUTS), (INPUTS, INPUTS))  # of its matrices


@dataclasses.dataclass(frozen=True)
class Layer:
    """A matrix with adapters.

    Attributes:
      config: adapter_config.json.
      tensors: the adapters', by name.
      x, kernel, bias: of the matrix: [rows, I], [I, O], [O].
      y: the result.
      gradients: of the sum of y times `cotangent`, as `tensors`.
    """

    config: dict[str, Any]
    tensors: dict[str, np.ndarray]
    x: np.ndarray
    kernel: np.ndarray
    bias: np.ndarray
    y: np.ndarray
    gradients: dict[str, np.ndarray]


def variants() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each case's name and peft's config."""
    for kind, configs in [*METHODS.items(), *BLOCKS.items()]:
        for k, fields in enumerate(configs):
            more = {"random_seed": 0} if kind == "SHIRA" else {}
            yield (
                f"{kind.lower()}-{k}-{fields.get('init_weights', '')}".rstrip("-"),
                {"peft_type": kind, "target_modules": ["proj"], **fields, **more},
            )


def weight(name: str, *shape: int) -> np.ndarray:
    values = draws.weight(name, shape, 3, 0.0)
    return (values / np.abs(values).max()).astype(np.float32)


def cotangent() -> np.ndarray:
    return weight("cotangent", 4, OUTPUTS)


def read() -> dict[str, Layer]:
    """The cases as they were stored."""
    with np.load(FILE) as file:
        about = json.loads(str(file["about"]))
        arrays = {k: file[k] for k in file.files if k != "about"}
    x, kernel = weight("x", 4, INPUTS), weight("kernel", INPUTS, OUTPUTS)
    bias = weight("bias", 1, OUTPUTS)[0]
    layers = {}
    for name, case in about["layers"].items():
        tensors = {
            key: arrays.get(f"{name}/{key}", drawn(key, tuple(shape)))
            for key, shape in case["tensors"].items()
        }
        flat = iter(np.split(arrays[f"{name}/gradients"], case["ends"]))
        gradients = {
            key: tensors[key]
            if key.endswith(FIXED)
            else next(flat).reshape(tensors[key].shape)
            for key in tensors
        }
        y = arrays[f"{name}/y"]
        layers[name] = Layer(case["config"], tensors, x, kernel, bias, y, gradients)
    return layers


def ranks() -> list[list[list[bool]]]:
    """After each step, of each matrix, which entries of E are not 0."""
    with np.load(FILE) as file:
        return json.loads(str(file["about"]))["ranks"]


def allocation_inputs() -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """The matrices of AdaLoRA's run as torch has them [O, I], x, and the target."""
    kernels = [weight(f"kernel {k}", o, i) for k, (i, o) in enumerate(WIDTHS)]
    return (
        kernels,
        [weight(f"x {step}", 6, INPUTS) for step in range(STEPS)],
        weight("target", 6, INPUTS),
    )


# --- with peft -----------------------------------------------------------------------


def theirs(fields: dict[str, Any]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A case's part of `about`, and its arrays."""
    import peft
    import torch

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.proj = torch.nn.Linear(INPUTS, OUTPUTS)

        def forward(self, x: Any) -> Any:
            return self.proj(x)

    base = Model()
    base.proj.weight.data = torch.from_numpy(weight("kernel", INPUTS, OUTPUTS).T.copy())
    base.proj.bias.data = torch.from_numpy(weight("bias", 1, OUTPUTS)[0])
    kwargs = {k: v for k, v in fields.items() if k != "peft_type"}
    config = peft.PEFT_TYPE_TO_CONFIG_MAPPING[fields["peft_type"]](**kwargs)
    model = peft.get_peft_model(base, config).eval()
    fresh = {k: v.numpy() for k, v in peft.get_peft_model_state_dict(model).items()}
    tensors = {
        k: v if k.endswith(FIXED) else drawn(k, v.shape) for k, v in fresh.items()
    }
    values = {k: torch.from_numpy(v) for k, v in tensors.items()}
    peft.set_peft_model_state_dict(model, values)
    y = model(torch.from_numpy(weight("x", 4, INPUTS)))
    (y * torch.from_numpy(cotangent())).sum().backward()
    for leaf in model.parameters():
        if leaf.requires_grad:
            leaf.data = leaf.grad
    slopes = peft.get_peft_model_state_dict(model)
    flat = [slopes[k].numpy().ravel() for k in tensors if not k.endswith(FIXED)]
    arrays = {k: v for k, v in tensors.items() if k.endswith(FIXED)}
    arrays |= {"y": y.detach().numpy(), "gradients": np.concatenate(flat)}
    written = {k: v for k, v in config.to_dict().items() if not isinstance(v, set)}
    about = {
        "config": json.loads(json.dumps(written, default=str)),
        "tensors": {k: list(v.shape) for k, v in tensors.items()},
        "ends": np.cumsum([len(part) for part in flat])[:-1].tolist(),
    }
    return about, arrays


def their_ranks() -> list[list[list[bool]]]:
    """The entries that AdaLoRA has left after each step of gradient descent."""
    import peft
    import torch

    kernels, xs, target = allocation_inputs()

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for k, kernel in enumerate(kernels):
                layer = torch.nn.Linear(*kernel.shape[::-1], bias=False)
                layer.weight.data = torch.from_numpy(kernel)
                setattr(self, f"proj{k}", layer)

        def forward(self, x: Any) -> Any:
            for k in range(len(kernels)):
                x = torch.tanh(getattr(self, f"proj{k}")(x))
            return type("Out", (), {"loss": ((x - self.target) ** 2).sum()})()

    base = Model()
    base.target = torch.from_numpy(target)
    names = [f"proj{k}" for k in range(len(kernels))]
    config = peft.AdaLoraConfig(target_modules=names, **ALLOCATION)
    model = peft.get_peft_model(base, config)
    for name, leaf in model.named_parameters():
        if leaf.requires_grad and "lora_E" not in name:
            key = name.replace(".default", "")
            leaf.data = torch.from_numpy(drawn(key, tuple(leaf.shape)))
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], lr=RATE
    )
    found = []
    for step in range(STEPS):
        optimizer.zero_grad()
        out = model.base_model(torch.from_numpy(xs[step]))
        out.loss.backward()
        optimizer.step()
        model.base_model.update_and_allocate(step + 1)
        left = [
            (leaf.detach().numpy() != 0).ravel().tolist()
            for name, leaf in model.named_parameters()
            if "lora_E" in name
        ]
        found.append(left)
    return found


def main() -> None:
    import peft

    layers, arrays = {}, {}
    for name, fields in variants():
        layers[name], own = theirs(fields)
        arrays |= {f"{name}/{k}": v for k, v in own.items()}
    about = {"layers": layers, "ranks": their_ranks(), "peft": peft.__version__}
    np.savez_compressed(FILE, about=np.array(json.dumps(about)), **arrays)
    print(f"{FILE}: {len(layers)} cases, {FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
