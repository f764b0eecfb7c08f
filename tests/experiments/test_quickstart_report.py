"""Baselines against values derived by hand; the pictures; the report's verdict."""

import copy
import json
import lzma
import math
import struct

import numpy as np
import pytest

from experiments.quickstart import baselines, plots, report, stages
from llmjax.data.store import tokens

RESULT = {
    "bits_per_byte": {
        "start": 6.5,
        "end": 1.5,
        "unigram": 2.7,
        "xz": 1.9,
        "xz_given_train": 1.3,
    },
    "finetune": {
        "accuracy": 0.84,
        "macro_f1": 0.81,
        "learning_rate": 5e-4,
        "steps": 150,
        "seeds": 1,
        "spread": None,
        "texts": 400,
        "majority": {"accuracy": 0.23, "macro_f1": 0.03, "texts": 400},
        "tfidf": {"accuracy": 0.73, "macro_f1": 0.69, "texts": 400},
        "tfidf_all": {"accuracy": 0.91, "macro_f1": 0.89, "texts": 12345},
        "scratch": {
            "texts": 400,
            "accuracy": 0.61,
            "macro_f1": 0.52,
            "learning_rate": 1e-3,
            "tried": [
                {"learning_rate": 3e-4, "validation_accuracy": 0.55},
                {"learning_rate": 1e-3, "validation_accuracy": 0.625},
            ],
        },
    },
    "tokens_per_second": 12345.6,
    "mfu": 0.41,
    "mfu_causal": 0.38,
    "matmul_peak_flops": 4.2e11,
    "peak_memory_bytes": 3 * 2**29,
    "seconds": {"prepare": 30.25, "pretrain": 179.8, "total": 210.05},
    "sample": {"prompt": "Return the sum", "text": " of ```the```\n\n| array"},
    "model": {"parameters": 4_200_000, "layers": 4, "d_model": 256},
    "corpus": {"name": "docs", "documents": 1234, "bytes": 15_100_000},
    "steps": 800,
    "tokens": 1_638_400,
    "environment": {
        "python": "3.11.7",
        "jax": "0.10.2",
        "flax": "0.12.8",
        "platform": "cpu",
        "cpu_count": 2,
    },
}


def changed(**values):
    """RESULT with `a__b=value` put at ["a"]["b"]."""
    result = copy.deepcopy(RESULT)
    for path, value in values.items():
        *folders, last = path.split("__")
        place = result
        for name in folders:
            place = place[name]
        place[last] = value
    return result


def test_xz_is_the_size_of_the_xz_file():
    texts = ["The first text, and the first one only.", "é: two bytes. " * 9]
    joined = "\n".join(texts).encode()
    file = lzma.compress(joined, preset=9 | lzma.PRESET_EXTREME)
    found = baselines.xz_bits_per_byte(["something else"], iter(texts))
    assert found["xz"] == 8 * len(file) / len(joined)


def test_xz_given_train_reaches_back_to_what_it_has_seen():
    texts = [f"{n * n} is the square of {n}." for n in range(300)]
    found = baselines.xz_bits_per_byte(texts, texts)
    assert found["xz_given_train"] < 0.1 * found["xz"]
    other = baselines.xz_bits_per_byte(["".join(map(chr, range(300)))], texts)
    assert other["xz_given_train"] > 0.8 * other["xz"]


def test_unigram_by_hand():
    """Train: token 0 three times, 1 once, two ends: 6 symbols, and one more for each of
    the three makes 9: p(0) = 4/9, p(1) = 2/9, p(end) = 3/9. Held out: 0, 1, 1, end, of
    2 + 3 + 3 bytes."""
    train = tokens.from_documents([[0, 0], [0, 1]], [-1, -1])
    held_out = tokens.from_documents([[0, 1, 1]], [-1], token_bytes=np.array([2, 3]))
    bits = math.log2(9 / 4) + 2 * math.log2(9 / 2) + math.log2(9 / 3)
    found = baselines.unigram_bits_per_byte(train, held_out, 2)
    assert found == pytest.approx(bits / 8, rel=1e-12)


def test_majority_by_hand():
    """Always 1: right in 3 of 5; the F1 of class 1 is 2 * 3 / (5 + 3), others' 0."""
    found = baselines.majority([0, 1, 1, 2, 1], [1, 0, 1, 2, 1])
    assert found["accuracy"] == pytest.approx(3 / 5)
    assert found["macro_f1"] == pytest.approx((6 / 8) / 3)


def test_tfidf_reads_words():
    texts = ["a plot with axes", "an array of floats", "a plot of lines", "array shape"]
    found = baselines.tfidf(
        texts * 8, [0, 1, 0, 1] * 8, ["draw a plot", "this array"], [0, 1]
    )
    assert found == {"accuracy": 1.0, "macro_f1": 1.0}


