"""Confusion matrices as text, with names, and as numbers."""

import numpy as np

from llmjax.tasks.labelled.confusion import classification_report, confusion, table

NAMES = ("good", "so so", "bad")


def test_a_row_is_a_right_class_and_a_column_a_predicted_one():
    predicted, right = np.array([0, 0, 2, 1, 2]), np.array([0, 2, 2, 1, 0])
    report = classification_report(confusion(predicted, right, 3), NAMES)
    assert report["labels"] == ["good", "so so", "bad"]
    assert report["confusion"] == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    assert table(np.array(report["confusion"]), report["labels"]) == (
        "right \\ predicted   good  so so    bad  recall\n"
        "good                   1      0      1   0.500\n"
        "so so                  0      1      0   1.000\n"
        "bad                    1      0      1   0.500\n"
        "precision          0.500  1.000  0.500"
    )


def test_a_class_that_never_is_right_or_predicted_has_no_share():
    lines = table(np.diag([2, 0]), ["a", "b"]).splitlines()
    assert lines[2].split()[-1] == "-"
    assert lines[3].split() == ["precision", "1.000", "-"]


def test_many_classes_are_lines_and_their_commonest_mistakes():
    counts = np.diag(np.full(30, 5))
    counts[3, 7], counts[4, 2] = 9, 1
    names = [f"class {k} of a name that is long" for k in range(30)]
    lines = table(counts, names).splitlines()
    assert len(lines) == 1 + 30 + 2 and max(map(len, lines)) < 88
    assert lines[-2] == "9 of class 3 of a name t… taken for class 7 of a name t…"
    assert lines[4].split()[-3:] == ["14", "0.357", "1.000"]
