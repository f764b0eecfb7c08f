"""The weights that a run starts from bring architecture, tokenizer and classes."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from llmjax.config import (
    UL2,
    Alibi,
    Bytes,
    Checkpoint,
    DataConfig,
    Learned,
    LinearHead,
    MaskedLM,
    ModelConfig,
    OptimizerConfig,
    PoolerHead,
    PrepareConfig,
    RunConfig,
    SequenceClassification,
    TokenizerFile,
    TrainConfig,
    WarmupCosine,
    WordPiece,
    to_dict,
)
from llmjax.data.prepare import prepare
from llmjax.data.tokenizers import comparison
from llmjax.data.tokenizers import tokenizer as tokenizer_lib
from llmjax.hub import tokenizer as hub_tokenizer
from llmjax.tasks.registry import make_task
from llmjax.train import initial, run
from llmjax.train.checkpoints import reading, resume, weights
from tests import two_processes
from tests.train import folders, toy


@pytest.fixture(scope="module")
def bert(tmp_path_factory, random_params):
    """A folder of the hub, and its model's config."""
    folder = tmp_path_factory.mktemp("hub") / "bert"
    return folder, folders.bert(folder, random_params)


@pytest.fixture
def config(bert):
    data = DataConfig(seq_len=16, batch_size=4)
    return RunConfig(task=MaskedLM(), data=data, init=Checkpoint(str(bert[0])))


def model(config, **fields):
    return toy.change(config, model=fields)


# --- architecture --------------------------------------------------------------------


def test_a_folder_brings_its_model_and_tokenizer(bert, config):
    complete = initial.complete(config)
    assert complete.model == bert[1]
    assert complete.data.tokenizer == TokenizerFile(str(bert[0]))
    assert initial.complete(complete) == complete
    tokenizer = tokenizer_lib.make(complete.data.tokenizer, ())
    ids = tokenizer.encode("GOOD", special_tokens=True)
    assert ids.tolist() == [2, tokenizer.encode("good")[0], 3]


def test_fields_that_leave_the_weights_as_they_are_stay(bert, config):
    own = model(config, dropout=0.3, num_layers=2, positions=Learned(32))
    assert initial.complete(own).model == dataclasses.replace(bert[1], dropout=0.3)
    grown = initial.complete(model(config, vocab_size=128)).model
    assert grown == dataclasses.replace(bert[1], vocab_size=128)
    again = initial.complete(model(config, vocab_size=128, dropout=0.3))
    assert initial.complete(again) == again


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            {"d_model": 32},
            "'model.d_model' is 32, and the weights at .* have 16; leave",
        ),
        ({"num_layers": 3}, "'model.num_layers' is 3, and .* have 2"),
        ({"vocab_size": 48}, "'model.vocab_size' is 48"),
        ({"positions": Learned(16)}, "'model.positions.max_length' is 16"),
        ({"biases": "qkv"}, "'model.biases' is 'qkv'.*init.architecture='config'"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_fields_that_change_the_weights_are_named(fields, says, config):
    with pytest.raises(ValueError, match=says):
        initial.complete(model(config, **fields))


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("num_heads", "'model.num_heads' is 4, and the weights at .* have 2; leave"),
        ("positions.kind", "'model.positions' is rotary, and .* have learned"),
        ("positions.theta", "'model.positions' is rotary, and .* have learned"),
        ("mlp.kind", "'model.mlp' is gated, and .* have plain"),
        ("num_kv_heads", ""),  # as the weights have it
        ("init_std", ""),
    ],
)
def test_a_flag_that_says_a_default_is_not_passed_over(key, says, bert, config):
    said = {f"model.{key}", "data.seq_len"}
    assert initial.complete(config).model == bert[1]  # unsaid
    if not says:
        assert initial.complete(config, said=said).model == bert[1]
        return
    with pytest.raises(ValueError, match=says):
        initial.complete(config, said=said)


def test_dropout_that_a_flag_takes_away(config, tmp_path, random_params):
    """The second completion, in `run.run`, leaves it as it is."""
    folder = tmp_path / "bert"
    cfg = folders.bert(folder, random_params, hidden_dropout_prob=0.1)
    config = dataclasses.replace(config, init=Checkpoint(str(folder)))
    assert initial.complete(config).model.dropout == cfg.dropout == 0.1
    once = initial.complete(config, said={"model.dropout"})
    assert once.model == dataclasses.replace(cfg, dropout=0.0)
    assert initial.complete(once, said={"model.dropout"}) == once
    with pytest.raises(ValueError, match="'data.tokenizer' is of kind 'bpe' and not"):
        initial.complete(config, said={"data.tokenizer.vocab_size"})


def test_weights_that_are_nowhere(bert, tmp_path):
    for path, says in [
        (bert[0].with_name("brt"), "is not there: .*did you mean '.*bert'.* accepted"),
        (tmp_path, "has no checkpoints/, as a run, and no config.json with a model_ty"),
    ]:
        with pytest.raises(FileNotFoundError, match=f"^init.path='{path}' {says}"):
            weights.describe(Checkpoint(str(path)))


