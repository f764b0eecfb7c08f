"""A classifier's way from a folder of the hub and back, against transformers' pipeline.

Fine-tuned here from a folder that transformers wrote, whose tokenizer cuts long texts
at their beginning, it must give new texts the same probabilities by
`experiments.predict` as transformers' pipeline gives them that reads what
`experiments.convert` wrote:

    python -m tests.parity.pipelines

`--write` writes the golden file of the default tests: a classifier of transformers'
own, texts, and their scores.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.numpy import load_file, save_file

from tests.parity import draws
from tests.parity.goldens import FOLDER

GOLDEN = FOLDER / "pipeline.json"
LABELS = ("negative", "neutral", "positive")
WORDS = [
    *("good", "bad", "fine", "film", "the", "a", "was"),
    *("very", "not", "plot", "actor", "boring", "great", "poor"),
]
TEXTS = [
    "good film",
    "The plot was very BORING, not fine.",
    "",
    "café zzz é unknown ☃",
    " ".join(WORDS * 2),
    "a",
    " ".join(WORDS[::-1] * 4),  # longer than is read
]
TOLERANCE = 1e-5


def tokenizer(**fields: str) -> transformers.PreTrainedTokenizerBase:
    """BERT's, of few words and letters; it cuts earlier than the model would."""
    letters = [*"abcdefghijklmnopqrstuvwxyz.,"]
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocab = [*specials, *WORDS, *letters, *(f"##{c}" for c in letters)]
    numbers = {token: i for i, token in enumerate(dict.fromkeys(vocab))}
    own = transformers.BertTokenizer(vocab=numbers, model_max_length=20, **fields)
    assert len(own) == len(numbers)
    return own


def config(size: int) -> transformers.BertConfig:
    return transformers.BertConfig(
        vocab_size=size,
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=20,
        max_position_embeddings=40,
        initializer_range=0.3,
        id2label=dict(enumerate(LABELS)),
        label2id={name: i for i, name in enumerate(LABELS)},
    )


OTHERS: dict[
    str, dict[str, Any]
] = {  # what scores mean where they are not of one class of several
    "multi_label": {"problem_type": "multi_label_classification"},
    "values": {"problem_type": "regression"},
    "value": {"problem_type": "regression", "id2label": {0: "stars"}},
    "one": {"id2label": {0: "relevant"}},
}


def scores(folder: Path, texts: list[str]) -> list[dict[str, float]]:
    """The probabilities that transformers' pipeline gives each text."""
    pipe = transformers.pipeline(
        "text-classification", model=str(folder), top_k=None, truncation=True
    )
    return [{s["label"]: s["score"] for s in row} for row in pipe(texts)]


def write_golden() -> None:
    """The golden file anew: scores, of the same weights cut on the left, and of others.

    A model of one score has the first row of the last projection.
    """
    own = tokenizer()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = transformers.BertForSequenceClassification(config(len(own)))
        model.save_pretrained(folder)
        own.save_pretrained(folder)
        file = folder / "model.safetensors"
        shapes = {k: list(v.shape) for k, v in load_file(file).items()}
        weights = {k: draws.weight(k, tuple(v), 0, 0.6) for k, v in shapes.items()}
        save_file(weights, file, metadata={"format": "pt"})
        golden = {
            "transformers": transformers.__version__,
            "config": json.loads((folder / "config.json").read_text()),
            "tokenizer": json.loads((folder / "tokenizer.json").read_text()),
            "tokenizer_config": json.loads(
                (folder / "tokenizer_config.json").read_text()
            ),
            "tensors": shapes,
            "texts": TEXTS,
            "scores": scores(folder, TEXTS),
            "others": {},
        }
        for name, fields in OTHERS.items():
            write_config(folder, golden["config"] | fields)
            kept = len(fields.get("id2label", LABELS))
            last = {k: v[:kept] if "classifier" in k else v for k, v in weights.items()}
            save_file(last, file, metadata={"format": "pt"})
            golden["others"][name] = {"fields": fields, "scores": scores(folder, TEXTS)}
        write_config(folder, golden["config"])
        save_file(weights, file, metadata={"format": "pt"})
        tokenizer(truncation_side="left").save_pretrained(folder)
        golden["left"] = scores(folder, TEXTS)
    GOLDEN.write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n")


def write_config(folder: Path, fields: dict[str, Any]) -> None:
    """A config.json, with the names of classes both ways."""
    names = fields["id2label"]
    fields = fields | {"label2id": {name: int(i) for i, name in names.items()}}
    (folder / "config.json").write_text(json.dumps(fields))


def run(main: str, *flags: str) -> None:
    """One of our mains, which must succeed."""
    command = [sys.executable, "-m", f"experiments.{main}", *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def live(folder: Path) -> float:
    """The largest difference of a probability, of a classifier fine-tuned here."""
    torch.manual_seed(0)
    own = tokenizer(truncation_side="left")
    transformers.BertModel(config(len(own))).save_pretrained(folder / "bert")
    own.save_pretrained(folder / "bert")
    with (folder / "texts.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        for i in range(240):
            words = [WORDS[(i * k) % len(WORDS)] for k in range(3, 9)]
            rows.writerow([f"{' '.join(words)} {i}", LABELS[i % 3]])
    with (folder / "new.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["text"], *([text] for text in TEXTS)])
    run(
        "finetune",
        "--config=configs/finetune/text_classification.py",
        f"--workdir={folder}/run",
        f"--config.init.path={folder}/bert",
        f"--config.data.source={folder}/texts.csv",
        f"--config.data.directory={folder}/cache",
        "--config.data.seq_len=16",
        "--config.train.steps=6",
        "--config.train.eval_every=6",
        "--config.train.checkpoint_every=6",
        "--config.optimizer.schedule.warmup_steps=1",
    )
    answers = folder / "predictions.jsonl"
    where = f"--input={folder}/new.csv"
    run("predict", f"--run={folder}/run", where, f"--output={answers}")
    run("convert", f"--source={folder}/run", f"--target={folder}/hub")
    theirs = scores(folder / "hub", TEXTS)
    ours = [json.loads(line) for line in answers.read_text().splitlines()]
    return difference([row["probabilities"] for row in ours], theirs)


def difference(ours: list[dict[str, Any]], theirs: list[dict[str, float]]) -> float:
    """The largest difference of a probability; infinite for other labels or rows."""
    if [row.keys() for row in ours] != [{*row} for row in theirs]:
        return float("inf")
    pairs = zip(ours, theirs, strict=True)
    return max(abs(a[name] - b[name]) for a, b in pairs for name in b)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="the golden file, anew")
    if parser.parse_args().write:
        write_golden()
        return 0
    with tempfile.TemporaryDirectory() as name:
        error = live(Path(name))
    fine = error <= TOLERANCE
    print(f"pipelines: predicted and exported, largest difference {error:.1e}", end="")
    print("" if fine else f", FAILED: more than {TOLERANCE}")
    return int(not fine)


if __name__ == "__main__":
    sys.exit(main())
