"""The suite of fine-tuning: two rows from end to end at toy size, and its parts."""

import json
import types
from pathlib import Path

import numpy as np
import pytest

from experiments.finetune_suite import baselines, estimates, texts
from experiments.finetune_suite.row import Estimate, Outcome, Score
from experiments.finetune_suite.rows import ROWS, chat, choices, retrieval, tags
from tests.experiments.forked import Mains

GOLDEN = Path(__file__).parents[1] / "goldens" / "bm25.json"


# --- from end to end -----------------------------------------------------------------


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The suite's main on two rows: one by labels, one by texts that are written."""
    place = tmp_path_factory.mktemp("suite")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        mains = Mains(place)
    flags = ("--quick", "--only=conll,descriptions", f"--workdir={place}/run")
    first = mains.run("finetune_suite", *flags)
    assert first.code == 0, first.err
    result = json.loads((place / "run" / "result.json").read_text())
    yield types.SimpleNamespace(
        mains=mains, folder=place / "run", flags=flags, first=first, result=result
    )
    mains.close()


@pytest.mark.slow
def test_rows_train_and_stand_beside_their_baselines(ran):
    by_name = {row["name"]: row for row in ran.result["rows"]}
    assert [*by_name] == ["conll", "descriptions"]
    for row in by_name.values():
        found = row["found"]
        assert 0 <= found["low"] <= found["value"] <= found["high"] <= 1
        assert row["speed"]["steps"] == 2 and row["speed"]["tokens_per_second"] > 0
        assert 0 < row["speed"]["filled"] <= 1 and row["seconds"] > 0
    assert by_name["conll"]["classical"]["value"] == 1.0  # the words say it
    assert by_name["descriptions"]["zero_shot"] is not None
    page = (ran.folder / "suite.md").read_text()
    assert "| conll | F1 of entities |" in page and "Toy sizes" in page
    assert page.splitlines()[6] in ran.first.out


@pytest.mark.slow
def test_a_row_that_is_done_is_not_run_again(ran):
    """And one that was cut off goes on from its checkpoint."""
    (ran.folder / "descriptions" / "row.json").unlink()
    again = ran.mains.run("finetune_suite", *ran.flags)
    assert again.code == 0, again.err
    assert "finetune_suite: conll, done before" in again.out
    assert "this run is finished, step 2 of 2" in again.out  # trained once
    rows = json.loads((ran.folder / "result.json").read_text())["rows"]
    before = ran.result["rows"]
    assert rows[0] == before[0] and rows[1]["found"] == before[1]["found"]
    assert rows[1]["notes"][-1].startswith("it was cut off")


@pytest.mark.slow
def test_mistakes_are_said_in_a_line(ran, tmp_path):
    for flags, says in (
        (("--only=films,trek", f"--workdir={tmp_path}"), "--only names trek; accepted"),
        (ran.flags[1:], "is of a run at quick size and this is at full size"),
    ):
        done = ran.mains.run("finetune_suite", *flags)
        assert done.code == 2 and says in done.err, done.err


@pytest.mark.slow
def test_a_row_without_its_files_is_left_out_with_a_word(ran, tmp_path):
    flags = "--only=squad", f"--data={tmp_path}", f"--workdir={tmp_path}/run"
    done = ran.mains.run("finetune_suite", *flags)
    assert done.code == 0 and f"{tmp_path}/squad is not there" in done.out
    assert "left out" in (tmp_path / "run" / "suite.md").read_text()


def test_rows_have_names_of_their_own():
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names) and all(n.isidentifier() for n in names)


# --- estimates -----------------------------------------------------------------------


def test_an_interval_is_that_of_the_normal_law_where_rows_are_many():
    hits = np.random.default_rng(0).random(4000) < 0.8
    found = estimates.mean(hits)
    error = 1.96 * np.sqrt(found.value * (1 - found.value) / len(hits))
    assert found.value == pytest.approx(hits.mean())
    assert found.high - found.value == pytest.approx(error, rel=0.1)
    assert found.value - found.low == pytest.approx(error, rel=0.1)


def test_a_ratio_is_of_sums_and_a_shape_is_put_on_all_three():
    found = estimates.ratio([1, 0, 3, 2] * 50, [2, 1, 3, 4] * 50)
    assert found.value == pytest.approx(0.6) and found.low < 0.6 < found.high
    grown = estimates.ratio([1, 0, 3, 2] * 50, [2, 1, 3, 4] * 50, np.exp)
    for name in ("value", "low", "high"):
        own = getattr(found, name)
        assert getattr(grown, name) == pytest.approx(np.exp(own))


def test_bleu_of_all_rows_is_sacrebleus():
    sacrebleu = pytest.importorskip("sacrebleu")
    rng = np.random.default_rng(0)
    right = [" ".join(rng.choice([*"abcde"], 8)) for _ in range(40)]
    cut = (row.split()[: 4 + k % 4] for k, row in enumerate(right))
    said = [" ".join([*words, "x"]) for words in cut]
    found = estimates.bleu(said, right)
    assert found.value == pytest.approx(sacrebleu.corpus_bleu(said, [right]).score)
    assert found.low <= found.value <= found.high and found.low < found.high


