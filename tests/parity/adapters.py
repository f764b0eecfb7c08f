"""peft's adapters: what they compute, and what the default tests compare with.

A case is the base of a golden file with adapters that peft made, their values drawn by
name. `read` gives a case to the tests; with peft itself, which is in no environment of
the project (a folder that holds it and accelerate goes in front),

    pip install --no-deps --target peft-lib peft==0.21.2 accelerate==1.15.0
    PYTHONPATH=.:peft-lib python -m tests.parity.adapters [--write]

compares both ways, files that we write among them, and `--write` stores the cases.
"""

import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file, save_file

from llmjax import hub
from llmjax.peft import adapted
from tests.parity import draws, goldens

FOLDER = goldens.FOLDER / "adapters"
TOLERANCE = 1e-5
SEED = 5
ROW = slice(0, 1)  # the row without padding
FIXED = (
    "shira_indices",
    "vera_A",
    "vera_B",
    "w_norm",
)  # tensors that stay as they were
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
LORA: dict[str, Any] = {"r": 3, "lora_alpha": 6.0}
# peft_type -> configs
METHODS: dict[str, list[dict[str, Any]]] = {
    "ADALORA": [{"init_r": 4, "target_r": 2, "lora_alpha": 6, "total_step": 10}],
    "VERA": [{"r": 5}],
    "MISS": [{"r": 6}],
    "HRA": [{"r": 4}],
    "HIRA": [{"r": 3}],
    "SHIRA": [{"r": 2, "random_seed": 0}],
    "LOHA": [{"r": 2, "alpha": 3}, {"r": 4}],
    "LOKR": [{"r": 1, "alpha": 3}, {"r": 1, "decompose_both": True}, {"r": 8}],
    "DELORA": [{"r": 3}],
}
# whose blocks have to divide the features
BLOCKS: dict[str, list[dict[str, Any]]] = {
    "MISS": [
        {"r": 3, "init_weights": "bat"},
        {"r": 4, "init_weights": "mini", "mini_r": 3},
    ],
    "OFT": [
        {"oft_block_size": 3},
        {"oft_block_size": 3, "use_cayley_neumann": False, "block_share": True},
    ],
    "C3A": [{"block_size": 3}],
    "ROAD": [{"group_size": 6, "variant": f"road_{entries}"} for entries in (1, 2, 4)],
}
# name -> base, peft's config
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-lora": (
        "llama/default",
        {**LORA, "target_modules": [*ATTENTION, "gate_proj", "up_proj", "down_proj"]},
    ),
    "llama-dora": (
        "llama/default",
        {**LORA, "target_modules": ["q_proj", "v_proj"], "use_dora": True},
    ),
    "llama-ranks": (
        "llama/default",
        {
            **LORA,
            "target_modules": ["q_proj", "v_proj"],
            "rank_pattern": {"layers.1.self_attn.v_proj": 2},
            "alpha_pattern": {"q_proj": 3.0},
        },
    ),
    "bert-rslora": (
        "bert/tied",
        {**LORA, "target_modules": ["query", "output.dense"], "use_rslora": True},
    ),
    "gpt2-fused": (
        "gpt2/tied",
        {**LORA, "target_modules": ["c_attn", "mlp.c_proj"], "fan_in_fan_out": True},
    ),
    "t5-two-stacks": ("t5/1.1", {**LORA, "target_modules": ["q", "v", "wo"]}),
    "llama-ia3": (
        "llama/default",
        {
            "peft_type": "IA3",
            "target_modules": ["k_proj", "v_proj", "down_proj"],
            "feedforward_modules": ["down_proj"],
        },
    ),
    "gpt2-ia3": (
        "gpt2/tied",
        {
            "peft_type": "IA3",
            "target_modules": ["c_attn", "mlp.c_proj"],
            "feedforward_modules": ["mlp.c_proj"],
            "fan_in_fan_out": True,
        },
    ),
}
# base -> targets of all methods, and those whose features are divided
BASES = {
    "llama/default": (
        ["q_proj", "k_proj", "down_proj"],
        ["q_proj", "k_proj", "o_proj"],
    ),
    "bert/tied": (["query", "output.dense"], ["query", "value"]),
    "t5/1.1": (["q", "v", "wo"], ["q", "v", "o"]),
}


def others() -> dict[str, tuple[str, dict[str, Any]]]:
    """The cases without golden files: of each method `layers.npz` has what it does to
    one matrix."""
    found = {}
    for base, targets in BASES.items():
        for methods, chosen in zip((METHODS, BLOCKS), targets, strict=True):
            for kind, variants in methods.items():
                for fields in variants:
                    if kind == "ROAD" and base == "t5/1.1":  # of 15 outputs
                        continue
                    name = f"{base.partition('/')[0]}-{kind.lower()}"
                    while name in found:
                        name += "'"
                    case = {"peft_type": kind, "target_modules": chosen, **fields}
                    found[name] = base, case
    return found