def test_the_config_s_own_architecture(bert, config):
    init = Checkpoint(str(bert[0]), architecture="config")
    own = model(dataclasses.replace(config, init=init), d_model=32, vocab_size=64)
    complete = initial.complete(own)
    assert complete.model == own.model
    assert complete.data.tokenizer == TokenizerFile(str(bert[0]))


def test_special_tokens_of_a_task_are_added_to_the_vocabulary(bert, config):
    """The 59 tokens and UL2's sentinels behind them need more than BERT's 64 rows."""
    own = dataclasses.replace(config, task=UL2())
    assert initial.complete(own).model.vocab_size == 256
    assert initial.complete(initial.complete(own)) == initial.complete(own)


def test_rows_longer_than_the_positions_of_the_weights(config):
    with pytest.raises(ValueError, match="=64 exceeds the 32 positions that the"):
        initial.complete(toy.change(config, data={"seq_len": 64}))


# --- tokenizer -----------------------------------------------------------------------


def test_another_tokenizer_is_named(bert, config, tmp_path):
    for other in (WordPiece(64), Bytes()):
        with pytest.raises(ValueError, match=r"'data\.tokenizer' is of kind '(wo|by)"):
            initial.complete(toy.change(config, data={"tokenizer": other}))
    inner = json.loads((bert[0] / "tokenizer.json").read_text())
    vocab = inner["model"]["vocab"]
    vocab["good"], vocab["."] = vocab["."], vocab["good"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(inner))
    other = TokenizerFile(str(tmp_path))
    with pytest.raises(ValueError, match="57 of its 59 tokens have the same id"):
        initial.complete(toy.change(config, data={"tokenizer": other}))


def test_weights_without_a_tokenizer_take_none_from_the_data(bert, config, tmp_path):
    shutil.copytree(bert[0], tmp_path / "bare")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "bare" / file).unlink()
    own = dataclasses.replace(config, init=Checkpoint(str(tmp_path / "bare")))
    with pytest.raises(ValueError, match="SentencePiece model beside them, and one of"):
        initial.complete(own)
    file = TokenizerFile(str(bert[0]))
    assert initial.complete(toy.change(own, data={"tokenizer": file})).model == bert[1]


def test_a_tokenizer_with_more_tokens_may_follow(bert, config, tmp_path):
    folders.bert_tokenizer("<new>").save(str(tmp_path / "tokenizer.json"))
    file = TokenizerFile(str(tmp_path))
    complete = initial.complete(toy.change(config, data={"tokenizer": file}))
    assert complete.data.tokenizer == file
    one, more = (tokenizer_lib.load(p) for p in (bert[0], tmp_path))
    assert comparison.agree(one, more, grown=True)
    assert not comparison.agree(one, more)
    assert not comparison.agree(more, one, grown=True)


def test_a_copy_of_a_tokenizer_is_the_same(bert, tmp_path):
    """Written again with its specials said, it has another fingerprint."""
    tokenizer = tokenizer_lib.make(Bytes(), ())
    tokenizer.save(tmp_path / "tokenizer.json")
    names = {"bos_token": tokenizer.specials["bos"]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(names))
    copy = tokenizer_lib.load(tmp_path)
    assert copy.fingerprint != tokenizer.fingerprint
    assert comparison.agree(tokenizer, copy) and comparison.agree(copy, tokenizer)


def test_batches_of_another_tokenizer_are_refused(config, tmp_path):
    """Before anything is traced, also where the caller brings task and batches."""
    complete = initial.complete(config)
    task = make_task(toy.change(complete, model={"vocab_size": 512}), BYTES)
    source = toy.batches(toy.CONFIG)
    with pytest.raises(ValueError, match="tokenizer of the data is not that of the"):
        run.run(config, tmp_path / "run", task=task, source=source)
    assert not (tmp_path / "run").exists()


BYTES = tokenizer_lib.make(Bytes(), ())


def test_a_gguf_file_brings_its_tokenizer(tmp_path, config, monkeypatch):
    """It lies in no file that the data's room reads, and is written to one."""
    path = tmp_path / "m.gguf"
    described = weights.Weights(str(path), ModelConfig(), place=str(path))
    monkeypatch.setattr(weights, "describe", lambda init: described)
    monkeypatch.setattr(weights.hub, "tokenizer", lambda place: BYTES)
    own = toy.change(config, data={"directory": str(tmp_path / "cache")})
    complete = initial.complete(own)
    file = complete.data.tokenizer
    assert file.path.startswith(str(tmp_path / "cache"))
    assert comparison.agree(tokenizer_lib.make(file, ()), BYTES)
    assert initial.complete(complete) == complete


# --- a run ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tuned(bert, tmp_path_factory):
    """A classifier, fine-tuned from the folder on a csv for two steps."""
    place = tmp_path_factory.mktemp("tuned")
    folders.write_texts(place / "texts.csv")
    config = RunConfig(
        task=SequenceClassification(),
        data=DataConfig(
            source=str(place / "texts.csv"),
            directory=str(place / "cache"),
            packing="pad",
            seq_len=16,
            batch_size=8,
            prefetch=0,
            prepare=PrepareConfig(validation=0.2, test=0.2, workers=1),
        ),
        train=TrainConfig(steps=2, log_every=1, eval_every=2, checkpoint_every=2),
        optimizer=OptimizerConfig(schedule=WarmupCosine(1)),
        init=Checkpoint(str(bert[0])),
    )
    complete = initial.complete(config)
    initial.prepare_local(complete.data)
    run.run(complete, place / "run", progress=False)
    return place, config


