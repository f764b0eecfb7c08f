"""Texts for texts: translations of help pages, and descriptions of leads, by a T5."""

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from configs.finetune import text_to_text
from experiments.finetune_suite import baselines, estimates, texts, toys, tuning
from experiments.finetune_suite import weights as weights_lib
from experiments.finetune_suite.row import Outcome, Score, Setting
from llmjax.infer import writing
from llmjax.tasks.supervised import metrics

HELP = "libreoffice_help.en-de.tsv.gz"
PAIRS = 8000
ENGLISH, GERMAN = 60, 75  # characters of a pair that is read
ASKED = 300
BLEU_MORE = 5.0


def translation(setting: Setting) -> Outcome:
    """English sentences of a program's help, in German."""
    splits = _toy("rot", "blau") if setting.quick else _help(setting.data / HELP)
    prefix = "" if setting.quick else "translate English to German: "
    config = _config(prefix, steps=250, batch=32, source=24, target=24)
    tuned, own, before = _written(setting, config, splits)
    right = [row["target"] for row in splits.test]
    found = metrics.report(("bleu", "chrf"), own, right)
    untuned = metrics.report(("bleu", "chrf"), before, right)
    copied = metrics.report(("bleu",), [r["source"] for r in splits.test], right)
    memory = {row["source"].lower(): row["target"] for row in splits.train}
    nearest = _nearest([*memory], [row["source"].lower() for row in splits.test])
    looked_up = metrics.report(("bleu",), [memory[s] for s in nearest], right)
    return Outcome(
        metric="BLEU",
        found=estimates.bleu(own, right),
        trivial=Score("the English", copied["bleu"]),
        classical=Score("translation of the nearest sentence", looked_up["bleu"]),
        zero_shot=Score("the T5 as it was", untuned["bleu"]),
        wanted=f"{BLEU_MORE:g} above zero-shot",
        bound=untuned["bleu"] + BLEU_MORE,
        speed=tuned.speed,
        sizes=splits.sizes(),
        more={"chrF": found["chrf"], "chrF of zero-shot": untuned["chrf"]},
        notes=(
            "the file names no pages: the last tenth of its lines, which training does "
            "not have, is asked, without sentences that stand in both",
            str(found["bleu_signature"]),
        ),
    )


def descriptions(setting: Setting) -> Outcome:
    """The description of a lead of Wikipedia, in a few words."""
    if setting.quick:
        splits = _toy("red", "blue")
    else:
        rows = texts.packaged("wiki_leads/en", setting)
        held = texts.held_out(
            {k: [r for r in own if r["description"]] for k, own in rows.items()}
        ).map(lambda row: {"source": row["text"], "target": row["description"]})
        splits = texts.Splits(
            held.train, held.validation[:64], texts.some(held.test, ASKED)
        )
    config = _config("summarize: ", steps=60, batch=16, source=64, target=16)
    tuned, own, before = _written(setting, config, splits)
    right = [row["target"] for row in splits.test]
    leads = [row["source"] for row in splits.test]
    firsts = _rouge([*map(baselines.first_sentence, leads)], right)
    first = sum(firsts) / len(firsts)
    title = _rouge([" ".join(lead.split()[:6]) for lead in leads], right)
    asis = _rouge(before, right)
    return Outcome(
        metric="ROUGE-L",
        found=estimates.mean(_rouge(own, right)),
        trivial=Score("the first six words", sum(title) / len(title)),
        classical=Score("the first sentence", first),
        zero_shot=Score("the T5 as it was", sum(asis) / len(asis)),
        wanted="above the first sentence",
        bound=first,
        speed=tuned.speed,
        sizes=splits.sizes(),
        notes=("the T5 reads 64 tokens of a lead",),
    )


def _config(prefix: str, steps: int, batch: int, source: int, target: int) -> Any:
    config = text_to_text.get_config()
    config.task.prefix = prefix
    config.task.decoding.beams = 1
    config.task.decoding.max_new_tokens = 2 * target
    config.data.batch_size = batch
    config.data.encoder_seq_len, config.data.seq_len = source, target
    config.train.steps = steps
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule.warmup_steps = 20
    return config


def _written(
    setting: Setting, config: Any, splits: texts.Splits
) -> tuple[tuning.Tuned, list[str], list[str]]:
    """A trained model, its texts for the test rows, and those of before."""
    path = weights_lib.encoder_decoder(setting)
    tuned = tuning.tune(setting, config, splits, path)
    own, before = (
        [
            text
            for part in writing.predictions(tuned.program, params, tuned.batches)
            for text in part.values
        ]
        for params in (tuned.params, tuned.base)
    )
    return tuned, own, before


def _rouge(given: Sequence[str], right: Sequence[str]) -> list[float]:
    """ROUGE-L of each text."""
    pairs = zip(given, right, strict=True)
    return [metrics.report(("rouge",), [text], [r])["rougeL"] for text, r in pairs]


def _nearest(known: Sequence[str], asked: Sequence[str]) -> list[str]:
    """The nearest of the known sentences to each, by TF-IDF of pieces of words."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    pieces = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4))
    there = pieces.fit_transform(known)
    places = (pieces.transform(asked) @ there.T).argmax(axis=1)
    return [known[k] for k in np.asarray(places).ravel().tolist()]


def _help(file: Path) -> texts.Splits:
    with gzip.open(file, "rt", encoding="utf-8") as opened:
        lines = [line.rstrip("\n").split("\t") for line in opened]
    short = [
        {"source": en, "target": de}
        for en, de in lines
        if 10 <= len(en) <= ENGLISH and 10 <= len(de) <= GERMAN
    ]
    stop = len(short) * 9 // 10
    learned = texts.some(short[:stop], PAIRS + 64)
    seen = {row["source"] for row in short[:stop]}
    unseen = {r["source"]: r for r in short[stop:] if r["source"] not in seen}
    asked = texts.some([*unseen.values()], ASKED)
    return texts.Splits(learned[64:], learned[:64], asked)


def _toy(red: str, blue: str) -> texts.Splits:
    """Sentences on a colour, and its name."""
    word = {"red": red, "blue": blue}
    rows = [
        {"source": row["text"], "target": f"the {word[row['label']]}"}
        for row in toys.sentences(28, ("red", "blue"))
    ]
    return texts.Splits(rows[:16], rows[16:20], rows[20:])