# --- baselines -----------------------------------------------------------------------


def test_bm25_is_that_of_bm25s():
    golden = json.loads(GOLDEN.read_text())
    scores = baselines.bm25(golden["documents"], golden["queries"])
    np.testing.assert_allclose(scores, golden["scores"], rtol=1e-5, atol=1e-6)
    assert scores[:3].max(axis=1).all()


def test_a_word_has_its_commonest_tag():
    train = [(["a", "Bonn", "a"], ["O", "B-LOC", "O"]), (["Bonn"], ["B-PER"])]
    train.append((["Bonn"], ["B-LOC"]))
    assert baselines.lookup_tags(train, [["Bonn", "new"]]) == [["B-LOC", "O"]]


def test_a_window_answers_beside_the_words_of_the_question():
    text = "Anna wrote a book in Ulm. The old bridge of Bonn was built by Karl Stein."
    asked = "Who built the old bridge?"
    assert baselines.sliding_window(asked, text) == "Bonn"
    text = (
        "Ulm has a tower that nobody would like to climb. It was built by Karl Stein."
    )
    assert baselines.sliding_window("Who was it built by?", text) == "Karl Stein"
    assert baselines.sliding_window("a?", "a a") == ""


def test_a_sentence_ends_where_another_begins():
    assert baselines.first_sentence("It is 3.5 m (J. S. Bach). Then.") == (
        "It is 3.5 m (J. S. Bach)."
    )
    assert baselines.first_sentence("no end") == "no end"


def test_tokens_cost_what_their_frequency_says():
    nats = baselines.unigram_nats([[0, 0], [1]], 3)
    np.testing.assert_allclose(np.exp(-nats), [3 / 6, 2 / 6, 1 / 6])


# --- rows ----------------------------------------------------------------------------


def test_entities_are_counted_sentence_by_sentence():
    right = [["B-PER", "I-PER", "O"], ["O", "B-LOC", "O"]]
    said = [["B-PER", "O", "B-LOC"], ["O", "B-LOC", "O"]]
    assert tags.entity_counts(right, said).tolist() == [[0, 2, 1], [1, 1, 1]]


def test_a_title_says_nothing_of_its_lead():
    text = "The Red Tower (Bonn) is a tower. red towers of Bonn"
    assert retrieval.masked(text, "Red Tower (Bonn)") == (
        "The it is a it. red towers of Bonn"
    )


def test_ranks_by_scores_are_those_of_vectors():
    rng = np.random.default_rng(0)
    queries, docs = rng.normal(size=(5, 8)), rng.normal(size=(30, 8))
    docs /= np.linalg.norm(docs, axis=1, keepdims=True)
    relevant = [np.array([k, 3 * k + 10]) for k in range(5)]
    own = retrieval._ndcg(np.float32(queries), np.float32(docs), relevant)
    np.testing.assert_allclose(own, retrieval._ndcg_of(queries @ docs.T, relevant))
    assert own.min() < own.max()


def test_a_chat_begins_with_a_question_and_ends_with_an_answer():
    (talk,) = [chat.talk("\n".join("abcde"))]
    roles = [m["role"] for m in talk["messages"]]
    assert roles == ["user", "assistant"] * 2
    assert chat.talk("a\nb\nc") is None
    long = chat.talk("\n".join(["a", "b", "c", "d", "e" * 300, "f" * 300, "g"]))
    assert [m["content"] for m in long["messages"]] == [*"abcd"]


def test_the_right_choice_stands_where_the_label_says():
    rows = [{"text": str(k), "description": "abcdef"[k % 6]} for k in range(12)]
    made = choices.with_others(rows)
    assert {row["label"] for row in made} == {0, 1, 2, 3}
    for row, own in zip(made, rows, strict=True):
        assert row["choices"][row["label"]] == own["description"]
        assert len(set(row["choices"])) == 4


def test_what_is_watched_is_not_learned():
    rows = {"train": [{"n": k} for k in range(80)], "test": [{"n": -1}]}
    splits = texts.held_out(rows | {"validation": [{"n": -2}]})
    numbers = {row["n"] for row in splits.train} | {r["n"] for r in splits.validation}
    assert len(splits.train) == 70 and numbers == {*range(80)}
    assert [row["n"] for row in splits.test] == [-2, -1]


def test_a_bound_is_met_from_its_side():
    about = {"metric": "m", "trivial": Score("t", 0.0), "classical": None}
    about |= {"zero_shot": None, "wanted": "w", "speed": {}, "sizes": {}}
    found = Estimate(0.5, 0.4, 0.6)
    assert Outcome(found=found, bound=0.5, **about).met
    assert not Outcome(found=found, bound=0.51, **about).met
    assert not Outcome(found=found, bound=0.49, lower=True, **about).met
    kept = {"required": {"64 numbers keep 95%": False}}
    assert not Outcome(found=found, bound=0.5, more=kept, **about).met
