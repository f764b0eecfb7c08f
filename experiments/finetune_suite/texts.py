"""The texts of a row: from pinned packages, held out, and as files of its own."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.finetune_suite.row import Setting
from llmjax.data.corpora.builders import BUILDERS
from llmjax.data.files import reading_tables

Record = Mapping[str, Any]
VALIDATION = 256  # rows of training that a run watches


@dataclasses.dataclass(frozen=True)
class Splits:
    """The rows that are learned from, watched, and asked at the end."""

    train: Sequence[Record]
    validation: Sequence[Record]
    test: Sequence[Record]

    def map(self, make: Callable[[Record], Record]) -> "Splits":
        """The same splits of other rows."""
        parts = (self.train, self.validation, self.test)
        return Splits(*([make(row) for row in part] for part in parts))

    def sizes(self) -> dict[str, int]:
        """Rows of each split."""
        return {"train": len(self.train), "test": len(self.test)}


def packaged(name: str, setting: Setting) -> dict[str, list[Record]]:
    """The rows of a corpus of a package, by the splits of its own.

    Near-copies are in one split. A package is downloaded once, after a question.

    Args:
      name: as `data.source` has it: "wiki_leads/en".
      setting: `corpora` is read.
    """
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    kind, _, variant = name.partition("/")
    place = {"data_dir": str(setting.corpora), "file_format": "array_record"}
    builder = BUILDERS[kind](variant, **place)
    builder.download_and_prepare()
    classes = [*(builder.info.metadata or {}).get("class_names", [])]

    def plain(example: Mapping[str, Any], at: str) -> Record:
        row = {k: reading_tables.decoded(v, at) for k, v in example.items()}
        number = row.get("label", -1)
        return row | {"label": classes[number] if 0 <= number < len(classes) else ""}

    rows: dict[str, list[Record]] = {}
    for split in builder.info.splits:
        data = builder.as_data_source(split)
        places = (f"{name}, split {split!r}, record {k}" for k in range(len(data)))
        rows[split] = [plain(data[k], at) for k, at in enumerate(places)]
    return rows


def held_out(rows: Mapping[str, Sequence[Record]]) -> Splits:
    """The corpus's validation and test are asked at the end; of its training rows some
    are watched."""
    train, test = rows["train"], [*rows.get("validation", ()), *rows.get("test", ())]
    order = np.random.default_rng(0).permutation(len(train)).tolist()
    count = min(VALIDATION, len(train) // 8)
    watched, learned = order[:count], sorted(order[count:])
    return Splits([train[k] for k in learned], [train[k] for k in watched], test)


def some(rows: Sequence[Record], count: int) -> list[Record]:
    """`count` of the rows, always the same ones, in their order."""
    drawn = np.random.default_rng(0).permutation(len(rows))[:count]
    return [rows[k] for k in sorted(drawn.tolist())]


def write(splits: Splits, folder: Path) -> Path:
    """The rows as train.jsonl, validation.jsonl and test.jsonl, whole or not at all."""
    if folder.is_dir():
        return folder
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for name in ("train", "validation", "test"):
        rows = getattr(splits, name)
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (part / f"{name}.jsonl").write_text("".join(lines), "utf-8")
    part.replace(folder)
    return folder
