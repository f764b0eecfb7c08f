"""The quickstart's results: as JSON, as a page, and as lines for the terminal."""

import json
import re
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath

# Baseline -> the most that `end` may be, as a share of it.
BOUNDS = {"xz": 0.9, "unigram": 0.75}
PICTURES = {
    "pretraining.png": "bits per byte and learning rate of pretraining, by step",
    "finetuning.png": "accuracy and learning rate of fine-tuning, by step",
    "confusion.png": "which class was taken for which",
}
_BITS = {  # key of bits_per_byte -> (name, description)
    "start": ("model, before training", "random weights"),
    "unigram": ("unigram", "knows each token's frequency in the training text"),
    "xz": ("xz -9e", "compresses the held-out text alone"),
    "end": ("model, trained", "has read the training text"),
    "xz_given_train": (
        "xz -9e after the training text",
        "may copy from all of it, each passage to the letter",
    ),
}
_CLASSIFIERS = {  # key of finetune -> name
    "majority": "majority class",
    "scratch": "from scratch, the same network",
    "tfidf": "TF-IDF, logistic regression",
    "tfidf_all": "TF-IDF on all texts, logistic regression",
}

# key of finetune -> classifier on the same labelled texts, which fine-tuning must beat
RIVALS = {
    "scratch": "the same network from scratch",
    "tfidf": "TF-IDF on the same texts",
}

Report = Mapping[str, Any]


def write(report: Report, folder: epath.PathLike) -> None:
    """Writes `report.json`, and `report.md` with the `PICTURES` that the folder has."""
    folder = epath.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pictures = [name for name in PICTURES if (folder / name).exists()]
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    (folder / "report.md").write_text(markdown(report, pictures))


def requirements(report: Report) -> list[str]:
    """The requirements that the results miss, one line each; empty when all hold."""
    bits, tuned = report["bits_per_byte"], report["finetune"]
    unmet = [
        f"bits per byte at the end, {bits['end']:.3f}, are more than {share} × {other} "
        f"({bits[other]:.3f}), which is {share * bits[other]:.3f}"
        for other, share in BOUNDS.items()
        if not bits["end"] <= share * bits[other]
    ]
    margin = tuned["spread"] or 0.0
    more = f" by more than the spread over seeds, {margin:.3f}" if margin else ""
    for key, other in RIVALS.items():
        accuracy = tuned[key]["accuracy"]
        if not tuned["accuracy"] - accuracy > margin:
            unmet.append(
                f"fine-tuned accuracy, {tuned['accuracy']:.3f}, does not beat that of "
                f"{other}, {accuracy:.3f}{more}"
            )
    return unmet


def summary(report: Report) -> str:
    """The results in about a dozen lines for a terminal."""
    bits, tuned = report["bits_per_byte"], report["finetune"]
    sample = report["sample"]
    lines = [
        ("corpus", _corpus(report)),
        ("model", _model(report)),
        ("bits per byte", f"{bits['start']:.3f} -> {bits['end']:.3f} held out"),
        (
            "  to compare",
            f"unigram {bits['unigram']:.3f}, xz -9e {bits['xz']:.3f}, "
            f"after the training text {bits['xz_given_train']:.3f}",
        ),
        (
            "fine-tuned",
            f"on {tuned['texts']:,} labelled texts: accuracy {_accuracy(tuned)}, "
            f"macro-F1 {tuned['macro_f1']:.3f}",
        ),
        (
            "  to compare",
            ", ".join(
                f"{name.partition(', ')[0]} {tuned[key]['accuracy']:.3f}"
                for key, name in _CLASSIFIERS.items()
                if key != "tfidf_all"
            ),
        ),
        (
            "",
            f"TF-IDF on all {tuned['tfidf_all']['texts']:,} texts "
            f"{tuned['tfidf_all']['accuracy']:.3f}",
        ),
        ("speed", _speed(report)),
        ("peak memory", _gib(report["peak_memory_bytes"])),
        ("time", _duration(report["seconds"]["total"])),
        ("prompt", _one_line(sample["prompt"])),
        ("  goes on", _one_line(sample["text"])),
    ]
    unmet = requirements(report) or ["all met"]
    lines += [("required" if k == 0 else "", text) for k, text in enumerate(unmet)]
    return "\n".join(f"{name:<14}{text}".rstrip() for name, text in lines)