@dataclasses.dataclass(frozen=True)
class Case:
    """Adapters of a base.

    Attributes:
      base: its golden file.
      config: adapter_config.json.
      tensors: name -> values.
      logits: of the base's first row with the adapters.
      gradients: name -> of the sum of logits times `cotangent`.
    """

    base: goldens.Golden
    config: dict[str, Any]
    tensors: dict[str, np.ndarray]
    logits: np.ndarray
    gradients: dict[str, np.ndarray]

    def write(self, folder: Path, tensors: Any = None) -> None:
        """Writes the folder that peft wrote, or one with other values."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "adapter_config.json").write_text(json.dumps(self.config))
        values = {
            k: np.ascontiguousarray(v) for k, v in (tensors or self.tensors).items()
        }
        save_file(values, folder / "adapter_model.safetensors", {"format": "pt"})


def read(name: str) -> Case:
    """A case as it was stored."""
    with np.load(FOLDER / f"{name}.npz") as file:
        about = json.loads(str(file["about"]))
        logits, flat = file["logits"], file["gradients"]
    shapes = {k: tuple(shape) for k, shape in about["tensors"].items()}
    gradients, start = {}, 0
    for key, shape in shapes.items():
        size = int(np.prod(shape))
        gradients[key] = flat[start : start + size].reshape(shape)
        start += size
    tensors = {key: drawn(key, shape) for key, shape in shapes.items()}
    base = goldens.read(goldens.path(CASES[name][0]))
    return Case(base, about["config"], tensors, logits, gradients)


def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The values of a tensor of adapters, by its name."""
    ones = ("ia3_l", "magnitude_vector", "road_alpha", "delora_lambda")
    around = 1.0 if name.endswith(ones) else 0.0
    weight = draws.weight(name, shape, SEED, 0.0)
    return (around + 0.3 * weight / max(np.abs(weight).max(), 1e-6)).astype(np.float32)


def cotangent(logits: Any) -> np.ndarray:
    return draws.cotangent(logits.shape, np.ones(logits.shape[:2], np.int32), SEED)


def batch(base: goldens.Golden) -> dict[str, Any]:
    """The row of tokens, and of the encoder's."""
    inputs = base.inputs
    encoder = inputs.encoder_tokens
    rows = {"tokens": inputs.tokens[ROW]}
    if encoder is not None:
        rows["encoder_tokens"] = encoder[ROW]
        rows["encoder_segment_ids"] = inputs.encoder_segment_ids[ROW]
    return rows


