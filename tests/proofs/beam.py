"""A Beam job keeps what one machine keeps: documents, splits, order and counts.

    bash launch/beam.sh -m tests.proofs.beam

The docstrings of the standard library, with exact and near copies and with texts that
are too short, in files of four formats: cleaned by `local_files`, by Beam's direct
runner in one process, and by the same in two processes. Then `prepare` tokenises what
Beam wrote. Two minutes on two cores.
"""

import dataclasses
import gzip
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from llmjax.config import Bytes, DataConfig
from llmjax.data.corpora import docstrings
from llmjax.data.prepare import prepare

COPIES = 300
PROCESSES = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")


def texts() -> list[str]:
    """Documents in a random order, some of them copies of others."""
    rng = random.Random(0)
    found = [d.text for d in docstrings.of_stdlib()]
    for text in rng.sample(found, COPIES):
        found.append("  " + text + "\n\n")  # equal once clean
    for text in rng.sample([t for t in found if len(t.split()) > 60], COPIES):
        words = text.split()
        words[rng.randrange(len(words))] = "zebra"
        found.append(" ".join(words[: rng.randrange(len(words) - 5, len(words))]))
    rng.shuffle(found)
    return found


def write(folder: Path, documents: list[str]) -> None:
    """Some in files of their own, the others as lines of three."""
    folder.mkdir()
    single, documents = documents[:20], documents[20:]
    for i, text in enumerate(single):
        (folder / f"{i:02d}.txt").write_text(text)
    for k, name in enumerate(("a.jsonl", "b.jsonl.gz", "c.jsonl")):
        opened: Any = gzip.open if name.endswith("gz") else open
        with opened(folder / name, "wt") as file:
            for text in documents[k::3]:
                file.write(json.dumps({"content": text, "number": k}) + "\n")


def by_beam(source: Path, directory: Path, *more: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "experiments.prepare_beam", "--text_field=content"]
    command += [f"--input={source}/*", f"--directory={directory}", *more]
    subprocess.run([*command, f"--workdir={directory}"], check=True)
    return json.loads((directory / "result.json").read_text())


def main() -> None:
    tfds.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        write(root / "texts", texts())
        data = DataConfig(
            source=str(root / "texts"), directory=str(root / "one"), tokenizer=Bytes()
        )
        data = dataclasses.replace(
            data, prepare=dataclasses.replace(data.prepare, text="content")
        )
        start = time.monotonic()
        one = prepare.prepare(data)
        account = one.manifest["dataset"]
        print(f"one machine: {time.monotonic() - start:.0f} s", account["cleaning"])
        wanted = {split: list(one.texts(split)) for split in account["documents"]}
        for name, flags in (("beam", ()), ("beam, two processes", PROCESSES)):
            start = time.monotonic()
            directory = root / name.replace(" ", "_")
            result = by_beam(root / "texts", directory, *flags)
            print(f"{name}: {time.monotonic() - start:.0f} s", result["cleaning"])
            assert result["cleaning"] == account["cleaning"]
            builder = tfds.builder_from_directory(result["folder"])
            for split, expected in wanted.items():
                found = [e["text"].decode() for e in builder.as_data_source(split)]
                assert found == expected, split
        many = prepare.prepare(
            dataclasses.replace(data, source=result["source"], directory=str(directory))
        )
        for split in wanted:
            assert one.source(split).num_bytes == many.source(split).num_bytes > 0
    print("the same documents:", {s: len(found) for s, found in wanted.items()})


if __name__ == "__main__":
    main()
