"""A run asked lm-eval's tasks, beside its exported folder asked by lm-eval's own `hf`.

    PYTHONPATH=.:FOLDER python -m tests.parity.lm_eval_hf

lm-eval lies in FOLDER, see `launch/parity.sh tasks`.

A tiny decoder is pretrained and exported, both by commands. Then `llmjax evaluate
--lm_eval` asks the run and the folder the tasks of local files: choices, with and
without examples before them, whole texts, and texts that it writes. Log-likelihoods are
within 1e-4, metrics and texts the same, in batches of 1, 8 and 32.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from tests.parity.pipelines import run

TOLERANCE = 1e-4  # of a log-likelihood in nats, relative where it is above 1
LENGTH = 64  # tokens that the model reads
WORDS = ["the", "sum", "of", "a", "list", "is", "returned", "as", "float", "value"]
WORDS += ["error", "when", "index", "raises", "key"]
HEAD = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}, train: {rows}}}}}
test_split: test
fewshot_split: train
output_type: {kind}
"""
CHOICE = """\
doc_to_text: "{{context}}"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
TASKS = {
    "choices": ("multiple_choice", CHOICE),
    "shown": ("multiple_choice", CHOICE + "num_fewshot: 2\n"),
    "rolling": (
        "loglikelihood_rolling",
        'doc_to_text: ""\ndoc_to_target: "{{whole}}"\n'
        "metric_list: [{metric: bits_per_byte}]\n",
    ),
    "written": (
        "generate_until",
        'doc_to_text: "{{context}}"\ndoc_to_target: "{{whole}}"\n'
        "metric_list: [{metric: exact_match}]\n"
        'generation_kwargs: {until: [" the"], max_gen_toks: 12, do_sample: false}\n',
    ),
}


def write_tasks(folder: Path) -> list[str]:
    """The files of the tasks; some contexts end in spaces, are empty or too long."""
    rng = np.random.default_rng(0)

    def text(low: int, high: int) -> str:
        return " ".join(rng.choice(WORDS, int(rng.integers(low, high))).tolist())

    rows = []
    for k in range(40):
        ends = ("", " ", "  ", ":\n")[k % 4]
        row = {"context": text(1, 20) + ends, "answer": k % 3, "whole": text(5, 120)}
        row["choices"] = [(" " if k % 2 else "") + text(1, 5) for _ in range(3)]
        rows.append(row)
    rows[3]["context"] = ""
    rows[5]["context"] = text(200, 210)
    (folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    files = []
    for name, (kind, more) in TASKS.items():
        file = folder / f"{name}.yaml"
        head = HEAD.format(name=name, kind=kind, rows=folder / "rows.jsonl")
        file.write_text(head + more)
        files.append(str(file))
    return files


def make(folder: Path) -> None:
    """A run and its exported folder."""
    rng = np.random.default_rng(1)
    texts = [" ".join(rng.choice(WORDS, 30).tolist()) + f" {k}." for k in range(300)]
    lines = [json.dumps({"text": text}) + "\n" for text in texts]
    (folder / "texts.jsonl").write_text("".join(lines))
    data = (
        "--config=configs/pretrain/python_docs.py",
        f"--config.data.source={folder}/texts.jsonl",
        "--config.data.tokenizer.vocab_size=300",
        f"--config.data.seq_len={LENGTH}",
        "--config.data.batch_size=4",
        f"--config.data.directory={folder}/cache",
    )
    run("prepare_data", *data)
    run(
        "pretrain",
        *data,
        "--config.model.vocab_size=300",
        "--config.model.d_model=32",
        "--config.model.d_ff=64",
        "--config.model.num_layers=2",
        "--config.model.num_heads=4",
        "--config.train.steps=20",
        "--config.train.eval_every=20",
        "--config.train.checkpoint_every=20",
        "--config.optimizer.schedule.warmup_steps=1",
        f"--workdir={folder}/run",
    )
    run("convert", f"--source={folder}/run", f"--target={folder}/hub")


def ours(
    folder: Path, source: str, files: list[str], batch_size: int
) -> dict[str, Any]:
    """Our results, and the samples by task and row."""
    workdir = folder / f"{source}-{batch_size}"
    run(
        "evaluate",
        f"--run={folder}/{source}",
        f"--lm_eval={','.join(files)}",
        f"--batch_size={batch_size}",
        f"--max_length={LENGTH}",
        f"--workdir={workdir}",
    )
    result = json.loads((workdir / "result.json").read_text())
    lines = (workdir / "samples.jsonl").read_text().splitlines()
    return {"tasks": result["tasks"], "samples": [*map(json.loads, lines)]}


def theirs(folder: Path, files: list[str], batch_size: int) -> dict[str, Any]:
    """The results of lm-eval's `hf` on the exported folder."""
    model = HFLM(
        pretrained=f"{folder}/hub",
        device="cpu",
        batch_size=batch_size,
        max_length=LENGTH,
        dtype="float32",
    )
    found: Any = simple_evaluate(
        model, tasks=files, task_manager=TaskManager(include_defaults=False)
    )
    lines = [
        json.loads(json.dumps({"task": name, **row}, default=str))
        for name, rows in found["samples"].items()
        for row in rows
    ]
    return {"tasks": found["results"], "samples": lines}


