"""experiments.predict on 1,000, 5,000 and 10,000 rows: memory, kills, devices.

    python -m tests.proofs.predict [--rows=1000,5000,10000] [--kills=3] [--quick]

Writes a small BERT classifier with random weights and its tokenizer, and csv files of
texts of 3 to 140 words, then predicts:

* each file: prints the rows, seconds and the process's peak memory (ru_maxrss), which
  may not rise by more than 32 MB from the second to the last file (the first is shorter
  than one chunk);
* the last file again, killed (SIGKILL) `--kills` times after a chunk was written and
  started again: the same bytes;
* the last file on eight devices, and by two processes of four devices each: the same
  rows in the same order; prints whether the bytes are equal too, and else the largest
  difference of a probability, which may not exceed 1e-5.

Exits 1 where one of them fails. About five minutes on two cores; --quick: 500, 1,500
and 3,000 rows and one kill.
"""

import argparse
import csv
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 32e6
TOLERANCE = 1e-5
WORDS = ["good", "bad", "fine", "film", "the", "was", "very", "not", "plot", "great"]


def write_model(folder: Path) -> None:
    """A classifier with random weights in the hub's format, with a tokenizer."""
    import jax
    from flax.traverse_util import unflatten_dict

    from llmjax import config, hub
    from llmjax.config import LayerNorm, Learned, ModelConfig, Plain, PoolerHead
    from llmjax.data.tokenizers import tokenizer as tokenizers
    from llmjax.hub import tokenizer_files
    from llmjax.hub.load import abstract
    from llmjax.models.heads.classifier import SequenceClassifier

    cfg = ModelConfig(
        architecture="encoder",
        vocab_size=512,
        d_model=64,
        d_ff=128,
        num_layers=2,
        num_heads=4,
        token_types=2,
        embedding_norm=True,
        positions=Learned(128),
        mlp=Plain(),
        norm=LayerNorm(1e-12),
        norm_position="post",
        biases="all",
    )
    labels = ("negative", "neutral", "positive")
    model = SequenceClassifier(cfg, 3, "first", form=PoolerHead(), labels=labels)
    key = jax.random.key(0)
    params: dict[str, jax.Array] = {}
    for i, (path, shape) in enumerate(abstract(model)[0].items()):
        noise = 0.3 * jax.random.normal(jax.random.fold_in(key, i), shape)
        params[path] = noise + path.endswith("scale")
    hub.save(model, unflatten_dict(params, sep="/"), folder)
    words = config.WordPiece(vocab_size=300)
    own = tokenizers.make(words, [" ".join(WORDS)] * 5)
    tokenizer_files.write(own, folder, 128)


def write_texts(file: Path, rows: int) -> None:
    draw = random.Random(0)
    with file.open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["id", "text"])
        for i in range(rows):
            words = draw.choices(WORDS, k=draw.choice([3, 8, 20, 60, 140]))
            table.writerow([f"r{i}", " ".join(words)])


def start(
    folder: Path, rows: int, output: str, devices: int = 1, processes: int = 1
) -> subprocess.Popen:
    """The command, begun."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = dict(os.environ, PYTHONPATH=str(ROOT), JAX_PLATFORMS="cpu")
    environment["XLA_FLAGS"] = flags
    command = [
        *("-m", "experiments.predict", f"--run={folder}/model", "--keep=id"),
        *(f"--input={folder}/{rows}.csv", f"--output={folder}/{output}"),
    ]
    if processes > 1:
        supervise = "llmjax.parallel.processes.supervise"
        more = [f"--processes={processes}", f"--devices={devices}"]
        command = ["-m", supervise, *more, "--", sys.executable, *command]
        del environment["XLA_FLAGS"]
    with (folder / f"{output}.log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, *command], env=environment, stdout=log, stderr=log
        )


def finish(process: subprocess.Popen, folder: Path, output: str) -> float:
    """Bytes of the process's peak memory; it must end well."""
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        log = (folder / f"{output}.log").read_text()
        raise SystemExit(f"{output}: ended with status {status}\n{log[-3000:]}")
    return usage.ru_maxrss * 1024.0


def killed(folder: Path, rows: int, output: str, kills: int) -> int:
    """Kills the command after a further chunk, `kills` times; how often it was."""
    progress, done, count = folder / f"{output}.progress", 0, 0
    for _ in range(kills):
        process = start(folder, rows, output)
        while process.poll() is None:
            now = json.loads(progress.read_text())["rows"] if progress.exists() else 0
            if now > done:
                process.send_signal(signal.SIGKILL)
                count, done = count + 1, now
                break
            time.sleep(0.01)
        process.wait()
        if (folder / output).exists():
            break
    return count


def compare(a: Path, b: Path) -> float:
    """The largest difference of a probability; infinite where other rows differ."""
    largest = 0.0
    with a.open() as one, b.open() as other:
        for x, y in zip(one, other, strict=True):
            first, second = json.loads(x), json.loads(y)
            shares = first.pop("probabilities"), second.pop("probabilities")
            first.pop("probability"), second.pop("probability")
            if first != second:
                return float("inf")
            one_row, other_row = shares
            off = (abs(one_row[k] - other_row[k]) for k in one_row)
            largest = max(largest, *off)
    return largest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="1000,5000,10000")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="500,1500,3000; one kill")
    args = parser.parse_args()
    rows = [*map(int, ("500,1500,3000" if args.quick else args.rows).split(","))]
    kills = 1 if args.quick else args.kills
    failed = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder / "model")
        for count in rows:
            write_texts(folder / f"{count}.csv", count)
        print(f"{'rows':>8}{'seconds':>10}{'peak MB':>10}")
        peaks = []
        for count in rows:
            began = time.monotonic()
            output = f"{count}.jsonl"
            peaks.append(finish(start(folder, count, output), folder, output))
            seconds = time.monotonic() - began
            print(f"{count:8}{seconds:10.1f}{peaks[-1] / 1e6:10.1f}", flush=True)
        failed |= peaks[-1] - peaks[1] > LIMIT
        most = rows[-1]
        whole = folder / f"{most}.jsonl"
        count = killed(folder, most, "killed.jsonl", kills)
        finish(start(folder, most, "killed.jsonl"), folder, "killed.jsonl")
        same = (folder / "killed.jsonl").read_bytes() == whole.read_bytes()
        failed |= not same or count < kills
        print(f"killed {count} times: {'the same' if same else 'OTHER'} bytes")
        for what, devices, processes in (
            ("eight devices", 8, 1),
            ("two processes of four devices", 4, 2),
        ):
            output = f"{devices}-{processes}.jsonl"
            process = start(folder, most, output, devices, processes)
            finish(process, folder, output)
            same = (folder / output).read_bytes() == whole.read_bytes()
            largest = 0.0 if same else compare(whole, folder / output)
            failed |= largest > TOLERANCE
            verdict = (
                "the same bytes" if same else f"probabilities within {largest:.1e}"
            )
            print(f"{what}: {verdict}", flush=True)
    print("FAILED" if failed else "fine")
    sys.exit(failed)


if __name__ == "__main__":
    main()