def test_a_run_says_what_it_was_completed_with(tuned, bert):
    place, _ = tuned
    saved, _ = reading.load_params(place / "run")
    assert saved.task.labels == ("bad", "good") and saved.model == bert[1]
    assert (saved.task.pooling, saved.task.head) == ("first", PoolerHead())
    assert (saved.data.prepare.text, saved.data.prepare.label) == ("sentence", "label")
    kept = tokenizer_lib.load(place / "run" / "tokenizer")
    assert comparison.agree(kept, hub_tokenizer(bert[0]))
    counts = prepare.open_corpus(saved.data).manifest["dataset"]["cleaning"]
    assert counts["kept"] == counts["collected"] == 60


def test_a_run_brings_its_own_tokenizer_and_classes(tuned, tmp_path):
    place, config = tuned
    init = Checkpoint(str(place / "run"))
    complete = initial.complete(dataclasses.replace(config, init=init))
    assert complete.data.tokenizer == TokenizerFile(str(place / "run" / "tokenizer"))
    assert complete.task.labels == ("bad", "good")
    program, params, _ = run.load(place / "run")
    labels = complete.task.labels
    for names, taken in ((labels, True), (labels[::-1], False)):
        state, text = resume.load_initial(
            program.init(),
            program.shardings,
            program.axes,
            init,
            program.config.model,
            names,
        )
        assert ("created 0" in text) == taken and ("left over 0" in text) == taken
        same = np.array_equal(
            state.params["classifier"]["kernel"], params["classifier"]["kernel"]
        )
        assert same == taken


def test_a_run_goes_on_where_its_weights_are_gone(tuned, tmp_path, bert):
    place, config = tuned
    moved = bert[0].rename(tmp_path / "elsewhere")
    try:
        complete = initial.complete(config, place / "run")
        assert complete.task.labels == ("bad", "good")
        result = run.run(complete, place / "run", progress=False).result
        assert result["step"] == 2 and result["finished"]
        with pytest.raises((ValueError, FileNotFoundError), match=str(bert[0])):
            initial.complete(config)
    finally:
        moved.rename(bert[0])


def test_classes_in_the_order_of_the_weights(tuned, bert):
    """A folder whose classes are those of the data, in another order."""
    config = tuned[1]
    file = bert[0] / "config.json"
    before = file.read_text()
    named = {"id2label": {"0": "good", "1": "bad", "2": "none"}}
    file.write_text(json.dumps(json.loads(before) | named))
    try:
        complete = initial.complete(config)
    finally:
        file.write_text(before)
    assert complete.task.labels == ("good", "bad", "none")
    corpus = prepare.open_corpus(complete.data)
    source = make_task(complete, corpus.tokenizer).source(corpus, "train")
    plain = corpus.source("train").labels.tolist()  # 0: bad
    assert [int(source[i]["label"]) for i in range(len(source))] == [
        1 - label for label in plain
    ]


def test_a_head_is_the_family_s_unless_it_is_said(config, tiny):
    def head(**fields):
        task = SequenceClassification(labels=("a", "b"), **fields)
        own = dataclasses.replace(config, task=task)
        complete = initial.complete(own, corpus=False).task
        return complete.pooling, complete.head

    assert head() == ("first", PoolerHead())
    assert head(pooling="mean") == ("mean", None)  # one matrix
    assert head(head=LinearHead()) == (None, LinearHead())  # of the mean
    scratch = RunConfig(tiny, SequenceClassification(labels=("a", "b")))
    task = initial.complete(scratch, corpus=False).task
    assert (task.pooling, task.head) == ("last", LinearHead(bias=False))
    strange = dataclasses.replace(tiny, positions=Alibi())
    task = initial.complete(
        dataclasses.replace(scratch, model=strange), corpus=False
    ).task
    assert (task.pooling, task.head) == ("mean", LinearHead())


PREPARE_TOGETHER = """
import json
from llmjax.config import parse
from llmjax.data.prepare import prepare
from llmjax.train import initial
data = parse(json.loads(sys.argv[3])).data
initial.prepare_local(data)
assert len(prepare.open_corpus(data).source("train")) > 0
"""


@pytest.mark.slow
def test_the_first_of_several_processes_prepares(tmp_path):
    folders.write_texts(tmp_path / "texts.csv")
    rules = PrepareConfig(text="sentence", label="label", workers=1)
    data = DataConfig(
        source=str(tmp_path / "texts.csv"),
        directory=str(tmp_path / "cache"),
        tokenizer=Bytes(),
        prepare=rules,
    )
    two_processes.run(PREPARE_TOGETHER, json.dumps(to_dict(RunConfig(data=data))))
    assert len(prepare.open_corpus(data).source("train")) > 0
