"""Preferences from files: pairs and judged answers, mistakes, what is left out."""

import dataclasses
import json

import numpy as np
import pytest

from llmjax.config import (
    DPO,
    KTO,
    Bytes,
    DataConfig,
    Preference,
    RewardModel,
    RunConfig,
    TokenizerFile,
)
from llmjax.data.batches.pipeline import Pipeline
from llmjax.data.prepare import prepare
from llmjax.tasks.registry import TASKS, make_task
from tests.data.test_answers import of

PAIRS = [
    {"prompt": "Say a.", "chosen": " a", "rejected": " bb", "margin": 1.5},
    {"prompt": "Say c.", "chosen": " ccc", "rejected": " d", "margin": 0.0},
    {"prompt": "Say e.", "chosen": " e" + "e" * 30, "rejected": " f", "margin": 1.0},
]
JUDGED = [
    {"prompt": "Say a.", "completion": " a", "label": True},
    {"prompt": "Say c.", "completion": " d", "label": False},
]


def run_of(tmp_path, tiny, task, rows, name="train.jsonl"):
    file = tmp_path / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = DataConfig(
        source=str(file),
        directory=str(tmp_path / "cache"),
        tokenizer=Bytes(),
        seq_len=24,
        batch_size=4,
        packing="pad",
    )
    whole = dataclasses.replace(data.prepare, validation=0.0, test=0.0)
    data = dataclasses.replace(data, prepare=whole)
    data = TASKS[type(task)].with_columns(task, data, said=False)
    model = dataclasses.replace(tiny, vocab_size=512)
    return RunConfig(model, task, data)


def bound(tmp_path, tiny, task, rows):
    run = run_of(tmp_path, tiny, task, rows)
    corpus = prepare.prepare(run.data)
    return make_task(run, corpus.tokenizer), corpus


def batch_of(task, source):
    pipeline = Pipeline(source, task.features, task.run.data, task.length)
    return next(pipeline.evaluation())


def answers(task, corpus, batch, prefix=""):
    """The texts of the prompts, and of what is predicted behind them."""
    decode, texts = corpus.tokenizer.decode, []
    for k in range(int(batch["valid"].sum())):
        real = batch[f"{prefix}segment_ids"][k] > 0
        weights = batch[f"{prefix}weights"][k][real] > 0
        tokens = batch[f"{prefix}tokens"][k][real]
        targets = batch[f"{prefix}targets"][k][real]
        assert tokens[0] == corpus.tokenizer.bos_id
        np.testing.assert_array_equal(tokens[1:], targets[:-1])
        texts.append((decode(targets[~weights]), decode(targets[weights])))
    return texts


def test_pairs_are_rows_of_two_streams(tmp_path, tiny):
    task, corpus = bound(tmp_path, tiny, Preference(), PAIRS)
    source = task.source(corpus, "train")
    assert (len(source), source.cut) == (3, 1)
    batch = batch_of(task, source)
    assert batch["valid"].tolist() == [1, 1, 1, 0]
    chosen = answers(task, corpus, batch)
    assert chosen[:2] == [("Say a.", " a"), ("Say c.", " ccc")]
    assert chosen[2][1] == " e" + "e" * 16  # 24 places, of which six ask
    rejected = answers(task, corpus, batch, "other_")
    assert [answer for _, answer in rejected] == [" bb", " d", " f"]
    ends = batch["other_targets"][0][batch["other_segment_ids"][0] > 0][-1]
    assert ends == corpus.tokenizer.eos_id


def test_judged_answers_have_labels(tmp_path, tiny):
    task, corpus = bound(tmp_path, tiny, Preference(KTO()), JUDGED)
    batch = batch_of(task, task.source(corpus, "train"))
    assert batch["label"].tolist() == [1, 0, 0, 0] and batch["valid"].sum() == 2
    assert answers(task, corpus, batch) == [("Say a.", " a"), ("Say c.", " d")]


@pytest.mark.parametrize("truths", [("true", "false"), (1, 0), ("TRUE", 0)])
def test_labels_are_true_and_false_or_numbers(truths, tmp_path, tiny):
    rows = [row | {"label": t} for row, t in zip(JUDGED, truths, strict=True)]
    task, corpus = bound(tmp_path, tiny, Preference(KTO()), rows)
    source = task.source(corpus, "train")
    assert [int(source[k]["label"]) for k in range(2)] == [1, 0]