def markdown(report: Report, pictures: Iterable[str] = ()) -> str:
    """The page; `pictures` are keys of `PICTURES`, as files beside the page."""
    images = {name: f"![{PICTURES[name]}]({name})" for name in pictures}
    tuned, sample = report["finetune"], report["sample"]
    seeds = (
        f"{tuned['seeds']} seeds" if tuned["seeds"] > 1 else "one seed, so no spread"
    )
    unmet = requirements(report)
    verdict = "Everything required holds." if not unmet else "**Not as required:**"
    parts = [
        "# Pretrained, fine-tuned and generating, on this machine",
        f"{_model(report)}; {_corpus(report)}.",
        "\n".join([verdict, *(f"- {text}" for text in unmet)]),
        "## Pretraining",
        f"{report['steps']:,} steps over {report['tokens']:,} tokens. Bits per byte of "
        "held-out text, fewer are better:",
        _bits_table(report["bits_per_byte"]),
        images.get("pretraining.png"),
        "## Fine-tuning: which package is a docstring from?",
        "First the model learns, without labels, which two halves are of one text. "
        "Package names are masked in the text. "
        f"{tuned['texts']:,} labelled texts, drawn at random; "
        f"{tuned['steps']:,} steps at learning rate {tuned['learning_rate']:g}, "
        f"{seeds}. On the test documents:",
        _classifier_table(tuned),
        _tried(tuned["scratch"]),
        images.get("finetuning.png"),
        images.get("confusion.png"),
        "## A sample",
        "A prompt, and what the pretrained model samples after it:",
        _block(sample["prompt"]),
        _block(sample["text"]),
        "## Cost",
        _table(("", ""), _cost(report), "lr"),
        _table(("stage", "time"), _stages(report["seconds"]), "lr"),
        "MFU is the share of the matmul peak that the model's arithmetic reaches in "
        "training. On a CPU the peak is the best float32 matmul measured in the same "
        "run, on an accelerator the published one.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _bits_table(bits: Mapping[str, float]) -> str:
    rows = []
    for key, (name, meaning) in _BITS.items():
        share = f"{bits['end'] / bits[key]:.2f}" if key != "end" else ""
        if key in BOUNDS:
            holds = "holds" if bits["end"] <= BOUNDS[key] * bits[key] else "**fails**"
            bound = f"at most {BOUNDS[key]}: {holds}"
        else:
            bound = ""
        number = f"**{bits[key]:.3f}**" if key == "end" else f"{bits[key]:.3f}"
        rows.append((name, number, meaning, share, bound))
    header = ("", "bits per byte", "what it is", "trained / this", "required")
    return _table(header, rows, "lrlrl")


def _classifier_table(tuned: Mapping[str, Any]) -> str:
    rows = [
        (
            "**fine-tuned**",
            f"{tuned['texts']:,}",
            f"**{_accuracy(tuned)}**",
            f"**{tuned['macro_f1']:.3f}**",
        )
    ]
    for key, name in _CLASSIFIERS.items():
        of = tuned[key]
        scores = f"{of['accuracy']:.3f}", f"{of['macro_f1']:.3f}"
        rows.append((name, f"{of['texts']:,}", *scores))
    return _table(("", "labelled texts", "accuracy", "macro-F1"), rows, "lrrr")


def _tried(scratch: Mapping[str, Any]) -> str:
    """The learning rates of the network from scratch, with validation accuracies."""
    tried = ", ".join(
        f"{one['learning_rate']:g} ({one['validation_accuracy']:.3f})"
        for one in scratch["tried"]
    )
    return (
        "From scratch, the same network takes as many steps, at the learning rate that "
        f"did best on the validation documents, {scratch['learning_rate']:g}. "
        f"Tried, with validation accuracy: {tried}."
    )


def _cost(report: Report) -> list[tuple[str, str]]:
    machine = report["environment"]
    return [
        ("tokens per second, training", f"{report['tokens_per_second']:,.0f}"),
        ("MFU", f"{report['mfu']:.3f}"),
        ("MFU, causal attention counted as half", f"{report['mfu_causal']:.3f}"),
        ("matmul peak that MFU refers to", _rate(report["matmul_peak_flops"])),
        ("peak memory", _gib(report["peak_memory_bytes"])),
        ("machine", f"{machine['platform']}, {machine['cpu_count']} CPU cores"),
        (
            "software",
            f"Python {machine['python']}, jax {machine['jax']}, flax {machine['flax']}",
        ),
    ]


def _stages(seconds: Mapping[str, float]) -> list[tuple[str, str]]:
    """The time of each stage in the order of running, the total last."""
    rows = [(k, _duration(v)) for k, v in seconds.items() if k != "total"]
    return [*rows, ("**total**", f"**{_duration(seconds['total'])}**")]


def _corpus(report: Report) -> str:
    corpus = report["corpus"]
    return (
        f"{corpus['name']}: {corpus['documents']:,} documents, "
        f"{corpus['bytes'] / 1e6:.1f} MB"
    )


def _model(report: Report) -> str:
    """The number of parameters, then the model's other numbers."""
    model = report["model"]
    rest = [
        f"{_plain(k)} {v:,}" if isinstance(v, int) else f"{_plain(k)} {v}"
        for k, v in model.items()
        if k != "parameters"
    ]
    return ", ".join([f"{model['parameters'] / 1e6:.2f} M parameters", *rest])


def _speed(report: Report) -> str:
    return (
        f"{report['tokens_per_second']:,.0f} tokens/s, MFU {report['mfu']:.2f} "
        f"({report['mfu_causal']:.2f} causal) of {_rate(report['matmul_peak_flops'])}"
    )


def _accuracy(tuned: Mapping[str, Any]) -> str:
    spread = "" if tuned["spread"] is None else f" (spread {tuned['spread']:.3f})"
    return f"{tuned['accuracy']:.3f}{spread}"


def _plain(key: str) -> str:
    return key.replace("_", " ")


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"


def _rate(flops: float) -> str:
    return f"{flops / 1e9:,.0f} GFLOP/s"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s"


def _one_line(text: str, width: int = 70) -> str:
    return textwrap.shorten(text, width, placeholder=" …")


def _block(text: str) -> str:
    """A code block, fenced by more backticks than any run of them in the text."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"


def _table(header: Iterable[str], rows: Iterable[Iterable[str]], align: str) -> str:
    """A Markdown table; `align` has one letter per column, l or r."""
    rule = [{"l": ":---", "r": "---:"}[a] for a in align]
    lines = [header, rule, *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
