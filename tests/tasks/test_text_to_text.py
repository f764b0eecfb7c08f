"""Texts for texts: how rows are laid out, transformers' loss, and mistakes."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest

from llmjax.config import Bytes, DataConfig, RunConfig, TextToText
from llmjax.data.batches.pipeline import Pipeline
from llmjax.data.prepare import prepare
from llmjax.data.tokenizers.vocabulary import PlainVocabulary
from llmjax.tasks.registry import make_task
from llmjax.tasks.supervised.text_to_text import TextToTextTask
from llmjax.tasks.task import loss_of
from tests.parity import written
from tests.tasks.fit import fit

ROWS = [
    {"document": "The cat sat.", "summary": "cat"},
    {"document": "A dog ran far away.", "summary": "dog ran"},
    {"document": "It rains.", "summary": "rain"},
]
BOS, EOS = 1, 2


def run_of(folder, tiny, rows=ROWS, *, two=True, data=None, **fields):
    file = folder / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    usual = {"seq_len": 16, "batch_size": 4, "packing": "pad"}
    config = DataConfig(
        source=str(file),
        directory=str(folder / "cache"),
        tokenizer=Bytes(),
        **usual | ({"encoder_seq_len": 40} if two else {"seq_len": 48}) | (data or {}),
    )
    whole = dataclasses.replace(config.prepare, validation=0.0, test=0.0)
    task = TextToText(**fields)
    config = dataclasses.replace(config, prepare=whole)
    config = TextToTextTask.with_columns(task, config, said=False)
    architecture = "encoder_decoder" if two else "decoder"
    model = dataclasses.replace(tiny, vocab_size=384, architecture=architecture)
    return RunConfig(model, task, config)


def opened(run):
    corpus = prepare.prepare(run.data)
    task = make_task(run, corpus.tokenizer)
    return task, task.source(corpus, "train")


def batches(task, source):
    return [*Pipeline(source, task.features, task.run.data, task.length).evaluation()]


def there(batch, name, row, prefix=""):
    return batch[prefix + name][row][batch[f"{prefix}segment_ids"][row] > 0]


def test_an_encoder_reads_the_source_and_a_decoder_writes_the_target(tmp_path, tiny):
    task, source = opened(run_of(tmp_path, tiny, prefix="sum: "))
    (batch,) = batches(task, source)
    decode = task.vocabulary.decode
    for k, row in enumerate(ROWS):
        read = there(batch, "tokens", k, "encoder_")
        assert decode(read) == f"sum: {row['document']}" and read[-1] == EOS
        tokens, targets = (there(batch, name, k) for name in ("tokens", "targets"))
        assert decode(targets) == row["summary"] and targets[-1] == EOS
        assert tokens.tolist() == [BOS, *targets[:-1]]
        prompt, encoder, cut = task.asked(source[k])
        assert not cut
        assert prompt.tolist() == [BOS] and encoder.tolist() == read.tolist()
        other = task.asked_of({"source": row["document"]})
        assert other.encoder.tolist() == read.tolist()


def test_weights_say_what_a_decoder_begins_with(tmp_path, tiny):
    """Then source and target have the tokenizer's specials around them."""
    run = run_of(tmp_path, tiny)
    begun = TextToTextTask.with_weights(run.task, 0)
    assert begun.decoder_start == 0
    said = TextToText(decoder_start=5)
    assert TextToTextTask.with_weights(said, 0) is said
    task, source = opened(dataclasses.replace(run, task=begun))
    (batch,) = batches(task, source)
    targets = there(batch, "targets", 0)
    assert targets[[0, -1]].tolist() == [BOS, EOS]
    assert task.vocabulary.decode(targets) == "cat"
    assert there(batch, "tokens", 0).tolist() == [0, *targets[:-1]]
    assert there(batch, "tokens", 0, "encoder_")[0] == BOS


@pytest.mark.parametrize("suffix", ["", " TL;DR: "])
@pytest.mark.parametrize("packing", ["pad", "first_fit"])
def test_a_decoder_predicts_the_target_alone(packing, suffix, tmp_path, tiny):
    data = {"packing": packing}
    task, source = opened(run_of(tmp_path, tiny, two=False, data=data, suffix=suffix))
    found = {}
    for batch in batches(task, source):
        for row, segments in enumerate(batch["segment_ids"]):
            for segment in range(1, segments.max() + 1):
                here = segments == segment
                tokens, targets, weights = (
                    batch[name][row][here] for name in ("tokens", "targets", "weights")
                )
                assert tokens[0] == BOS and (tokens[1:] == targets[:-1]).all()
                read = task.vocabulary.decode(tokens[: weights.argmax() + 1])
                assert targets[weights > 0][-1] == EOS
                found[read] = task.vocabulary.decode(targets[weights > 0])
    assert found == {row["document"] + suffix: row["summary"] for row in ROWS}
    prompt = task.asked_of({"source": "It rains."}).prompt
    assert prompt.tolist() == task.asked(source[2]).prompt.tolist()
    assert (prompt[-1] == EOS) == (not suffix)
    assert task.reference(source[1]) == "dog ran"


