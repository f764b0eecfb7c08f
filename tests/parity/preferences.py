"""Losses of preferences and their gradients, against those of TRL's own code.

TRL is of no environment here; its files and accelerate's suffice, as of what else it
imports nothing is used:

    pip install --no-deps --target FOLDER trl==1.16.0 accelerate
    python -m tests.parity.preferences --trl=FOLDER [--write]

`--write` renews tests/tasks/preferences.json, which the default tests are held to.
"""

import argparse
import importlib
import importlib.machinery
import json
import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch

from llmjax.config import KTO, ORPO, RLOO, SimPO
from tests.tasks import preference_rows as toy

GOLDEN = Path(__file__).parents[1] / "tasks" / "preferences.json"
TOLERANCE = 1e-5
PAD, BOS, EOS = 0, 1, 2
_UNUSED = ("datasets", "datasets.fingerprint", "datasets.utils", "pandas")


class _Stub(mock.MagicMock):
    """A package that is imported and not used."""

    __path__: tuple[str, ...] = ()


def trainer(name: str) -> Any:
    """A module of TRL's."""
    return importlib.import_module(f"trl.{name}")


class Toy(torch.nn.Module):
    """`preference_rows.Toy`, with what TRL asks of a model with a fused head."""

    is_gradient_checkpointing = False

    def __init__(self, weights: dict[str, np.ndarray]):
        super().__init__()
        for name, value in weights.items():
            setattr(self, name, torch.nn.Parameter(torch.from_numpy(value.copy())))

    def forward(self, input_ids: torch.Tensor, **options: Any) -> Any:
        x = self.embedding[input_ids]
        before = torch.nn.functional.pad(x, (0, 0, 1, 0))[:, :-1]
        logits = (x + 0.5 * before) @ self.table.T
        if "labels" not in options:
            return SimpleNamespace(logits=logits)
        labels = options["labels"][:, 1:]
        log_p = torch.log_softmax(logits[:, :-1], -1)
        chosen = log_p.gather(2, labels.clamp(min=0)[..., None])[..., 0]
        rest = torch.zeros(labels.shape)
        return SimpleNamespace(
            log_probs=chosen * (labels != -100),
            entropy=rest,
            mean_logits=rest,
            is_top1=rest > 0,
        )


class _Alone:
    """Accelerate's, of one process."""

    device = torch.device("cpu")
    num_processes = 1

    def reduce(self, x: Any, reduction: str) -> Any:
        return x

    def gather_for_metrics(self, x: Any) -> Any:
        return x

    gather = gather_for_metrics


def _self(cls: Any, model: Any, reference: Any, **fields: Any) -> Any:
    """A trainer without all that trains."""
    self = object.__new__(cls)
    common = {
        "model": model,
        "ref_model": reference,
        "accelerator": _Alone(),
        "_metrics": defaultdict(lambda: defaultdict(list)),
        "_total_train_tokens": 0,
        "_tp_size": 1,
        "precompute_ref_logps": False,
        "aux_loss_enabled": False,
        "args": SimpleNamespace(gradient_checkpointing_kwargs=None),
        "ld_alpha": None,
        "f_divergence_type": "reverse_kl",
        "use_weighting": False,
        "label_smoothing": 0.0,
        "is_encoder_decoder": False,
        "padding_value": PAD,
        "pad_token_id": PAD,
    }
    self.__dict__.update(common | fields)
    return self


def _dpo(loss: Any, model: Any, reference: Any) -> Any:
    """The losses with log ratios."""
    module = trainer("trainer.dpo_trainer")
    kinds = {"dpo": "sigmoid", "robust_dpo": "robust"}
    self = _self(
        module.DPOTrainer,
        model,
        reference,
        beta=loss.beta,
        loss_types=[kinds.get(loss.kind, loss.kind)],
        loss_weights=[1.0],
        label_smoothing=getattr(loss, "flipped", 0.0),
    )
    collate = module.DataCollatorForPreference(PAD, max_length=toy.T + 1)
    rows = [
        {
            "prompt_ids": [BOS, *prompt],
            "chosen_ids": [*chosen, EOS],
            "rejected_ids": [*rejected, EOS],
        }
        for prompt, chosen, rejected in toy.PAIRS
    ]
    value = self._compute_loss(model, collate(rows), False)
    return value, self._metrics["train"]


