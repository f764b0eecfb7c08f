"""Models that mark answers, and that score choices, against transformers, both ways.

Each family's ...ForQuestionAnswering and ...ForMultipleChoice is written by
transformers with random weights; read here, it must give the same scores, and what is
written here must be read there:

    python -m tests.parity.heads
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
import transformers

from llmjax import hub

TOLERANCE = 1e-5
BERT = dict(
    vocab_size=64,
    hidden_size=24,
    num_attention_heads=3,
    num_hidden_layers=2,
    intermediate_size=40,
    max_position_embeddings=40,
)
DISTILBERT = dict(
    vocab_size=64,
    dim=24,
    n_heads=3,
    n_layers=2,
    hidden_dim=40,
    max_position_embeddings=40,
)
DEBERTA = dict(
    relative_attention=True,
    pos_att_type=["p2c", "c2p"],
    position_biased_input=False,
    share_att_key=True,
    position_buckets=8,
    norm_rel_ebd="layer_norm",
)
FAMILIES: dict[str, dict[str, Any]] = {
    "Bert": BERT,
    "Roberta": BERT | dict(type_vocab_size=1, pad_token_id=1),
    "Electra": BERT | dict(embedding_size=12),
    "DistilBert": DISTILBERT,
    "Albert": BERT | dict(embedding_size=12),
    "DebertaV2": BERT | DEBERTA,
}


HEADS = {
    "ForQuestionAnswering": tuple(FAMILIES),
    "ForMultipleChoice": ("Bert", "Roberta", "Albert"),
}


def scores(model: Any, ids: np.ndarray) -> np.ndarray:
    """The scores of transformers' model, [B, T, 2] of places or [B, C] of choices."""
    with torch.no_grad():
        out = model(torch.tensor(ids))
    if "logits" in out:
        return out.logits.numpy()
    return np.stack([out.start_logits.numpy(), out.end_logits.numpy()], -1)


def difference(name: str, head: str, fields: dict[str, Any], folder: Path) -> float:
    """The largest difference of a score, there and back."""
    family = getattr(transformers, f"{name}{head}")
    torch.manual_seed(0)
    theirs = family(getattr(transformers, f"{name}Config")(**fields)).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    theirs.save_pretrained(folder / "theirs")
    choices = head == "ForMultipleChoice"
    shape = (2, 2, 12) if choices else (2, 12)
    ids = np.random.default_rng(0).integers(3, 60, shape)
    expected = scores(theirs, ids)
    model, params = hub.load(folder / "theirs")
    batch: dict[str, Any] = {"tokens": jnp.asarray(ids[:, 0] if choices else ids)}
    if choices:
        batch["choice1_tokens"] = jnp.asarray(ids[:, 1])
    if model.cfg.token_types:
        types = {k.replace("tokens", "token_types"): 0 * v for k, v in batch.items()}
        batch |= types
    ours = model.apply({"params": params}, batch)
    hub.save(model, params, folder / "ours")
    back = scores(family.from_pretrained(folder / "ours").eval(), ids)
    return max(float(np.abs(x - expected).max()) for x in (ours, back))


def main() -> int:
    failed = 0
    for name, head in [(name, kind) for kind in HEADS for name in HEADS[kind]]:
        with tempfile.TemporaryDirectory() as folder:
            error = difference(name, head, FAMILIES[name], Path(folder))
        fine = error <= TOLERANCE
        failed += not fine
        end = "" if fine else f", FAILED: more than {TOLERANCE}"
        print(f"heads: {name}{head}, largest difference {error:.1e}{end}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