def answers(found: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The name and the value of each answer, numbers and texts."""
    for row in sorted(found["samples"], key=lambda r: (r["task"], r["doc_id"])):
        for number, answer in enumerate(row["filtered_resps"]):
            yield f"{row['task']}/{row['doc_id']}/{number}", answer


def compare(a: dict[str, Any], b: dict[str, Any]) -> float:
    """The largest difference of a log-likelihood; infinite where others differ."""
    worst = 0.0
    for (name, one), (other_name, other) in zip(answers(a), answers(b), strict=True):
        assert name == other_name
        number, *rest = one if isinstance(one, list) else [one]
        other_number, *other_rest = other if isinstance(other, list) else [other]
        if [*map(str, rest)] != [*map(str, other_rest)]:
            print(f"{name}: {one} and {other}")
            return float("inf")
        try:
            x, y = float(number), float(other_number)
        except ValueError:
            if number != other_number:
                print(f"{name}: {number!r} and {other_number!r}")
                return float("inf")
            continue
        worst = max(worst, abs(x - y) / max(1.0, abs(y)))
    for task, metrics in a["tasks"].items():
        for key, value in metrics.items():
            other = b["tasks"][task][key]
            if key.startswith(("acc,", "acc_norm,", "exact")) and value != other:
                print(f"{task} {key}: {value} and {other}")
                return float("inf")
    return worst


def check_mistakes(folder: Path) -> None:
    """A task that can't be asked is named in one line, and the program ends with 2."""
    (folder / "none.jsonl").write_text('{"context": "a", "whole": ""}\n')
    head = HEAD.format(name="empty", kind="loglikelihood", rows=folder / "none.jsonl")
    more = 'doc_to_text: "{{context}}"\ndoc_to_target: "{{whole}}"\n'
    more += 'target_delimiter: ""\nmetric_list: [{metric: perplexity}]\n'
    (folder / "empty.yaml").write_text(head + more)
    (folder / "broken.yaml").write_text("task: broken\ndataset_path: json\n")
    for names, said in (
        ("arc_esy", "is no task of lm-eval's; did you mean arc_easy"),
        ("missing.yaml", "is no file; give the .yaml of a task"),
        (f"{folder}/broken.yaml", "can't be loaded: "),
        (f"{folder}/empty.yaml", "task 'empty', row 0: the continuation '' is empty"),
    ):
        flags = [f"--run={folder}/hub", f"--lm_eval={names}"]
        command = [sys.executable, "-m", "experiments.evaluate", *flags]
        done = subprocess.run(command, capture_output=True, text=True)
        lines = [x for x in done.stderr.splitlines() if x.startswith("error: ")]
        if done.returncode != 2 or len(lines) != 1 or said not in lines[0]:
            raise SystemExit(
                f"{names}: wanted {said!r}; {done.returncode}\n{done.stderr}"
            )


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder)
        check_mistakes(folder)
        files = write_tasks(folder)
        reference = theirs(folder, files, 1)
        worst = {
            f"{source} in batches of {size}": compare(
                ours(folder, source, files, size), reference
            )
            for source, size in (("run", 1), ("run", 8), ("run", 32), ("hub", 8))
        }
        worst["hf in batches of 8"] = compare(theirs(folder, files, 8), reference)
        tasks = reference["tasks"]
    print(f"lm-eval: accuracy {tasks['choices']['acc,none']:.3f} of choices, with hf")
    for what, error in worst.items():
        failed = "" if error <= TOLERANCE else f", FAILED: more than {TOLERANCE}"
        print(f"lm-eval: {what}, largest difference {error:.1e}{failed}")
    return int(max(worst.values()) > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