def png_size(path):
    """Width and height in pixels, from the header."""
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:24])


def test_curves_are_a_png_with_or_without_rows(tmp_path):
    rows = [{"step": 0, "eval/bits_per_byte": 6.0}]
    rows += [
        {"step": s, "train/bits_per_byte": 6 / s, "train/learning_rate": 1e-3 / s}
        for s in range(1, 9)
    ]
    references = {"xz": 1.9, "unigram": 1.91}
    for name, some in (("rows", rows), ("nothing", [])):
        plots.curves(some, tmp_path / f"{name}.png", references=references)
        width, height = png_size(tmp_path / f"{name}.png")
        assert (width, height) == (round(8 * plots.DPI), round(5.6 * plots.DPI))
    assert len({p.read_bytes() for p in tmp_path.iterdir()}) == 2


def test_names_of_lines_that_are_close_stand_apart():
    figure, axes = plots.plt.subplots()
    axes.set_ylim(0, 2)
    plots._name_lines(axes, {"b": 1.91, "a": 1.9, "c": 0.1})
    heights = {text.get_text()[-1]: text.get_position()[1] for text in axes.texts}
    assert heights["c"] == pytest.approx(0.05) and heights["a"] == pytest.approx(0.95)
    assert heights["b"] - heights["a"] >= 0.05
    plots.plt.close(figure)


@pytest.mark.parametrize("names", [["x", "a_long_name", "y"], ["x"]])
def test_confusion_is_a_png(tmp_path, names):
    plots.confusion([[5, 1, 0], [0, 0, 0], [2, 0, 9]], names, tmp_path / "c.png")
    width, height = png_size(tmp_path / "c.png")
    assert width > 300 and height > 300


def test_the_report_is_written_as_json_and_as_a_page(tmp_path):
    (tmp_path / "confusion.png").write_bytes(b"")
    report.write(RESULT, tmp_path)
    assert json.loads((tmp_path / "report.json").read_text()) == RESULT
    page = (tmp_path / "report.md").read_text()
    assert "](confusion.png)" in page and "](pretraining.png)" not in page
    for shown in ("1.500", "0.840", "0.610", "0.730", "0.910", "12,345", "12,346"):
        assert shown in page
    for shown in (
        "420 GFLOP/s",
        "1.50 GiB",
        "3 min 30 s",
        "4.20 M parameters",
        "0.001 (0.625)",
    ):
        assert shown in page
    assert "````text\n of ```the```\n\n| array\n````" in page
    assert "Everything required holds." in page and "fails" not in page


def test_tables_have_as_many_cells_in_every_row():
    rows = [r for r in report.markdown(RESULT).splitlines() if r.endswith("|")]
    tables = {2: 0, 4: 0, 5: 0}
    for row in rows:
        tables[row.count("|") - 1] += 1
    assert tables[5] == 2 + 5 and tables[4] == 2 + 5


def test_all_required_holds():
    assert report.requirements(RESULT) == []
    assert "all met" in report.summary(RESULT)


@pytest.mark.parametrize(
    "values, says",
    [
        ({"bits_per_byte__end": 1.72}, "0.9 × xz"),
        ({"bits_per_byte__unigram": 1.9}, "0.75 × unigram"),
        ({"bits_per_byte__end": math.nan}, "0.9 × xz"),
        ({"finetune__scratch__accuracy": 0.84}, "from scratch"),
        ({"finetune__tfidf__accuracy": 0.85}, "TF-IDF on the same texts"),
        ({"finetune__spread": 0.25}, "spread over seeds"),
    ],
)
def test_unmet_requirements_are_in_the_summary_and_the_page(values, says):
    result = changed(**values)
    assert any(says in line for line in report.requirements(result))
    assert says in report.summary(result)
    page = report.markdown(result)
    assert says in page and "Everything required holds." not in page


def test_the_bounds_themselves_hold():
    result = changed(bits_per_byte__xz=2.0, bits_per_byte__end=0.9 * 2.0)
    assert report.requirements(result) == []


def test_summary_fits_a_terminal():
    lines = report.summary(changed(sample__text="word " * 99)).splitlines()
    assert 10 <= len(lines) <= 15
    assert max(map(len, lines)) <= 100


def test_every_classifier_reads_the_same_few_texts():
    """A random choice without repetition, of all where there are no more."""
    places = stages.few(50, 8).tolist()
    assert len(set(places)) == 8 and max(places) < 50 and places != sorted(places)
    assert places == stages.few(50, 8).tolist()
    assert sorted(stages.few(5, 8).tolist()) == [*range(5)]
