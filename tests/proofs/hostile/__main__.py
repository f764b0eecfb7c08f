"""Damaged files and wild flags: each is right, or one line that names the thing.

    python -m tests.proofs.hostile [--cases=2000] [--quick] [--only=gguf] [--seed=0]

Cases are drawn from every kind of `subjects` in turn, each with a whole input that is
damaged at random. It may take 5 seconds of computing, and 500 MB more than its process
held before; a refusal is a ValueError (or a file that is not there) of one line.
Anything else is printed with the number that repeats it: `--only=KIND --first=CASE
--cases=1`. 2,000 cases take about
20 minutes on two cores; --quick does 180. Ends with code 1 where a case failed.
"""

import argparse
import collections
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from tests.proofs.hostile.subjects import ROOT, SUBJECTS

PACKAGE = "tests.proofs.hostile"
SECONDS, MEGABYTES = 5.0, 500
HANGS = 120.0  # seconds without an answer, on however busy a machine
LONGEST = 4000  # characters of an error
REFUSALS = (ValueError, FileNotFoundError)


def run_case(kind: str, seed: int, case: int, folder: Path) -> dict[str, Any]:
    """Builds, damages and loads one input; how that went."""
    rng = np.random.default_rng([seed, case])
    subject = SUBJECTS[kind]
    subject.build(rng, folder)
    change = subject.damage(rng, folder)
    before, start = _restart_peak(), time.process_time()
    outcome, text = "loaded", ""
    try:
        with open(os.devnull, "w") as quiet, contextlib.redirect_stderr(quiet):
            subject.load(folder)
    except REFUSALS as e:
        text = str(e)
        whole = text.strip() and "\n" not in text.strip() and len(text) < LONGEST
        outcome = "refused" if whole and "Traceback" not in text else "FAILED"
    except BaseException as e:  # the kind of thing that this is looking for
        text = "".join(traceback.format_exception(e)[-3:])
        outcome = "FAILED"
    seconds, megabytes = time.process_time() - start, (_peak() - before) >> 20
    if outcome != "FAILED" and (seconds > SECONDS or megabytes > MEGABYTES):
        outcome, text = "FAILED", f"{seconds:.1f} s, {megabytes} MB; {text[:300]}"
    return {
        "case": case,
        "outcome": outcome,
        "change": change,
        "text": text,
        "seconds": seconds,
        "megabytes": megabytes,
    }


def _peak() -> int:
    """The most bytes that this process has held since `_restart_peak`."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def _restart_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def work(kind: str, seed: int, cases: range) -> None:
    """A process's life: a line of JSON on standard output for each case that it ran."""
    with os.fdopen(os.dup(1), "w") as out, open(os.devnull, "w") as quiet:
        os.dup2(quiet.fileno(), 1)
        os.dup2(quiet.fileno(), 2)
        for case in cases:
            # absl parses flags once in a process
            child = os.fork() if kind == "overrides" else None
            if not child:
                folder = Path(tempfile.mkdtemp(prefix="hostile-"))
                try:
                    result = run_case(kind, seed, case, folder)
                finally:
                    shutil.rmtree(folder, ignore_errors=True)
                out.write(json.dumps(result) + "\n")
                out.flush()
            if child is not None:
                if not child:
                    os._exit(0)
                os.waitpid(child, 0)


def run(kind: str, seed: int, cases: range) -> list[dict[str, Any]]:
    """All cases of a kind; a process that ends or hangs is replaced by another."""
    results: list[dict[str, Any]] = []
    while len(results) < len(cases):
        rest = cases[len(results) :]
        flags = [f"--only={kind}", f"--seed={seed}", f"--first={rest.start}"]
        process = subprocess.Popen(
            [sys.executable, "-m", PACKAGE, "--work", *flags, f"--cases={len(rest)}"],
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        assert process.stdout
        lost = _collect(process.stdout.fileno(), results, len(rest))
        if lost:
            process.kill()
        code = process.wait()
        if len(results) < len(cases):
            how = "it hangs" if lost else f"its process ends with code {code}"
            failed = {"case": cases[len(results)], "outcome": "FAILED", "change": "?"}
            results.append(failed | {"text": how, "seconds": HANGS, "megabytes": 0})
    return results


def _collect(pipe: int, results: list[dict[str, Any]], most: int) -> bool:
    """Appends what a process says until it ends; whether it fell silent instead."""
    text, first = b"", len(results)
    while len(results) < first + most:
        if not select.select([pipe], [], [], HANGS)[0]:
            return True
        piece = os.read(pipe, 1 << 16)
        if not piece:
            return False
        *lines, text = (text + piece).split(b"\n")
        results.extend(json.loads(line) for line in lines)
    return False


def main() -> int:
    """Runs the cases; 1 where one failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="", choices=["", *SUBJECTS])
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", action="store_true", help="be one of the processes")
    args = parser.parse_args()
    if args.work:
        work(args.only, args.seed, range(args.first, args.first + args.cases))
        return 0
    kinds = [args.only] if args.only else list(SUBJECTS)
    total = 180 if args.quick else args.cases
    share = -(-total // len(kinds))
    failures = 0
    print(
        f"{'kind':14} {'cases':>6} {'loaded':>7} {'refused':>8} {'FAILED':>7}  at worst"
    )
    for kind in kinds:
        results = run(kind, args.seed, range(args.first, args.first + share))
        count = collections.Counter(r["outcome"] for r in results)
        seconds = max(r["seconds"] for r in results)
        megabytes = max(r["megabytes"] for r in results)
        print(
            f"{kind:14} {len(results):6} {count['loaded']:7} {count['refused']:8} "
            f"{count['FAILED']:7}  {seconds:.1f} s, {megabytes} MB",
            flush=True,
        )
        for result in results:
            if result["outcome"] == "FAILED":
                failures += 1
                print(f"  {result['case']}: {result['change']}\n    {result['text']}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
