"""Memory of the loader over 10 MB and over 1 GB of tokens.

    python tests/proofs/loader_memory.py [--megabytes=10,1000] [--quick]

Writes prepared corpora of these sizes, uint16, with documents of 500 tokens on average,
log-normal. A fresh process each opens one as three sources, packs them by first-fit,
mixes them, and makes 300 batches of 32 rows of 2048 of causal language modelling; all
indexes are made anew. Prints how far RssAnon (the memory that is no file's) rose above
where it stood before the corpus was opened, at its peak and at the end, and RssFile
(the parts of files that lie in memory: the kernel takes them back as it needs them).
Exits 1 where the larger corpus takes 50 MB more than the smaller. About two minutes;
--quick: 5 MB and 100 MB, in half of one.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

BATCHES = 300
LIMIT = 50e6


def resident(kind: str) -> int:
    """Bytes of RssAnon or RssFile of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(kind):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {kind}")


def load(folder: Path) -> None:
    """The child: prints what it measured as JSON."""
    from absl import flags

    from experiments import benchmark_loader
    from llmjax.data.store import tokens

    flags.FLAGS(["loader_memory"])
    # what any loader takes: a small one, of the same imports
    corpora = {name: tokens.read(folder / "small" / name) for name in "abc"}
    benchmark_loader.pipeline(folder / "warm", corpora).batch(0)
    before = peak = resident("RssAnon")
    stopped = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not stopped.wait(0.005):
            peak = max(peak, resident("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    corpora = {name: tokens.read(folder / "tokens" / name) for name in "abc"}
    loader = benchmark_loader.pipeline(folder, corpora)
    for step in range(BATCHES):
        loader.batch(step)
    seconds = time.perf_counter() - start
    stopped.set()
    watcher.join()
    print(
        json.dumps(
            {
                "peak": max(peak - before, 0),
                "end": resident("RssAnon") - before,
                "file": resident("RssFile"),
                "documents": sum(map(len, corpora.values())),
                "seconds": seconds,
            }
        )
    )


def write(folder: Path, megabytes: float) -> None:
    """Three corpora, and three of next to nothing."""
    from experiments import benchmark_loader as benchmark

    for kind, size in (("small", 1e5), ("tokens", megabytes * 1e6)):
        for seed, (name, weight) in enumerate(benchmark.WEIGHTS.items()):
            count = int(size / 2 * weight)
            benchmark.write_corpus(folder / f"{kind}-parts" / name, count, 500, seed)
            (folder / kind).mkdir(exist_ok=True)
            source = folder / f"{kind}-parts" / name / "tokens"
            source.rename(folder / kind / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", default="10,1000")
    parser.add_argument("--quick", action="store_true", help="--megabytes=5,100")
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.load:
        load(args.load)
        return
    found = []
    columns = "MB of tokens", "documents", "peak MB", "end MB", "file MB"
    print("".join(f"{column:>13}" for column in columns))
    sizes_mb = "5,100" if args.quick else args.megabytes
    for megabytes in map(float, sizes_mb.split(",")):
        with tempfile.TemporaryDirectory() as name:
            write(Path(name), megabytes)
            child = [sys.executable, __file__, f"--load={name}"]
            out = subprocess.run(child, check=True, capture_output=True, text=True)
        one = json.loads(out.stdout.splitlines()[-1])
        found.append(one)
        sizes = (one[kind] / 1e6 for kind in ("peak", "end", "file"))
        told = "".join(f"{size:13.1f}" for size in sizes)
        print(f"{megabytes:13g}{one['documents']:13}{told}", flush=True)
    sys.exit(found[-1]["peak"] - found[0]["peak"] > LIMIT)


if __name__ == "__main__":
    main()
