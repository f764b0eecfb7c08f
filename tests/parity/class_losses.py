"""Losses over classes, value and gradient, against torch's in float64.

Class weights and smoothing as `CrossEntropyLoss`, the weight of a class's presence as
`BCEWithLogitsLoss`, and the focal factor as torchvision's `sigmoid_focal_loss` and, of
one class of several, as the paper's formula in torch:

    python -m tests.parity.class_losses

`--write` writes the golden file of the default tests.
"""

import argparse
import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F

from llmjax.tasks.labelled.problems import losses
from tests.parity.goldens import FOLDER

GOLDEN = FOLDER / "class_losses.json"
TOLERANCE = 1e-5
WEIGHTS = (0.5, 1.0, 2.5, 0.25)
CASES: dict[str, dict[str, Any]] = {
    "weights": {"weights": WEIGHTS},
    "weights_smoothed": {"weights": WEIGHTS, "smoothing": 0.2},
    "focal": {"gamma": 2.0},
    "focal_weights": {"gamma": 0.5, "weights": WEIGHTS},
}


def inputs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits of texts, the number of a class of each, and a set of classes of each."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 4)) * 3
    return logits, rng.integers(0, 4, 6), rng.integers(0, 2, (6, 4))


def single(logits: torch.Tensor, label: torch.Tensor, options: Any) -> torch.Tensor:
    """The weighted mean loss of one class of several."""
    weights = torch.tensor(options.get("weights", (1.0,) * 4), dtype=torch.float64)
    gamma = options.get("gamma", 0.0)
    if not gamma:
        smoothing = options.get("smoothing", 0.0)
        return F.cross_entropy(logits, label, weights, label_smoothing=smoothing)
    log_p = F.log_softmax(logits, -1).gather(1, label[:, None])[:, 0]
    own = weights[label]
    return (own * (1 - log_p.exp()) ** gamma * -log_p).sum() / own.sum()


def several(logits: torch.Tensor, target: torch.Tensor, options: Any) -> torch.Tensor:
    """The mean loss of any number of classes."""
    weights = torch.tensor(options.get("weights", (1.0,) * 4), dtype=torch.float64)
    smoothing, gamma = options.get("smoothing", 0.0), options.get("gamma", 0.0)
    soft = target * (1 - smoothing) + smoothing / 2
    if not gamma:
        return F.binary_cross_entropy_with_logits(logits, soft, pos_weight=weights)
    # torchvision.ops.sigmoid_focal_loss without alpha
    p = torch.sigmoid(logits)
    ce = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    p_t = p * target + (1 - p) * (1 - target)
    return (ce * (1 - p_t) ** gamma * torch.where(target > 0, weights, 1.0)).mean()


def theirs() -> dict[str, Any]:
    """Value and gradient of every case, by torch."""
    logits, label, target = inputs()
    out = {}
    for name, options in CASES.items():
        for kind, loss, goal in (
            ("single", single, torch.tensor(label)),
            ("several", several, torch.tensor(target, dtype=torch.float64)),
        ):
            x = torch.tensor(logits, requires_grad=True)
            value = loss(x, goal, options)
            value.backward()
            assert x.grad is not None
            out[f"{kind}/{name}"] = [value.item(), x.grad.tolist()]
    return out


def ours() -> dict[str, Any]:
    """The same by our own losses."""
    logits, label, target = inputs()

    def one(x, options):
        total, weight = losses.single_label(x, jnp.asarray(label), **options)
        return total.sum() / weight.sum()

    def many(x, options):
        return losses.multi_label(x, jnp.asarray(target, jnp.float32), **options).mean()

    out = {}
    for name, options in CASES.items():
        for kind, loss in (("single", one), ("several", many)):
            x = jnp.asarray(logits, jnp.float32)
            value, slope = jax.value_and_grad(loss)(x, options)
            out[f"{kind}/{name}"] = [float(value), np.asarray(slope).tolist()]
    return out


def difference(a: dict[str, Any], b: dict[str, Any]) -> float:
    """The largest difference of a value or a slope."""
    assert a.keys() == b.keys()
    return max(
        float(np.abs(np.asarray(x) - np.asarray(y)).max())
        for name in a
        for x, y in zip(a[name], b[name], strict=True)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="the golden file, anew")
    if parser.parse_args().write:
        names = ("logits", "label", "target")
        texts = {k: v.tolist() for k, v in zip(names, inputs(), strict=True)}
        about = {"torch": torch.__version__, "options": CASES}
        golden = about | texts | {"cases": theirs()}
        GOLDEN.write_text(json.dumps(golden) + "\n")
        return 0
    error = difference(ours(), theirs())
    fine = error <= TOLERANCE
    print(f"class losses: largest difference {error:.1e}", end="")
    print("" if fine else f", FAILED: more than {TOLERANCE}")
    return int(not fine)


if __name__ == "__main__":
    sys.exit(main())