def test_pairs_are_judged_answers_too(tmp_path, tiny):
    task, corpus = bound(tmp_path, tiny, Preference(KTO()), PAIRS[:2])
    source = task.source(corpus, "train")
    assert source.lengths.tolist() == [8, 9, 10, 8]
    batch = batch_of(task, source)
    assert batch["label"].tolist() == [1, 0, 1, 0]
    found = [answer for _, answer in answers(task, corpus, batch)]
    assert found == [" a", " bb", " ccc", " d"]


@pytest.mark.parametrize(
    ("rows", "kept"), [(PAIRS, True), ([{**row, "prompt": "x"} for row in PAIRS], True)]
)
def test_a_reward_models_rows_are_texts_between_specials(rows, kept, tmp_path, tiny):
    task, corpus = bound(tmp_path, tiny, RewardModel(), rows)
    batch = batch_of(task, task.source(corpus, "train"))
    assert batch["margin"].tolist() == [1.5, 0.0, 1.0, 0.0]
    tokenizer = corpus.tokenizer
    for k, row in enumerate(rows):
        for name, prefix in (("chosen", ""), ("rejected", "other_")):
            real = batch[f"{prefix}segment_ids"][k] > 0
            tokens = batch[f"{prefix}tokens"][k][real]
            assert tokens[0] == tokenizer.bos_id and tokens[-1] == tokenizer.eos_id
            whole = row["prompt"] + row[name]
            assert whole.startswith(tokenizer.decode(tokens)) == kept


def test_rows_are_asked_as_those_that_were_learned_from(tmp_path, tiny):
    for task in (Preference(), RewardModel()):
        made, corpus = bound(tmp_path, tiny, task, PAIRS)
        learned = batch_of(made, made.source(corpus, "train"))
        asked = made.questions(
            [{"prompt": r["prompt"], "completion": r["chosen"]} for r in PAIRS]
        )
        assert asked.cut == 1
        rows = batch_of(made, made.examples(asked))
        for name, values in rows.items():
            np.testing.assert_array_equal(values, learned[name], name)


def test_other_names_of_columns_are_found(tmp_path, tiny):
    rows = [{"Question": "a", "response": "b", "label": 1, "id": 3}] * 2
    run = run_of(tmp_path, tiny, Preference(KTO()), rows)
    fields = {f.name: f.column for f in run.data.prepare.fields}
    assert fields == {"prompt": "Question", "completion": "response", "label": "label"}
    more = [row | {"question": "x", "answer": "y", "good": 0} for row in JUDGED]
    run = run_of(tmp_path, tiny, Preference(KTO()), more)  # a field's own name is first
    assert [f.column for f in run.data.prepare.fields] == [*JUDGED[0]]
    task, _ = bound(tmp_path, tiny, Preference(KTO()), JUDGED)
    there = ["id", "instruction", "output"]
    named = {"prompt": "instruction", "completion": "output"}
    assert task.input_columns(there) == named


def test_pairs_of_one_answer_are_left_out_and_counted(tmp_path, tiny, capsys):
    same = PAIRS[0] | {"rejected": " a"}
    task, corpus = bound(tmp_path, tiny, Preference(), [PAIRS[1], same, *PAIRS])
    source = task.source(corpus, "train")
    assert len(source) == 4 and corpus.tokenizer.decode(source[1]["chosen"]) == " a"
    said = capsys.readouterr().err
    assert "1 pair left out whose 'chosen' and 'rejected' are one text" in said
    assert "the first is record 1" in said


def test_records_have_likelihoods_by_the_reference(tmp_path, tiny):
    stored = {"ref_chosen_logps": -3.5, "ref_rejected_logps": -1.25}
    config = Preference(reference="records")
    task, corpus = bound(tmp_path, tiny, config, [row | stored for row in PAIRS])
    batch = batch_of(task, task.source(corpus, "train"))
    assert batch["reference"].tolist() == [-3.5] * 3 + [0]
    assert batch["other_reference"].tolist() == [-1.25] * 3 + [0]
    task, corpus = bound(tmp_path, tiny, config, PAIRS)
    with pytest.raises(ValueError, match="no field 'ref_chosen_logps' of kind 'num"):
        task.source(corpus, "train")


