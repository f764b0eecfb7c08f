"""Fine-tuning beside the trainers that people use: the same losses, and the speed.

    bash launch/parity.sh tasks    # once: makes .venv-parity and its libraries
    PYTHONPATH=.:.venv-parity/libraries .venv-parity/bin/python \
        tests/proofs/beside_transformers.py [--quick] [--speed]

Twenty steps of `transformers.Trainer` (a classifier, a tagger, answers), of TRL's
`DPOTrainer` and of sentence-transformers' trainer on tiny random models without
dropout; then twenty of ours from the same folder, on the batches that they drew, by the
same AdamW. Each loss is within 1e-4. `--quick`: five steps. `--speed`: real tokens a
second of MiniLM on sentences about films, in turns: Trainer's with batches of about one
length, ours padded, and ours packed; the sentences and MiniLM are fetched with consent
(LLMJAX_DOWNLOAD=yes). Exits with 1 where a loss is off.
"""

import argparse
import dataclasses
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ |= {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}

import numpy as np

try:
    import sentence_transformers
    import torch
    import transformers
    import trl
    from datasets import Dataset
    from sentence_transformers.sentence_transformer.modules import (
        Normalize,
        Pooling,
        Transformer,
    )

    from tests.parity import pipelines
except ImportError as e:
    sys.exit(f"{e}; run `bash launch/parity.sh tasks`, see the top of this file")

from llmjax.config import (
    DPO,
    AdamW,
    Checkpoint,
    DataConfig,
    Linear,
    OptimizerConfig,
    Preference,
    QuestionAnswering,
    Ranking,
    RunConfig,
    SequenceClassification,
    TextEmbedding,
    TokenClassification,
    TrainConfig,
)
from llmjax.data.tokenizers.vocabulary import PlainVocabulary
from llmjax.parallel import mesh as mesh_lib
from llmjax.tasks.registry import make_task
from llmjax.train import initial, loop, setup

TOLERANCE = 1e-4
ROWS, LENGTH, VOCABULARY, RATE = 8, 24, 60, 1e-3
LABELS, TAGS = ("a", "b", "c"), ("O", "B-A", "I-A")
Inputs = dict[str, np.ndarray]  # of a batch, as a trainer's model was given it
Batch = dict[str, np.ndarray]
BERT: dict[str, Any] = dict(
    vocab_size=VOCABULARY,
    hidden_size=24,
    num_attention_heads=3,
    num_hidden_layers=2,
    intermediate_size=40,
    max_position_embeddings=40,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    initializer_range=0.2,
)


@dataclasses.dataclass(frozen=True)
class Case:
    """A kind of fine-tuning.

    Attributes:
      task: our config of it.
      train: (folder, steps) -> the losses and the batches of the reference's trainer,
        which begins with what it writes into the folder.
      batch: one of its batches -> ours.
    """

    task: Any
    train: Callable[[Path, int], tuple[list[float], list[Inputs]]]
    batch: Callable[[Inputs], Batch]


# --- the trainers --------------------------------------------------------------------


def recording(cls: Any) -> Any:
    """A trainer's class that keeps the losses, and what they are of."""

    class Recording(cls):
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any):
            self.batches = [*getattr(self, "batches", []), numpy_of(inputs)]
            out = super().compute_loss(model, inputs, *args, **kwargs)
            loss = out[0] if isinstance(out, tuple) else out
            self.losses = [*getattr(self, "losses", []), float(loss.detach())]
            return out

    return Recording


def numpy_of(tree: Any) -> Any:
    return {k: v.numpy().copy() for k, v in tree.items() if torch.is_tensor(v)}


def arguments(folder: Path, steps: int) -> dict[str, Any]:
    """Of any of the trainers: AdamW that decays, linearly to 0, norms clipped at 1."""
    return {
        "output_dir": str(folder / "trainer"),
        "max_steps": steps,
        "per_device_train_batch_size": ROWS,
        "learning_rate": RATE,
        "weight_decay": 0.01,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
    }