def difference(a: Any, b: Any) -> float:
    """The largest, beside the largest value of b."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.abs(a - b).max() / np.abs(b).max())


def ours(case: Case, folder: Path) -> dict[str, float]:
    """How far we are from a case: in logits, merged logits, gradients.

    The gradients of peft are read as if they were adapters, so that both are ours.
    """
    (folder / "base").mkdir()
    case.base.write(folder / "base")
    case.write(folder / "adapter")
    model, params = hub.load(folder / "base", dtype="float32")
    peft, own = hub.adapters.load(folder / "adapter", model, params)
    with_them = adapted.adapted(model, peft)
    rows = jax.tree.map(jnp.asarray, batch(case.base))
    leaves = flatten_dict(own, sep="/")
    fixed = adapted.method(peft).fixed
    flat = {k: x for k, x in leaves.items() if k.rpartition("/")[2] not in fixed}

    def logits(own: Any) -> jax.Array:
        whole = {**flatten_dict(params, sep="/"), **leaves, **own}
        return with_them.apply({"params": unflatten_dict(whole, sep="/")}, rows)[0]

    weights = cotangent(case.logits)
    mine, gradient = jax.jit(
        lambda own: (logits(own), jax.grad(lambda o: jnp.sum(logits(o) * weights))(own))
    )(flat)
    merged = hub.adapters.merged(folder / "adapter", model, params)
    errors = {
        "logits": difference(mine, case.logits),
        "merged": difference(model.apply({"params": merged}, rows)[0], case.logits),
    }
    case.write(folder / "gradient", case.gradients)
    # a gradient of a length has no length of the base in it
    lengths = bool(case.config.get("use_dora"))
    nothing = jax.tree.map(jnp.zeros_like, params) if lengths else params
    _, tree = hub.adapters.load(folder / "gradient", model, nothing)
    theirs = flatten_dict(tree, sep="/")
    largest = max(np.abs(theirs[k]).max() for k in flat)
    if case.config.get("rank_pattern"):  # ranks and scales are evened out here
        return errors
    if case.config["peft_type"] == "C3A":  # peft's gradient of its input is none
        return errors
    compared = [k for k in flat if not shared(case, k)]
    errors["gradients"] = max(
        float(np.abs(np.asarray(gradient[k]) - theirs[k]).max() / largest)
        for k in compared
    )
    return errors


def shared(case: Case, name: str) -> bool:
    """Whether a leaf is one of several of ours that peft has as one: A of a fused
    matrix, whose gradient is the sum of theirs."""
    fused = "c_attn" in str(case.config["target_modules"])
    return fused and "attention/" in name and name.endswith("/a")


# --- with peft -----------------------------------------------------------------------


def theirs(name: str, folder: Path) -> Case:
    """The case as peft computes it."""
    import peft
    import torch

    from tests.parity import reference
    from tests.parity.families import variants
    from tests.parity.shapes import Shapes

    variant, fields = (CASES | others())[name]
    base = goldens.read(goldens.path(variant))
    base.write(folder)
    known = {v.name: v for v in variants(Shapes.draw(0))}
    model = reference.load(known[variant], folder)
    kwargs = {k: v for k, v in fields.items() if k != "peft_type"}
    config = peft.PEFT_TYPE_TO_CONFIG_MAPPING[fields.get("peft_type", "LORA")](**kwargs)
    model = peft.get_peft_model(model, config).eval()
    model.save_pretrained(folder / "fresh")
    fresh = load_file(folder / "fresh" / "adapter_model.safetensors")
    tensors = {
        key: value if key.endswith(FIXED) else drawn(key, value.shape)
        for key, value in fresh.items()
    }
    values = {k: torch.from_numpy(v) for k, v in tensors.items()}
    peft.set_peft_model_state_dict(model, values)
    logits = their_logits(model, base)
    (logits * torch.from_numpy(cotangent(logits.detach().numpy()))).sum().backward()
    for leaf in model.parameters():
        if leaf.requires_grad:
            leaf.data = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
    model.save_pretrained(folder / "gradient")
    written = json.loads((folder / "fresh" / "adapter_config.json").read_text())
    written["base_model_name_or_path"] = variant
    gradients = load_file(folder / "gradient" / "adapter_model.safetensors")
    return Case(base, written, tensors, logits.detach().numpy(), gradients)


def their_logits(model: Any, base: goldens.Golden) -> Any:
    import torch

    rows = {k: torch.from_numpy(np.array(v)).long() for k, v in batch(base).items()}
    if "encoder_tokens" not in rows:
        return model(input_ids=rows["tokens"]).logits
    return model(
        input_ids=rows["encoder_tokens"],
        attention_mask=rows["encoder_segment_ids"],
        decoder_input_ids=rows["tokens"],
    ).logits


def reread(case: Case, folder: Path) -> float:
    """What peft computes with the folder that we write, beside the case."""
    import peft
    import transformers

    base = folder / "base"
    model, params = hub.load(base, dtype="float32")
    method, own = hub.adapters.load(folder / "adapter", model, params)
    whole = {**flatten_dict(params, sep="/"), **flatten_dict(own, sep="/")}
    hub.adapters.save(model, unflatten_dict(whole, sep="/"), method, folder / "ours")
    architecture = case.base.config["architectures"][0]
    read = getattr(transformers, architecture).from_pretrained(base)
    again = peft.PeftModel.from_pretrained(read, folder / "ours").eval()
    return difference(their_logits(again, case.base).detach(), case.logits)


def save(name: str, case: Case) -> None:
    """Stores a case."""
    import peft

    about = {
        "config": case.config,
        "tensors": {k: list(v.shape) for k, v in case.tensors.items()},
        "peft": peft.__version__,
    }
    FOLDER.mkdir(exist_ok=True)
    gradients = np.concatenate([case.gradients[k].ravel() for k in case.tensors])
    np.savez_compressed(
        FOLDER / f"{name}.npz",
        about=np.array(json.dumps(about)),
        logits=case.logits,
        gradients=gradients,
    )


def main() -> int:
    failed = 0
    chosen = [name for name in sys.argv[1:] if not name.startswith("--")]
    for name in chosen or CASES | others():
        with tempfile.TemporaryDirectory() as place:
            case = theirs(name, Path(place))
            if "--write" in sys.argv and name in CASES:
                save(name, case)
        with tempfile.TemporaryDirectory() as place:
            errors = ours(case, Path(place))
            errors["reread"] = reread(case, Path(place))
        words = ", ".join(f"{k} {v:.1e}" for k, v in errors.items())
        fine = max(errors.values()) <= TOLERANCE
        failed += not fine
        print(f"{name:14} {words}{'' if fine else ', FAILED'}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