def test_a_prompt_may_be_empty(tmp_path, tiny):
    task, corpus = bound(tmp_path, tiny, Preference(), [PAIRS[0] | {"prompt": ""}])
    batch = batch_of(task, task.source(corpus, "train"))
    assert answers(task, corpus, batch) == [("", " a")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"rejected": ""},
            "1 of the 3 records .* an empty 'rejected'; .* record 2: t",
        ),
        (
            {"prompt": "x" * 24},
            "'prompt' of up to 24 tokens, .*record 2: raise data",
        ),
    ],
)
def test_pairs_that_cannot_be_are_named(change, message, tmp_path, tiny):
    rows = [*PAIRS[:2], PAIRS[2] | change]
    for task in (Preference(), Preference(KTO()), RewardModel()):
        made, corpus = bound(tmp_path, tiny, task, rows)
        with pytest.raises(ValueError, match=message):
            made.source(corpus, "train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"completion": ""}, "have an empty 'completion'; the first is record 2"),
        (
            {"label": "good"},
            "record 2 .* 'good' in the field 'label'; accepted: tru",
        ),
        ({"label": None}, "record 2 .* has nothing in the field 'label'"),
    ],
)
def test_judged_answers_that_cannot_be_are_named(change, message, tmp_path, tiny):
    task, corpus = bound(
        tmp_path, tiny, Preference(KTO()), [*JUDGED, JUDGED[0] | change]
    )
    with pytest.raises(ValueError, match=message):
        task.source(corpus, "train")


def test_all_pairs_of_one_answer_are_no_preferences(tmp_path, tiny):
    rows = [row | {"rejected": row["chosen"]} for row in PAIRS]
    task, corpus = bound(tmp_path, tiny, Preference(), rows)
    with pytest.raises(ValueError, match="one text in all records of the split 'tra"):
        task.source(corpus, "train")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"prompt": "a", "chosen": "b"}],
            "that of the rejected in data.prepare",
        ),
        (
            [PAIRS[0] | {"chosen": 3}],
            "line 1: the column 'chosen' is int 3 and no t",
        ),
        (
            [{"chosen": "b", "rejected": "c"}],
            "that of the prompt in data.prepare",
        ),
    ],
)
def test_rows_without_their_texts_are_named(rows, message, tmp_path, tiny):
    with pytest.raises(ValueError, match=message):
        bound(tmp_path, tiny, Preference(), rows)


def test_a_corpus_of_other_records_is_named(tmp_path, tiny):
    _, corpus = bound(tmp_path, tiny, Preference(), PAIRS)
    run = run_of(tmp_path, tiny, Preference(), PAIRS)
    task = Preference(DPO(), chosen_field="better")
    made = make_task(dataclasses.replace(run, task=task), corpus.tokenizer)
    with pytest.raises(ValueError, match=r"no field 'better' of kind 'text'; it has"):
        made.source(corpus, "train")


def test_a_prompt_that_fills_a_row_is_no_question(tmp_path, tiny):
    task, _ = bound(tmp_path, tiny, Preference(), PAIRS)
    with pytest.raises(ValueError, match="a prompt of 24 tokens .* raise --max_length"):
        task.questions([{"prompt": "x" * 24, "completion": "y"}])


# --- conversations -------------------------------------------------------------------


def said(*texts, roles=("user", "assistant")):
    return [{"role": roles[k % 2], "content": text} for k, text in enumerate(texts)]


BEFORE = said("Hi", "Ho", "Say a.")


def talk(prompt, chosen, rejected):
    return {
        "prompt": prompt,
        "chosen": said(chosen, roles=("assistant",)),
        "rejected": said(rejected, roles=("assistant",)),
    }


TALKS = [talk(BEFORE, "a", "bb"), talk(said("c?"), *"cc"), talk(said("d?"), "dd", "e")]