def padded(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Rows as one batch, as long as the longest; labels of padding are -100."""
    longest = max(len(row["input_ids"]) for row in rows)
    out = {}
    for name, value in rows[0].items():
        if np.ndim(value) == 0:
            out[name] = torch.tensor([row[name] for row in rows])
            continue
        fill = -100 if name == "labels" else 0
        filled = [[*r[name], *[fill] * (longest - len(r[name]))] for r in rows]
        out[name] = torch.tensor(filled)
    return out


def trained(model: Any, rows: list[dict[str, Any]], folder: Path, steps: int) -> Any:
    """Losses and batches of `transformers.Trainer`."""
    model.save_pretrained(folder)
    trainer = recording(transformers.Trainer)(
        model,
        transformers.TrainingArguments(**arguments(folder, steps)),
        data_collator=padded,
        train_dataset=rows,
    )
    trainer.train()
    return trainer.losses, trainer.batches


def texts(equal: bool = False) -> list[dict[str, Any]]:
    """Random texts of several lengths, or of one."""
    rng = np.random.default_rng(0)
    lengths = [LENGTH if equal else int(rng.integers(4, LENGTH)) for _ in range(64)]
    ids = [rng.integers(3, VOCABULARY, n).tolist() for n in lengths]
    return [{"input_ids": i, "attention_mask": [1] * len(i)} for i in ids]


def classifier(folder: Path, steps: int) -> Any:
    rows = [row | {"labels": k % 3} for k, row in enumerate(texts())]
    config = transformers.BertConfig(**BERT, id2label=dict(enumerate(LABELS)))
    model = transformers.BertForSequenceClassification(config)
    return trained(model, rows, folder, steps)


def tagger(folder: Path, steps: int) -> Any:
    rows = texts()
    for row in rows:  # every second token goes on with a word
        ids = row["input_ids"]
        row["labels"] = [i % 3 if k % 2 == 0 else -100 for k, i in enumerate(ids)]
    config = transformers.BertConfig(**BERT, id2label=dict(enumerate(TAGS)))
    model = transformers.BertForTokenClassification(config)
    return trained(model, rows, folder, steps)


def answers(folder: Path, steps: int) -> Any:
    """Of texts of one length: transformers' loss counts padding among the places."""
    rows = texts(equal=True)
    for k, row in enumerate(rows):
        row["start_positions"], row["end_positions"] = k % 20, k % 20 + k % 4
    model = transformers.BertForQuestionAnswering(transformers.BertConfig(**BERT))
    return trained(model, rows, folder, steps)


def preferences(folder: Path, steps: int) -> Any:
    """TRL's, of pairs that are tokens already."""
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    rng = np.random.default_rng(0)

    def ids(low: int, high: int) -> list[int]:
        return rng.integers(3, VOCABULARY, int(rng.integers(low, high))).tolist()

    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    sizes = ((3, 8), (2, 14), (2, 14))
    rows = [
        {name: ids(*size) for name, size in zip(names, sizes, strict=True)}
        for _ in range(64)
    ]

    class Prepared(trl.DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    trainer = recording(Prepared)(
        model,
        args=trl.DPOConfig(**arguments(folder, steps), beta=0.3, bf16=False),
        train_dataset=Dataset.from_list(rows),
        processing_class=pipelines.tokenizer(eos_token="[SEP]"),
    )
    trainer.train()
    return trainer.losses, trainer.batches


def embeddings(folder: Path, steps: int) -> Any:
    """Sentence-transformers', of pairs of texts."""
    own = pipelines.tokenizer()
    transformers.BertModel(transformers.BertConfig(**BERT)).save_pretrained(
        folder / "b"
    )
    own.save_pretrained(folder / "b")
    body = Transformer(str(folder / "b"), max_seq_length=LENGTH)
    pooling = Pooling(body.get_embedding_dimension(), "mean")
    modules = [body, pooling, Normalize()]
    model = sentence_transformers.SentenceTransformer(modules=modules, device="cpu")
    model.save_pretrained(str(folder))
    rng = np.random.default_rng(0)
    letters = [*"abcdefghijklmnopqrstuvwxyz"]

    def text() -> str:
        return " ".join(rng.choice(letters, int(rng.integers(3, 16))).tolist())

    rows = [{"anchor": text(), "positive": text()} for _ in range(64)]
    from sentence_transformers.sentence_transformer import losses

    trainer = recording(sentence_transformers.SentenceTransformerTrainer)(
        model,
        sentence_transformers.SentenceTransformerTrainingArguments(
            **arguments(folder, steps)
        ),
        train_dataset=Dataset.from_list(rows),
        loss=losses.MultipleNegativesRankingLoss(model),
    )
    trainer.train()
    return trainer.losses, trainer.batches


# --- our batches ---------------------------------------------------------------------


def stream(ids: np.ndarray, mask: np.ndarray, prefix: str = "") -> Batch:
    """Texts as rows of one length."""
    room = LENGTH - ids.shape[1]
    here = np.pad(mask, ((0, 0), (0, room))).astype(np.int32)
    places = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), here.shape)
    return {
        f"{prefix}tokens": np.pad(ids, ((0, 0), (0, room))).astype(np.int32) * here,
        f"{prefix}segment_ids": here,
        f"{prefix}positions": places * here,
    }


def of_texts(inputs: Inputs) -> Batch:
    valid = np.ones(len(inputs["input_ids"]), np.int32)
    return stream(inputs["input_ids"], inputs["attention_mask"]) | {"valid": valid}


