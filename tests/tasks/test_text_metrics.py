"""Metrics of texts are those of the libraries that define them."""

import math

import pytest

from llmjax.tasks.supervised import metrics

TEXTS = ["the cat sat on the mat", "a dog ran far away home"]
RIGHT = ["the cat is on the mat", "the dog ran away"]


def test_exact_match_and_f1_are_means_over_texts():
    texts, right = [*TEXTS, "The end."], [*RIGHT, "end"]
    report = metrics.report(("exact_match", "f1"), texts, right)
    assert report["texts"] == 3 and report["exact_match"] == pytest.approx(1 / 3)
    # 4 of 5 and 5 words, articles aside: 3 of 4 and 4; 3 of 5 and 3; 1 of 1
    assert report["f1"] == pytest.approx((3 / 4 + 2 * 3 / 8 + 1) / 3)


def test_bleu_and_chrf_are_sacrebleu_s_with_their_signatures():
    report = metrics.report(("bleu", "chrf"), TEXTS, RIGHT)
    # words of 1 to 4: 8 of 12, 4 of 10, 1 of 8, then 0 of 6 as 1 of 12; none is short
    precisions = [8 / 12, 4 / 10, 1 / 8, 1 / 12]
    expected = 100 * math.prod(precisions) ** (1 / 4)
    assert report["bleu"] == pytest.approx(expected, abs=1e-4)
    assert report["chrf"] == pytest.approx(55.301869, abs=1e-5)
    assert "|tok:13a|smooth:exp|version:" in report["bleu_signature"]
    assert "|nc:6|nw:0|" in report["chrf_signature"]
    assert report["bleu_signature"] in metrics.describe(report)
    assert metrics.report(("bleu", "chrf"), RIGHT, RIGHT)["bleu"] == pytest.approx(100)


def test_rouge_is_the_mean_f_measure():
    report = metrics.report(("rouge",), TEXTS, RIGHT)
    # single words: 5 of 6 and 6; 3 of 6 and 4
    assert report["rouge1"] == pytest.approx((5 / 6 + 2 * 3 / 10) / 2)
    assert report["rougeL"] == report["rougeLsum"] == report["rouge1"]
    assert report["rouge2"] == pytest.approx((3 / 5 + 2 * 1 / 8) / 2)
    stems = metrics.report(("rouge",), ["cats running"], ["cat runs"])
    assert stems["rouge1"] == 1


def test_nothing_written_is_nothing():
    report = metrics.report(("exact_match", "f1", "bleu", "rouge"), [], [])
    assert {report[k] for k in ("texts", "exact_match", "f1", "bleu", "rouge1")} == {0}


@pytest.mark.parametrize("name", ["bleu", "chrf", "rouge"])
def test_a_library_that_is_absent_is_named_with_the_extra(name, monkeypatch):
    def absent(module):
        raise ModuleNotFoundError(name=module.partition(".")[0])

    monkeypatch.setattr(metrics.importlib, "import_module", absent)
    with pytest.raises(ValueError, match=rf"'{name}'.*pip install 'llmjax\[eval\]'"):
        metrics.check(("f1", name))
    metrics.check(("f1", "exact_match"))
