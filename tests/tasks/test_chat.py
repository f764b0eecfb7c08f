"""Conversations: what is learned of them, how rows are packed, and mistakes."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.config import Chat, DataConfig, LayoutConfig, RunConfig, TokenizerFile
from llmjax.data.batches.pipeline import Pipeline
from llmjax.data.prepare import prepare
from llmjax.data.tokenizers.vocabulary import PlainVocabulary
from llmjax.tasks.registry import make_task
from llmjax.tasks.supervised.chat import ChatTask
from llmjax.tasks.task import Predictions, loss_of
from tests.data.test_answers import of
from tests.tasks.fit import fit


def said(*texts):
    """A conversation of a user and the assistant, in turns."""
    roles = ("user", "assistant")
    return [{"role": roles[k % 2], "content": text} for k, text in enumerate(texts)]


SHARED = {"from": "gpt", "value": "b"}
TALKS = [
    said("Hi", "Ho"),
    said("1+1", "2", "2+2", "4"),
    said("a", "b", "c", "d", "e", "f"),
    said("?", "no"),
]


def run_of(folder, tiny, rows, template="kimi", *, data=None, **fields):
    """A run on these rows, with a tokenizer of bytes."""
    (folder / "tokenizer").mkdir(exist_ok=True)
    of(template).save(folder / "tokenizer" / "tokenizer.json")
    file = folder / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    usual = {"seq_len": 160, "batch_size": 2, "packing": "pad"}
    config = DataConfig(
        source=str(file),
        directory=str(folder / "cache"),
        tokenizer=TokenizerFile(str(folder / "tokenizer")),
        **usual | (data or {}),
    )
    whole = dataclasses.replace(config.prepare, validation=0.0, test=0.0)
    task = Chat(**fields)
    config = dataclasses.replace(config, prepare=whole)
    config = ChatTask.with_columns(task, config, said=False)
    return RunConfig(dataclasses.replace(tiny, vocab_size=384), task, config)


def opened(run):
    """The task of a run and the examples of its training split."""
    corpus = prepare.prepare(run.data)
    task = make_task(run, corpus.tokenizer)
    return task, task.source(corpus, "train")


def batches(task, source):
    return [*Pipeline(source, task.features, task.run.data, task.length).evaluation()]


def rows_of(talks):
    return [{"messages": talk} for talk in talks]


def test_answers_alone_are_predicted(tmp_path, tiny):
    task, source = opened(run_of(tmp_path, tiny, rows_of(TALKS)))
    (first, second) = batches(task, source)
    for k, talk in enumerate(TALKS):
        batch, row = (first, second)[k // 2], k % 2
        learned = (batch["weights"][row] > 0) & (batch["segment_ids"][row] > 0)
        text = task.vocabulary.decode(batch["targets"][row][learned])
        assert text == "".join(m["content"] for m in talk[1::2])
        read = batch["tokens"][row][batch["segment_ids"][row] > 0]
        assert task.vocabulary.decode(read).endswith(text[-1])
        assert (batch["tokens"][row, 1:] == batch["targets"][row, :-1])[:9].all()


@pytest.mark.usefixtures("quick_compile")
def test_packed_rows_have_the_loss_of_padded_ones(tmp_path, tiny, random_params):
    totals = {}
    for packing in ("pad", "first_fit"):
        folder = tmp_path / packing
        folder.mkdir()
        run = run_of(folder, tiny, rows_of(TALKS), data={"packing": packing})
        task, source = opened(run)
        model = task.model(run.model, LayoutConfig())
        parts = [jax.tree.map(jnp.asarray, b) for b in batches(task, source)]
        params = random_params(model, parts[0])
        scores = [
            task.score(task.outputs(model)({"params": params}, b, None), b)[:2]
            for b in parts
        ]
        totals[packing] = np.sum(scores, axis=0), len(parts)
    (padded, rows), (packed, fewer) = totals["pad"], totals["first_fit"]
    np.testing.assert_allclose(packed, padded, rtol=1e-5)
    assert fewer < rows and padded[1] == sum(
        len(m["content"]) + 1 for talk in TALKS for m in talk[1::2]
    )


def test_rewritten_answers_have_a_sequence_each(tmp_path, tiny, capsys):
    task, source = opened(run_of(tmp_path, tiny, rows_of(TALKS), "qwen"))
    assert len(source) == 1 + 2 + 3 + 1
    assert "2 conversations of 4 in several sequences" in capsys.readouterr().err
    texts = [task.reference(source[k]) for k in range(len(source))]
    assert [text[-1] for text in texts] == [*"o24bdfo"]


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [{"from": "human", "value": "a"}, SHARED]},
        {"prompt": "a", "completion": "b", "id": 3},
        {"instruction": said("a"), "output": [{"role": "assistant", "content": "b"}]},
        {"prompt": json.dumps(said("a")), "response": "b"},
    ],
)
def test_columns_in_the_forms_of_the_field(row, tmp_path, tiny):
    task, source = opened(run_of(tmp_path, tiny, [row]))
    expected, _ = opened(run_of(tmp_path, tiny, [{"messages": said("a", "b")}]))
    assert task.text(source[0]["tokens"]).endswith("b")
    np.testing.assert_array_equal(
        task.asked(source[0]).prompt, expected.asked_of({"messages": "a"}).prompt
    )


def test_what_a_model_is_asked_is_what_it_learned_from(tmp_path, tiny):
    task, source = opened(run_of(tmp_path, tiny, rows_of(TALKS)))
    for k, talk in enumerate(TALKS):
        asked = task.asked_of({"messages": talk[:-1]}).prompt
        np.testing.assert_array_equal(asked, task.asked(source[k]).prompt)
        assert task.reference(source[k]) == talk[-1]["content"]
    added = task.vocabulary.added_tokens
    assert set(task.stop_tokens) == {added["</s>"], added["<|im_end|>"]}


def test_what_is_cut_is_counted(tmp_path, tiny):
    task, source = opened(run_of(tmp_path, tiny, rows_of(TALKS), data={"seq_len": 70}))
    assert source.cut == 1 and source.lengths.max() == 71
    assert batches(task, source)[0]["tokens"].shape == (2, 70)


def test_an_answer_that_is_cut_away_is_an_error_or_left_out(tmp_path, tiny, capsys):
    rows = [*rows_of(TALKS), *rows_of([said("x" * 90, "y"), said("a" * 99, "b")])]
    run = run_of(tmp_path, tiny, rows, data={"seq_len": 100})
    corpus = prepare.prepare(run.data)
    message = "2 of the 6 sequences .*seq_len=100, the first is of record 4, .* token 1"
    with pytest.raises(ValueError, match=message):
        make_task(run, corpus.tokenizer).source(corpus, "train")
    run = run_of(tmp_path, tiny, rows, data={"seq_len": 100}, overlong="drop")
    _, source = opened(run)
    assert len(source) == 4 and source.cut == 0
    assert "2 sequences of 6 longer than data.seq_len=100" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (said("a"), "1 of 5 conversations .*record 4: no message is of the roles"),
        (said("a", " "), "record 4: message 1, of the role 'assistant', is empty"),
        (
            [{"content": "a"}],
            "line 5: .*'messages' is a list whose message 0 has no ",
        ),
        (7, "line 5: the column 'messages' is int and no list of messages"),
    ],
)
def test_conversations_that_teach_nothing_are_named(row, message, tmp_path, tiny):
    run = run_of(tmp_path, tiny, rows_of([*TALKS, row]))
    with pytest.raises(ValueError, match=message):
        prepare.prepare(run.data)


def test_they_may_be_left_out(tmp_path, tiny, capsys):
    rows = rows_of([*TALKS, said("a"), said("a", " ")])
    _, source = opened(run_of(tmp_path, tiny, rows, faulty="drop"))
    assert len(source) == 4
    said_there = capsys.readouterr().err
    assert "2 of 6 conversations can't be learned from; record 4: no" in said_there


def test_a_tokenizer_without_a_template_is_refused(tmp_path, tiny):
    run = run_of(tmp_path, tiny, rows_of(TALKS))
    (tmp_path / "tokenizer" / "tokenizer_config.json").unlink()
    with pytest.raises(ValueError, match=r"no chat template.*chat_template\.jinja"):
        prepare.prepare(run.data)


def test_another_template_writes_other_tokens(tmp_path, tiny):
    """Also beside a tokenizer that is the same, at the same path."""
    run = run_of(tmp_path, tiny, rows_of(TALKS))
    _, before = opened(run)
    file = tmp_path / "tokenizer" / "tokenizer_config.json"
    config = json.loads(file.read_text())
    config["chat_template"] = "Talk:" + config["chat_template"]
    file.write_text(json.dumps(config))
    task, after = opened(run)
    assert task.text(after[0]["tokens"]).startswith("Talk:")
    assert len(after[0]["tokens"]) == len(before[0]["tokens"]) + 5


def test_tools_are_what_the_template_shows(tmp_path, tiny):
    row = {"messages": said("a", "b"), "tools": [{"name": "wetter"}]}
    task, source = opened(run_of(tmp_path, tiny, [row]))
    assert "wetter" in task.text(source[0]["tokens"])
    columns = task.input_columns(["messages", "tools"])
    assert columns == {"messages": "messages", "tools": "tools"}
    assert "tools" not in task.input_columns(["messages"])
    asked = task.asked(source[0]).prompt
    for tools in (row["tools"], json.dumps(row["tools"])):
        found = task.asked_of({"messages": said("a"), "tools": tools})
        np.testing.assert_array_equal(found.prompt, asked)
    for nothing in (None, "", []):
        found = task.asked_of({"messages": said("a"), "tools": nothing})
        assert "wetter" not in task.text(found.prompt)
    with pytest.raises(ValueError, match="tools is dict; accepted: a list of func"):
        task.asked_of({"messages": said("a"), "tools": {"name": "wetter"}})


def test_another_preparation_is_named(tmp_path, tiny):
    run = run_of(tmp_path, tiny, rows_of(TALKS))
    corpus = prepare.prepare(run.data)
    other = dataclasses.replace(run, task=Chat(roles=("user",)))
    with pytest.raises(ValueError, match=r"task\.roles is \('user',\) and the field"):
        make_task(other, corpus.tokenizer).source(corpus, "train")
    lost = dataclasses.replace(run, task=Chat(messages_field="talk"))
    with pytest.raises(ValueError, match="no field 'talk' of kind 'messages'"):
        make_task(lost, corpus.tokenizer).source(corpus, "train")


@pytest.mark.usefixtures("quick_compile")
def test_answers_are_learned(tmp_path, tiny, random_params):
    run = run_of(tmp_path, tiny, rows_of(TALKS), data={"batch_size": 4, "seq_len": 96})
    task, source = opened(run)
    model = task.model(run.model, LayoutConfig())
    batch = jax.tree.map(jnp.asarray, batches(task, source)[0])
    params = random_params(model, batch, std=0.1)
    _, before, after = fit(loss_of(task, model), params, batch, 60)

    def mean(metrics, name):
        total, count = metrics[name]
        return float(total / count)

    assert mean(after, "loss") < 0.3 * mean(before, "loss")
    assert mean(after, "accuracy") > 0.8
    values = {"loss": mean(after, "loss")}
    assert task.derived(values)["perplexity"] == pytest.approx(np.exp(values["loss"]))


def test_a_report_compares_texts_with_the_last_answers(tmp_path, tiny):
    task, source = opened(run_of(tmp_path, tiny, rows_of(TALKS)))
    parts = [
        Predictions(np.array([0, 1]), ["Ho", "5"], {}),
        Predictions(np.array([2, 3]), ["f", "no way"], {}),
    ]
    report = task.report(parts, (source,))
    assert report["exact_match"] == 0.5 and report["texts"] == 4
    assert report["f1"] == pytest.approx((1 + 0 + 1 + 2 / 3) / 4)
    assert "exact match   0.5000" in task.describe(report)


def test_rows_for_a_plan_need_no_corpus(tiny):
    run = RunConfig(tiny, Chat(), DataConfig(seq_len=24, packing="pad"))
    batch = make_task(run, PlainVocabulary(40)).example_batch(3)
    assert batch["tokens"].shape == batch["weights"].shape == (3, 24)
    assert batch["weights"].any() and not batch["weights"].all()
