r"""Fine-tunes on real labels, task by task, each beside its baselines, and reports.

    python -m experiments.finetune_suite --workdir=runs/suite [--only=films,trec] \
        [--quick] [--download] [--data=../shared/data]

Data and weights lie in packages that are downloaded once you agree, some data in
`--data`: a row whose files are not there is left out, with a word. Prints and writes a
table, `suite.md`, and `result.json`. The same command goes on after it was killed: a
row that is done is not run again (remove its folder to do so), and the one that was
under way goes on from its checkpoint. `--quick` shrinks everything to toys that show
the path, not the result.
"""

import dataclasses
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments import cli
from experiments.finetune_suite import report
from experiments.finetune_suite.row import Row, Setting
from experiments.finetune_suite.rows import ROWS
from llmjax.data.corpora import wheels

ONLY = flags.DEFINE_list("only", None, "Names of rows; default: all.")
QUICK = flags.DEFINE_bool("quick", False, "Toy sizes, for tests.")
DOWNLOAD = flags.DEFINE_bool("download", False, "Agree to download the packages.")
DATA = flags.DEFINE_string(
    "data", "../shared/data", "Folder of squad/ and libreoffice_help.en-de.tsv.gz."
)
DIRECTORY = flags.DEFINE_string(
    "directory", None, "Cache of corpora; default: in the workdir."
)


def main() -> dict[str, Any]:
    folder = Path(cli.WORKDIR.value or "").expanduser().absolute()
    if DOWNLOAD.value:
        os.environ[wheels.CONSENT] = "yes"
    done: list[dict[str, Any]] = []
    chosen = rows()
    for row in chosen:
        done.append(result_of(row, folder))
        report.write(done, folder)
    print(report.summary(done), flush=True)
    return {"rows": done, "met": all(row.get("met", False) for row in done)}


def rows() -> Sequence[Row]:
    """Those of `--only`, in the table's order.

    Raises:
      ValueError: --only names another.
    """
    names = [row.name for row in ROWS]
    unknown = [name for name in ONLY.value or () if name not in names]
    if unknown:
        raise ValueError(
            f"--only names {', '.join(unknown)}; accepted: {', '.join(names)}"
        )
    return [row for row in ROWS if not ONLY.value or row.name in ONLY.value]


def result_of(row: Row, folder: Path) -> dict[str, Any]:
    """What a row gives, measured now or before; or why it was left out.

    Raises:
      ValueError: the folder has the row at another size.
    """
    size = "quick" if QUICK.value else "full"
    file = folder / row.name / "row.json"
    if file.exists():
        before: dict[str, Any] = json.loads(file.read_text("utf-8"))
        if before["size"] != size:
            raise ValueError(
                f"{file} is of a run at {before['size']} size and this is at {size} "
                "size; give another --workdir, or remove it"
            )
        print(f"finetune_suite: {row.name}, done before", flush=True)
        return before
    data = Path(DATA.value or "").expanduser()
    named = {"name": row.name, "what": row.what, "size": size}
    if row.needs and not QUICK.value and not (data / row.needs).exists():
        missing = f"{data / row.needs} is not there; --data names its folder"
        print(f"finetune_suite: {row.name} left out: {missing}", flush=True)
        return {**named, "left_out": missing}
    print(f"finetune_suite: {row.name}", flush=True)
    setting = Setting(
        folder / row.name,
        folder / "weights",
        Path(DIRECTORY.value or folder / "corpora").expanduser(),
        data,
        bool(QUICK.value),
    )
    begun = (setting.folder / "run").exists()
    start = time.perf_counter()
    outcome = row.measure(setting)
    own = {**named, **dataclasses.asdict(outcome), "met": outcome.met}
    own["seconds"] = time.perf_counter() - start
    if begun:
        own["notes"] = (*own["notes"], "it was cut off: the seconds are of the rest")
    part = file.with_name("row.json.part")
    part.write_text(cli.to_json(own)[0] + "\n", "utf-8")
    part.replace(file)
    return own


if __name__ == "__main__":
    cli.launch(main, required=("workdir",), describe=report.nothing)