def _kto(loss: Any, model: Any, reference: Any) -> Any:
    module = trainer("trainer.kto_trainer")
    self = _self(
        module.KTOTrainer,
        model,
        reference,
        beta=loss.beta,
        loss_type="kto",
        calculate_KL=True,
        desirable_weight=loss.desirable,
        undesirable_weight=loss.undesirable,
    )
    collate = module.DataCollatorForUnpairedPreference(PAD, max_length=toy.T + 1)
    answers = [[*chosen, EOS] for _, chosen, _ in toy.PAIRS]
    rows = [
        {
            "prompt_ids": [BOS, *prompt],
            "completion_ids": answers[k],
            "KL_completion_ids": answers[k - 1],
            "label": bool(toy.LABELS[k]),
        }
        for k, (prompt, _, _) in enumerate(toy.PAIRS)
    ]
    value = self._compute_loss(model, collate(rows), False)
    return value, self._metrics["train"]


def _without_reference(loss: Any, model: Any) -> Any:
    """ORPO and SimPO: the mean over batches of a pair, as TRL's likelihood of a batch
    is that of its tokens and ours that of its rows."""
    if isinstance(loss, ORPO):
        cls = trainer("experimental.orpo.orpo_trainer").ORPOTrainer
        self = _self(cls, model, None, beta=loss.beta)
    else:
        cls = trainer("experimental.cpo.cpo_trainer").CPOTrainer
        settings = {"alpha": 0.0, "cpo_alpha": 0.0, "loss_type": "simpo"}
        settings |= {"beta": loss.beta, "simpo_gamma": loss.gamma}
        self = _self(cls, model, None, **settings)
    total, metrics = torch.zeros(()), defaultdict(list)
    for prompt, chosen, rejected in toy.PAIRS:
        batch = {}
        for name, answer in (("chosen", chosen), ("rejected", rejected)):
            ids = [BOS, *prompt, *answer, EOS][: toy.T + 1]
            labels = [-100] * (1 + len(prompt)) + ids[1 + len(prompt) :]
            batch[f"{name}_input_ids"] = torch.tensor([ids])
            batch[f"{name}_labels"] = torch.tensor([labels])
            batch[f"{name}_attention_mask"] = torch.ones(1, len(ids), dtype=int)
        one, more = self.get_batch_loss_metrics(model, batch)
        total = total + one / len(toy.PAIRS)
        for key, value in more.items():
            metrics[key].append(value)
    return total, {key: [np.mean(values)] for key, values in metrics.items()}


_METRICS = {  # TRL's -> ours
    "rewards/chosen": "chosen_reward",
    "rewards/rejected": "rejected_reward",
    "rewards/accuracies": "accuracy",
    "rewards/margins": "margin",
    "kl": "kl",
    "nll_loss": "likelihood_loss",
    "log_odds_chosen": "log_odds",
}


def theirs(name: str) -> dict[str, Any]:
    """TRL's value of a loss, its gradient, and the metrics that we have too."""
    loss = toy.LOSSES[name]
    own, first = toy.policy_and_reference(name)
    model, reference = Toy(own), Toy(first)
    if isinstance(loss, KTO):
        value, metrics = _kto(loss, model, reference)
        metrics = {k: v for k, v in metrics.items() if k != "rewards/margins"}
    elif isinstance(loss, ORPO | SimPO):
        value, metrics = _without_reference(loss, model)
    else:
        value, metrics = _dpo(loss, model, reference)
    value.backward()
    names = {k: v for k, v in _METRICS.items() if k in metrics}
    if not isinstance(loss, ORPO):
        names = {k: v for k, v in names.items() if v not in ("likelihood_loss",)}
    return {
        "loss": value.item(),
        "metrics": {ours: float(metrics[k][0]) for k, ours in names.items()},
        "gradient": {k: getattr(model, k).grad.tolist() for k in own},
    }


