"""A tagger's way from a folder of the hub and back, against transformers' pipeline.

Fine-tuned here from a folder that transformers wrote, it must find in new texts the
entities by `experiments.predict` that transformers' pipeline finds which reads what
`experiments.convert` wrote; "first" gives a word the tag of its first token, as we do:

    python -m tests.parity.taggers
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers

from tests.parity.pipelines import TEXTS, TOLERANCE, WORDS, config, run, tokenizer

NAMES = ("THE", "PLOT")
ROWS = [text for text in TEXTS if 0 < len(text) < 60]
TAGS = ["O", *(f"{edge}-{name}" for name in NAMES for edge in "BI")]


def found(folder: Path, texts: list[str]) -> list[list[dict[str, Any]]]:
    """The entities that transformers' pipeline finds in each text."""
    pipe = transformers.pipeline(
        "token-classification", model=str(folder), aggregation_strategy="first"
    )
    names = {"entity_group": "type", "start": "start", "end": "stop", "score": "score"}
    return [
        [{ours: entity[theirs] for theirs, ours in names.items()} for entity in row]
        for row in pipe(texts)
    ]


def write_sentences(file: Path) -> None:
    """Words with tags in CoNLL's columns, by the word and the place."""
    lines = []
    for i in range(120):
        for k in range(3, 9):
            word = WORDS[(i * k) % len(WORDS)]
            lines.append(f"{word} {TAGS[len(word) % len(TAGS)] if i % 2 else 'O'}")
        lines.append("")
    file.write_text("\n".join(lines))


def live(folder: Path) -> float:
    """The largest difference of a score; infinite for other entities."""
    torch.manual_seed(0)
    own = tokenizer()
    transformers.BertModel(config(len(own))).save_pretrained(folder / "bert")
    own.save_pretrained(folder / "bert")
    write_sentences(folder / "words.conll")
    rows = (json.dumps({"text": text}) + "\n" for text in ROWS)
    (folder / "new.jsonl").write_text("".join(rows))
    run(
        "finetune",
        "--config=configs/finetune/token_classification.py",
        f"--workdir={folder}/run",
        f"--config.init.path={folder}/bert",
        f"--config.data.source={folder}/words.conll",
        f"--config.data.directory={folder}/cache",
        "--config.data.seq_len=16",
        "--config.task.read=any",
        "--config.train.steps=40",
        "--config.train.eval_every=40",
        "--config.train.checkpoint_every=40",
        "--config.optimizer.learning_rate=1e-2",
        "--config.optimizer.schedule.warmup_steps=1",
    )
    answers = folder / "predictions.jsonl"
    where = f"--input={folder}/new.jsonl"
    run("predict", f"--run={folder}/run", where, f"--output={answers}")
    run("convert", f"--source={folder}/run", f"--target={folder}/hub")
    theirs = found(folder / "hub", ROWS)
    ours = [json.loads(line)["entities"] for line in answers.read_text().splitlines()]
    return difference(ours, theirs)


def difference(ours: list[list[dict[str, Any]]], theirs: list[list[Any]]) -> float:
    """The largest difference of a score; infinite for other entities, or few."""
    places = [
        [[(e["type"], e["start"], e["stop"]) for e in row] for row in side]
        for side in (ours, theirs)
    ]
    pairs = [pair for rows in zip(ours, theirs, strict=True) for pair in zip(*rows)]  # noqa: B905
    if places[0] != places[1] or len(pairs) < 5:
        print(f"ours {places[0]}\ntheirs {places[1]}")
        return float("inf")
    return max(abs(a["score"] - float(b["score"])) for a, b in pairs)


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        error = live(Path(name))
    fine = error <= TOLERANCE
    print(f"taggers: predicted and exported, largest difference {error:.1e}", end="")
    print("" if fine else f", FAILED: more than {TOLERANCE}")
    return int(not fine)


if __name__ == "__main__":
    sys.exit(main())