def of_classes(inputs: Inputs) -> Batch:
    return of_texts(inputs) | {"label": inputs["labels"].astype(np.int32)}


def of_tags(inputs: Inputs) -> Batch:
    labels = inputs["labels"]
    labels = np.pad(labels, ((0, 0), (0, LENGTH - labels.shape[1])), constant_values=-1)
    word = np.cumsum(labels >= 0, axis=1) * (labels >= 0)
    tags = {"label": np.maximum(labels, 0), "word": word}
    return of_texts(inputs) | {k: v.astype(np.int32) for k, v in tags.items()}


def of_answers(inputs: Inputs) -> Batch:
    ends = np.stack([inputs["start_positions"], inputs["end_positions"]], axis=1)
    batch = of_texts(inputs)
    numbers = np.arange(len(ends), dtype=np.int32)
    more = {"answer": ends.astype(np.int32), "window": numbers}
    return batch | more | {"context": 2 * batch["segment_ids"]}


def of_pairs(inputs: Inputs) -> Batch:
    """TRL has the chosen answers first, and predicts what its mask marks."""
    ids, mask, answer = (
        inputs[k] for k in ("input_ids", "attention_mask", "completion_mask")
    )
    batch: Batch = {"valid": np.ones(len(ids) // 2, np.int32)}
    sides = np.split(np.arange(len(ids)), 2)
    for prefix, side in zip(("", "other_"), sides, strict=True):
        batch |= stream(ids[side, :-1], mask[side, 1:], prefix)
        targets = stream(ids[side, 1:], mask[side, 1:])["tokens"]
        weights = stream(answer[side, 1:], mask[side, 1:])["tokens"]
        batch |= {f"{prefix}targets": targets, f"{prefix}weights": weights}
    return batch


def of_anchors(inputs: Inputs) -> Batch:
    sides = {"anchor": "anchor_", "positive": ""}
    batch: Batch = {}
    for name, prefix in sides.items():
        ids, mask = (inputs[f"{name}_{k}"] for k in ("input_ids", "attention_mask"))
        batch |= stream(ids, mask, prefix)
    count = len(batch["tokens"])
    score = np.ones(count, np.float32)
    return batch | {"valid": np.ones(count, np.int32), "score": score}


CASES = {
    "classifier": Case(SequenceClassification(labels=LABELS), classifier, of_classes),
    "tagger": Case(TokenClassification(labels=TAGS), tagger, of_tags),
    "answers": Case(QuestionAnswering(max_question=8, stride=4), answers, of_answers),
    "preferences": Case(Preference(DPO(beta=0.3)), preferences, of_pairs),
    "embeddings": Case(TextEmbedding(Ranking(0.05)), embeddings, of_anchors),
}


def ours(case: Case, folder: Path, batches: list[Inputs]) -> list[float]:
    """Our losses from the same weights on the same batches."""
    steps = len(batches)
    config = RunConfig(
        task=case.task,
        data=DataConfig(packing="pad", seq_len=LENGTH, batch_size=ROWS),
        optimizer=OptimizerConfig(
            algorithm=AdamW(b2=0.999),
            learning_rate=RATE,
            weight_decay=0.01,
            schedule=Linear(warmup_steps=0),
        ),
        train=TrainConfig(steps=steps),
        init=Checkpoint(str(folder)),
    )
    config = initial.complete(config, corpus=False)
    task = make_task(config, PlainVocabulary(VOCABULARY))
    rows = [case.batch(inputs) for inputs in batches]
    program = setup.build(config, task, rows[0])
    state, _ = loop.begin(program)
    losses = []
    with mesh_lib.use(program.mesh):
        for batch in rows:
            state, (metrics, _) = program.step(state, program.place(batch))
            total, count = metrics["loss"]
            losses.append(float(total) / float(count))
    return losses


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="five steps")
    parser.add_argument("--only", nargs="*", choices=CASES, default=[*CASES])
    parser.add_argument("--speed", action="store_true", help="MiniLM's, in turns")
    flags = parser.parse_args()
    steps, failed = 5 if flags.quick else 20, 0
    for name in flags.only:
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            theirs, batches = CASES[name].train(folder, steps)
            found = ours(CASES[name], folder, batches)
        error = max(abs(a - b) for a, b in zip(theirs, found, strict=True))
        failed += not error <= TOLERANCE
        end = "" if error <= TOLERANCE else f", FAILED: more than {TOLERANCE}"
        print(
            f"{name}: {len(found)} losses, {found[0]:.4f} to {found[-1]:.4f}, largest "
            f"difference {error:.1e}{end}",
            flush=True,
        )
    if flags.speed:
        from tests.proofs.trainer_speed import main as timed

        timed(quick=flags.quick)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