def policy(name: str) -> dict[str, Any]:
    """TRL's loss of answers with advantages, the first update after they were drawn."""
    loss = toy.POLICIES[name]
    own, first = toy.policy_and_reference(name)
    model, reference = Toy(own), Toy(first)
    ids = [[BOS, *p, *chosen, EOS][: toy.T + 1] for p, chosen, _ in toy.PAIRS]
    starts = [1 + len(p) for p, _, _ in toy.PAIRS]
    longest = max(len(row) - start for row, start in zip(ids, starts, strict=True))

    def likelihoods(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
        found, mask = torch.zeros(len(ids), longest), torch.zeros(len(ids), longest)
        for k, (row, start) in enumerate(zip(ids, starts, strict=True)):
            text = torch.tensor([row])
            labels = text.masked_fill(torch.arange(len(row)) < start, -100)
            rest = model(text, labels=labels).log_probs[0, start - 1 :]
            found[k, : len(rest)] = rest
            mask[k, : len(rest)] = 1
        return found, mask

    kind = "RLOO" if isinstance(loss, RLOO) else "GRPO"
    cls = getattr(trainer(f"trainer.{kind.lower()}_trainer"), f"{kind}Trainer")
    found, mask = likelihoods(model)
    args = {"use_bias_correction_kl": False, "delta": None, "steps_per_generation": 1}
    self = _self(
        cls,
        model,
        None,
        args=SimpleNamespace(**args),
        beta=getattr(loss, "beta", 0.0),
        loss_type=loss.kind,
        epsilon_low=0.2,
        epsilon_high=0.28,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        use_vllm=False,
        max_completion_length=toy.LONGEST,
        current_gradient_accumulation_steps=1,
        _entropy_bonus_enabled=False,
        _get_per_token_logps_and_entropies=lambda *_, **__: (
            found,
            torch.zeros_like(found),
            None,
        ),
    )
    empty = torch.zeros(len(ids), 0, dtype=int)
    inputs = {
        "prompt_ids": empty,
        "prompt_mask": empty,
        "completion_ids": mask.long(),
        "completion_mask": mask,
        "advantages": torch.tensor(toy.ADVANTAGES),
        "ref_per_token_logps": likelihoods(reference)[0].detach(),
        "old_logps": (found * mask).sum(1).detach(),
        "num_items_in_batch": mask.sum(),
    }
    value = self._compute_loss(model, inputs)
    value.backward()
    kl = self._metrics["train"].get("kl")
    return {
        "loss": value.item(),
        "metrics": {"kl": kl[0]} if kl else {},
        "gradient": {k: getattr(model, k).grad.tolist() for k in own},
    }


def reward() -> dict[str, Any]:
    """TRL's loss of a reward model, with margins and centring, and its gradient."""
    module = trainer("trainer.reward_trainer")
    scores, margins, centering = toy.rewards()
    logits = torch.nn.Parameter(torch.from_numpy(scores.T.reshape(-1, 1).copy()))

    class Scores(torch.nn.Module):
        def forward(self, **_: Any) -> Any:
            return SimpleNamespace(logits=logits)

    args = SimpleNamespace(center_rewards_coefficient=centering)
    self = _self(module.RewardTrainer, Scores(), None, args=args)
    batch = {"attention_mask": torch.ones(1), "margin": torch.from_numpy(margins)}
    value = self.compute_loss(Scores(), batch)
    value.backward()
    return {
        "loss": value.item(),
        "metrics": {
            "accuracy": self._metrics["train"]["accuracy"][0],
            "margin": self._metrics["train"]["margin"][0],
        },
        "gradient": logits.grad[:, 0].reshape(2, -1).T.tolist(),
    }


def difference(mine: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest difference of loss, metrics and gradient."""
    worst = abs(mine["loss"] - other["loss"])
    for key, value in other["metrics"].items():
        worst = max(worst, abs(mine["metrics"][key] - value))
    pairs = zip(_leaves(mine["gradient"]), _leaves(other["gradient"]), strict=True)
    for a, b in pairs:
        worst = max(worst, float(np.abs(np.asarray(a) - np.asarray(b)).max()))
    return worst


def _leaves(tree: Any) -> list[Any]:
    return [tree[k] for k in sorted(tree)] if isinstance(tree, dict) else [tree]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trl", required=True)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    sys.path.append(arguments.trl)
    for name in _UNUSED:
        module = _Stub(name=name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        sys.modules[name] = module
    found, worst = {}, 0.0
    for name in toy.LOSSES:
        found[name] = theirs(name)
        loss, gradient, metrics = toy.ours(name)
        mine = {"loss": loss, "gradient": gradient, "metrics": metrics}
        apart = difference(mine, found[name])
        print(f"{name:12} loss {loss:9.5f}  largest difference {apart:.1e}")
        worst = max(worst, apart)
    found["reward"] = reward()
    apart = difference(toy.our_reward(), found["reward"])
    print(f"{'reward':12} loss {found['reward']['loss']:9.5f}  largest {apart:.1e}")
    worst = max(worst, apart)
    for name in toy.POLICIES:
        found[name] = policy(name)
        apart = difference(toy.our_policy(name), found[name])
        print(f"{name:12} loss {found[name]['loss']:9.5f}  largest {apart:.1e}")
        worst = max(worst, apart)
    if arguments.write:
        lines = (f"{json.dumps(k)}: {json.dumps(v)}" for k, v in found.items())
        GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    if not worst < TOLERANCE:
        sys.exit(f"FAILED: {worst:.1e} is above {TOLERANCE:.0e}")


if __name__ == "__main__":
    main()