@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize("name", written.PAIRS)
def test_the_loss_is_transformers(name):
    expected = json.loads(written.FILE.read_text())["losses"][name]
    for _, config, folder in written.folders((name,)):
        assert written.our_loss(name, config, folder) == pytest.approx(
            expected, abs=1e-5
        )


@pytest.mark.parametrize("two", [True, False])
def test_what_is_too_long_is_cut_and_counted(two, tmp_path, tiny):
    data = {"seq_len": 12, **({"encoder_seq_len": 9} if two else {})}
    rows = [*ROWS, {"document": "ab", "summary": "c"}]
    task, source = opened(run_of(tmp_path, tiny, rows, two=two, data=data))
    assert source.cut == 3
    (batch,) = batches(task, source)
    assert all(there(batch, "targets", k)[-1] == EOS for k in range(4))
    if two:
        assert len(there(batch, "tokens", 1, "encoder_")) == 9
        assert there(batch, "tokens", 1, "encoder_")[-1] == EOS
    else:
        learned = batch["targets"][1][batch["weights"][1] > 0]
        assert task.vocabulary.decode(learned) == "dog "  # half of a row
        assert len(there(batch, "tokens", 1)) == 12
    lengths = [int((row > 0).sum()) for row in batch["segment_ids"]]
    if not two:
        assert source.lengths.tolist() == lengths


@pytest.mark.parametrize(
    ("row", "names"),
    [
        ({"en": "a b", "de": "c"}, ("a b", "c")),
        ({"id": 1, "target": "c", "source": "a b"}, ("a b", "c")),
        ({"article": "a b", "highlights": "c", "split": "train"}, ("a b", "c")),
    ],
)
def test_columns_by_their_names_or_their_order(row, names, tmp_path, tiny):
    task, source = opened(run_of(tmp_path, tiny, [row]))
    example = source[0]
    assert (task.vocabulary.decode(example["source"]), example["text"]) == names


@pytest.mark.parametrize(
    ("rows", "fields", "message"),
    [
        ([{"a": "1", "b": "2", "c": "3"}], {}, "columns 'a', 'b', 'c'; name those"),
        ([*ROWS, {"document": "a", "summary": ""}], {}, "1 of the 4 .*empty 'target'"),
        ([*ROWS, {"document": " ", "summary": "a"}], {"prefix": "p"}, "empty 'source'"),
        ([*ROWS, {"document": 3, "summary": "a"}], {}, "line 4: .*int 3 and no text"),
        (ROWS, {"data": {"packing": "first_fit"}}, "an encoder_decoder reads two"),
        (ROWS, {"data": {"seq_len": 1}}, "seq_len=1 .* leaves no room"),
    ],
)
def test_mistakes_are_named(rows, fields, message, tmp_path, tiny):
    with pytest.raises(ValueError, match=message):
        opened(run_of(tmp_path, tiny, rows, **fields))


def test_another_prefix_than_that_of_the_records_is_named(tmp_path, tiny):
    run = run_of(tmp_path, tiny, prefix="a: ")
    corpus = prepare.prepare(run.data)
    other = dataclasses.replace(run, task=TextToText(prefix="b: "))
    with pytest.raises(ValueError, match=r"task\.prefix='b: ' .*prepared with \('a: '"):
        make_task(other, corpus.tokenizer).source(corpus, "train")


@pytest.mark.usefixtures("quick_compile")
def test_targets_are_learned(tmp_path, tiny, random_params):
    task, source = opened(run_of(tmp_path, tiny))
    model = task.model(task.run.model, task.run.layout)
    batch = jax.tree.map(jnp.asarray, batches(task, source)[0])
    params = random_params(model, batch, std=0.1)
    _, before, after = fit(loss_of(task, model), params, batch, 60)
    first, last = (float(m["loss"][0] / m["loss"][1]) for m in (before, after))
    assert last < 0.3 * first


@pytest.mark.parametrize("two", [True, False])
def test_rows_for_a_plan_need_no_corpus(two, tiny):
    architecture = "encoder_decoder" if two else "decoder"
    cfg = dataclasses.replace(tiny, architecture=architecture)
    run = RunConfig(cfg, TextToText(), DataConfig(seq_len=24, packing="pad"))
    batch = make_task(run, PlainVocabulary(40)).example_batch(3)
    assert batch["tokens"].shape == (3, 24) and (batch["segment_ids"] > 0).all()