def talk_run(tmp_path, tiny, task, rows, seq_len=160):
    """A run on conversations, with a tokenizer of bytes and a template."""
    run = run_of(tmp_path, tiny, task, [PAIRS[0]])
    (tmp_path / "tokenizer").mkdir(exist_ok=True)
    of("kimi").save(tmp_path / "tokenizer" / "tokenizer.json")
    file = tmp_path / "talks.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = dataclasses.replace(
        run.data,
        source=str(file),
        tokenizer=TokenizerFile(str(tmp_path / "tokenizer")),
        seq_len=seq_len,
        prepare=dataclasses.replace(run.data.prepare, fields=()),
    )
    data = TASKS[type(task)].with_columns(task, data, said=False)
    run = dataclasses.replace(run, data=data)
    corpus = prepare.prepare(run.data)
    return make_task(run, corpus.tokenizer), corpus


def rendered(tokenizer, messages):
    """The text before the last answer as it is asked for, and what follows it."""
    before = tokenizer.apply_chat_template(messages[:-1])
    whole = tokenizer.apply_chat_template(messages, add_generation_prompt=False)
    return before, whole.removeprefix(before)


def read_row(tokenizer, batch, k, prefix=""):
    """The texts of a row before its answer, and of it."""
    real = batch[f"{prefix}segment_ids"][k] > 0
    weights = batch[f"{prefix}weights"][k][real] > 0
    tokens, targets = (batch[f"{prefix}{n}"][k][real] for n in ("tokens", "targets"))
    np.testing.assert_array_equal(tokens[1:], targets[:-1])
    before = [*tokens[:1], *targets[~weights]]
    return tuple(
        tokenizer.decode(ids, special_tokens=True) for ids in (before, targets[weights])
    )


@pytest.mark.parametrize("together", [False, True])
def test_answers_in_conversations_are_marked_by_the_template(
    tmp_path, tiny, together, capsys
):
    rows = TALKS
    if together:  # no prompt apart
        sides = ("chosen", "rejected")
        rows = [{side: row["prompt"] + row[side] for side in sides} for row in TALKS]
    task, corpus = talk_run(tmp_path, tiny, Preference(), rows)
    source = task.source(corpus, "train")
    assert len(source) == 2
    assert "1 pair left out whose answers are one text" in capsys.readouterr().err
    batch, tokenizer = batch_of(task, source), corpus.tokenizer
    for k, row in enumerate((TALKS[0], TALKS[2])):
        for prefix, side in (("", "chosen"), ("other_", "rejected")):
            whole = row["prompt"] + row[side]
            assert read_row(tokenizer, batch, k, prefix) == rendered(tokenizer, whole)
        longest = max(batch[f"{p}segment_ids"][k].sum() for p in ("", "other_"))
        assert task.length(int(source.lengths[k])) == longest


def test_conversations_teach_other_losses_and_are_asked(tmp_path, tiny):
    task, corpus = talk_run(tmp_path, tiny, Preference(KTO()), TALKS)
    tokenizer = corpus.tokenizer
    batch = batch_of(task, task.source(corpus, "train"))
    assert batch["label"].tolist() == [1, 0, 1, 0]
    last = TALKS[2]["prompt"] + TALKS[2]["rejected"]
    assert read_row(tokenizer, batch, 3) == rendered(tokenizer, last)
    asked = [
        {"prompt": json.dumps(BEFORE), "completion": "a"},
        {"prompt": "d?", "completion": TALKS[2]["rejected"]},
    ]
    batch = batch_of(task, task.questions(asked))
    for k, whole in enumerate((BEFORE + TALKS[0]["chosen"], last)):
        assert read_row(tokenizer, batch, k) == rendered(tokenizer, whole)
    task, corpus = talk_run(tmp_path, tiny, RewardModel(pooling="last"), TALKS)
    source = task.source(corpus, "train")
    batch = batch_of(task, source)
    real = batch["other_segment_ids"][1] > 0
    text = tokenizer.decode(batch["other_tokens"][1][real], special_tokens=True)
    assert text == "".join(rendered(tokenizer, last))
    with pytest.raises(ValueError, match=r"2 of the 2 records .* first is record 0"):
        task, corpus = talk_run(tmp_path, tiny, Preference(), TALKS, seq_len=8)
        task.source(corpus, "train")
    with pytest.raises(ValueError, match="row 0 of these has a list in prompt or comp"):
        task, _ = bound(tmp_path, tiny, Preference(), PAIRS)
        task.questions([{"prompt": BEFORE, "completion": "a"}])
