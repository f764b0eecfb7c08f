"""Texts, pairs, labels and numbers of records: how a row is read and learned."""

import dataclasses
import pickle
import string

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from llmjax import hub
from llmjax.config import (
    BalancedWeights,
    DataConfig,
    GivenWeights,
    MultiLabel,
    Ordinal,
    Regression,
    RunConfig,
    SequenceClassification,
    SingleLabel,
)
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.data.tokenizers.vocabulary import PlainVocabulary
from llmjax.hub import forms
from llmjax.hub.classes import keys as hub_keys
from llmjax.tasks.labelled.sequence_classification import SequenceClassificationTask
from llmjax.tasks.registry import make_task, task_of
from llmjax.tasks.routing import Routed
from llmjax.tasks.task import loss_of
from tests.tasks.fit import fit
from tests.tasks.labelled_texts import NUMBERS, PAIRS, SETS, batch_of, bound, run_of

# --- pairs ---------------------------------------------------------------------------


def letters():
    """A tokenizer of letters with BERT's frame."""
    vocab = {c: i for i, c in enumerate(["[PAD]", "[CLS]", "[SEP]", *string.printable])}
    inner = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="[PAD]"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.add_special_tokens(["[PAD]", "[CLS]", "[SEP]"])
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    return inner


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("length", [7, 8])
def test_a_pair_is_cut_as_the_library_cuts_it(side, length, tiny):
    """Longest first; of equal ones the second keeps a token more."""
    model = dataclasses.replace(
        tiny, architecture="encoder", vocab_size=256, token_types=2
    )
    task = SequenceClassification(2, pair_field="text_pair")
    data = DataConfig(packing="pad", seq_len=length)
    inner = letters()
    own = Tokenizer(inner)
    own.truncation_side = side
    made = make_task(RunConfig(model, task, data), own)
    sizes = [(1, 1), (2, 9), (9, 2), (9, 9), (3, 3), (8, 9), (0, 9), (4, 2)]
    rows = [{"text": "abcdefghi"[:a], "text_pair": "ABCDEFGHI"[:b]} for a, b in sizes]
    source = made.examples(made.questions(rows))
    assert source.cut == sum(a + b > length - 3 for a, b in sizes)
    inner.enable_truncation(length, strategy="longest_first", direction=side)
    rng = np.random.default_rng(0)
    for k, row in enumerate(rows):
        theirs = inner.encode(row["text"], row["text_pair"])
        features = made.features(source[k], rng)
        assert features["tokens"].tolist() == theirs.ids
        assert features["token_types"].tolist() == theirs.type_ids
        assert len(theirs.ids) == made.length(int(source.lengths[k]))


@pytest.mark.parametrize("packing", ["pad", "first_fit"])
def test_pairs_are_found_read_and_packed(packing, tmp_path, tiny, capsys):
    task = SequenceClassification(pair_field="text_pair")
    own, _, source = bound(tmp_path, tiny, PAIRS, task, packing=packing)
    assert own.config.labels == ("no", "yes") and source.cut == 2
    assert "text in 'premise', text_pair in 'hypothesis', label in 'label'" in (
        capsys.readouterr().err
    )
    batch = batch_of(own, pickle.loads(pickle.dumps(source)))
    valid = batch["valid"] > 0
    assert sorted(batch["label"][valid].tolist()) == [0, 0, 1]
    for row, column in zip(*np.nonzero(np.atleast_2d(batch["segment_ids"]))):  # noqa: B905
        assert batch["token_types"][row, column] in (0, 1)
    asked = own.examples(
        own.questions(
            [{"text": r["premise"], "text_pair": r["hypothesis"]} for r in PAIRS]
        )
    )
    for k in range(3):
        for a, b in zip(asked[k]["texts"], source[k]["texts"], strict=True):
            np.testing.assert_array_equal(a, b)
    columns = own.input_columns(["premise", "hypothesis"])
    assert columns == {"text": "premise", "text_pair": "hypothesis"}
    assert own.input_columns(["text", "text_pair"])["text"] == "text"


def test_a_record_without_a_label_is_left_out_and_said(tmp_path, tiny, capsys):
    rows = [*PAIRS, PAIRS[0] | {"label": None}]
    task = SequenceClassification(pair_field="text_pair")
    *_, source = bound(tmp_path, tiny, rows, task)
    assert len(source) == 3
    assert (
        "split 'train': 1 record without a label: left out" in capsys.readouterr().err
    )


# --- several labels and numbers ------------------------------------------------------


@pytest.mark.parametrize(
    "rows",
    [
        SETS,
        [["text", "labels"], ["a b", "old;big"], ["c", ""], ["d", " new "]],
        [["text", "labels"], ["a b", '["old", "big"]'], ["c", "[]"], ["d", "new;new"]],
    ],
    ids=["jsonl", "separated", "json in a cell"],
)
@pytest.mark.parametrize("packing", ["pad", "first_fit"])
def test_lists_of_labels(rows, packing, tmp_path, tiny):
    task = SequenceClassification(problem=MultiLabel())
    own, _, source = bound(tmp_path, tiny, rows, task, packing=packing)
    assert own.config.labels == ("big", "new", "old")
    assert source.labels.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    batch = batch_of(own, source)
    assert batch["label"].dtype == np.float32 and batch["label"].shape[-1] == 3
    assert batch["label"].sum() == 3


def test_a_column_for_each_label(tmp_path, tiny):
    rows = [["text", "toxic", "rude"], ["a", 0, 1], ["b", "1.0", "1"], ["c", "0", ""]]
    task = SequenceClassification(problem=MultiLabel(columns=("toxic", "rude")))
    own, _, source = bound(tmp_path, tiny, rows[:3], task)
    assert own.config.labels == ("toxic", "rude")
    assert source.labels.tolist() == [[0, 1], [1, 1]]
    with pytest.raises(ValueError, match=r"csv, line 4: .*'rude' is str '' and n"):
        bound(tmp_path, tiny, rows, task)


def test_one_label_of_a_pair_is_a_cross_encoder(tmp_path, tiny):
    rows = [["query", "document", "relevant"], ["a", "b", 1], ["c", "d", 0]]
    problem = MultiLabel(columns=("relevant",))
    task = SequenceClassification(pair_field="text_pair", problem=problem)
    own, _, source = bound(tmp_path, tiny, rows, task)
    assert own.num_outputs == 1 and source.labels.tolist() == [[1], [0]]
    logits = jnp.array([[2.0], [-1.0]])
    total, count, _ = own.score(Routed(logits), {"label": jnp.array([[1.0], [0.0]])})
    expected = np.logaddexp(0, -2) + np.logaddexp(0, -1)
    np.testing.assert_allclose([total, count], [expected, 2], rtol=1e-5)
    (answer,) = own.decode(np.array([[0.9]]), None)
    assert answer["labels"] == ["relevant"] and answer["probability"] == 0.9
    assert hub_keys(("relevant",), own.config.problem.kind)["problem_type"]


def test_numbers_of_a_column_or_several(tmp_path, tiny):
    task = SequenceClassification(problem=Regression())
    own, _, source = bound(tmp_path, tiny, NUMBERS, task)
    assert own.config.labels == ("label",) and own.num_outputs == 1
    np.testing.assert_array_equal(source.labels, [[1.5], [-2]])
    task = SequenceClassification(problem=Regression(("fit", "tone")))
    rows = [["text", "fit", "tone"], ["a", 1, 0.5], ["b", 2, "-1e3"]]
    own, _, source = bound(tmp_path, tiny, rows, task)
    assert own.config.labels == ("fit", "tone")
    np.testing.assert_array_equal(source.labels, [[1, 0.5], [2, -1000]])
    lists = [{"text": "a", "label": [1, 2, 3]}, {"text": "b", "label": [1, 2]}]
    task = SequenceClassification(problem=Regression())
    with pytest.raises(ValueError, match=r"record 1 .* has 2 numbers .* the task 3"):
        bound(tmp_path, tiny, lists, task)


def test_ordered_classes_need_an_order(tmp_path, tiny):
    rows = [{"text": f"t{k}", "label": f"{k % 11} of 10"} for k in range(22)]
    own, _, _ = bound(tmp_path, tiny, rows, SequenceClassification(problem=Ordinal()))
    assert own.config.labels[1:3] == ("1 of 10", "2 of 10")
    assert own.config.labels[-1] == "10 of 10"  # not between 1 and 2
    rows = [{"text": f"t{k}", "label": ("poor", "fair")[k % 2]} for k in range(4)]
    with pytest.raises(ValueError, match="classes fair, poor, whose names do not"):
        bound(tmp_path, tiny, rows, SequenceClassification(problem=Ordinal()))
    task = SequenceClassification(labels=("poor", "fair"), problem=Ordinal())
    *_, source = bound(tmp_path, tiny, rows, task)
    assert sorted(source[k]["label"] for k in range(4)) == [0, 0, 1, 1]


# --- weights -------------------------------------------------------------------------


def test_balanced_weights_are_counted_and_kept(tmp_path, tiny):
    """scikit-learn's of one class of several, torch's pos_weight of several."""
    from sklearn.utils.class_weight import compute_class_weight

    names = ["a"] * 5 + ["b"] * 2 + ["c"]
    rows = [{"text": f"t{k}", "label": n} for k, n in enumerate(names)]
    task = SequenceClassification(problem=SingleLabel(BalancedWeights()))
    run, _ = run_of(tmp_path, tiny, rows, task)
    theirs = compute_class_weight("balanced", classes=np.unique(names), y=names)
    np.testing.assert_allclose(run.task.problem.weights.values, theirs, rtol=1e-5)
    later = SequenceClassificationTask.as_before(task, run.task)
    assert later.problem == run.task.problem and later.labels == run.task.labels
    task = SequenceClassification(problem=MultiLabel(weights=BalancedWeights()))
    run, _ = run_of(tmp_path, tiny, SETS, task)
    assert run.task.problem.weights.values == (2, 2, 2)
    named = SequenceClassification(
        labels=("big", "new", "old", "odd"), problem=task.problem
    )
    with pytest.raises(ValueError, match="no text .* is of the class 'odd', so that"):
        run_of(tmp_path, tiny, SETS, named)


def test_weights_reach_the_loss(tmp_path, tiny):
    """The weighted mean: texts of a class of weight 3 count as three."""
    rows = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]
    problem = SingleLabel(GivenWeights((1.0, 3.0)))
    own, *_ = bound(tmp_path, tiny, rows, SequenceClassification(problem=problem))
    logits = jnp.array([[1.0, 0.0], [2.0, 0.5]])
    batch = {"label": jnp.array([0, 1]), "valid": jnp.array([1, 1])}
    total, count, metrics = own.score(Routed(logits), batch)
    nll = -np.log([1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1.5))])
    np.testing.assert_allclose([total, count], [nll[0] + 3 * nll[1], 4], rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"][0], nll.sum(), rtol=1e-5)
    batch["valid"] = jnp.array([1, 0])  # a row that only fills up counts nothing
    total, count, _ = own.score(Routed(logits), batch)
    np.testing.assert_allclose([total, count], [nll[0], 1], rtol=1e-5)


# --- learning ------------------------------------------------------------------------

PROBLEMS = [SingleLabel(focal_gamma=1.0), MultiLabel(), Regression(), Ordinal()]


@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.kind)
@pytest.mark.parametrize("pair", ["", "text_pair"])
def test_each_problem_is_learned(problem, pair, tiny, random_params):
    cfg = dataclasses.replace(
        tiny, architecture="encoder", num_layers=1, vocab_size=40, token_types=2
    )
    config = SequenceClassification(3, problem=problem, pair_field=pair)
    run = RunConfig(cfg, config, DataConfig(packing="pad", seq_len=9))
    task = make_task(run, PlainVocabulary(40))
    batch = jax.tree.map(jnp.asarray, task.example_batch(6))
    assert ("token_types" in batch) == bool(pair)
    model = task.model(cfg, run.layout)
    params = random_params(model, batch)
    _, before, after = fit(loss_of(task, model), params, batch, 60)
    for metrics in (before, after):
        assert all(np.isfinite(s) for s, _ in metrics.values())
    assert after["loss"][0] < 0.5 * before["loss"][0]
    found = task.predict(model)({"params": params}, batch)
    answers = task.decode(jax.device_get(found), None)
    assert len(answers) == 6 and {*answers[0]} <= {*task.answer_columns}


@pytest.mark.parametrize(
    "problem",
    [
        *PROBLEMS,
        *(kind(GivenWeights((1.0, 2.0, 0.5))) for kind in (SingleLabel, Ordinal)),
    ],
    ids=lambda p: p.kind,
)
def test_parts_of_a_batch_add_up(problem, tiny):
    """Also where a part has no text at all: microbatches are a batch."""
    run = RunConfig(tiny, SequenceClassification(3, problem=problem))
    run = dataclasses.replace(run, data=DataConfig(packing="pad"))
    task = make_task(run, PlainVocabulary(40))
    rng = np.random.default_rng(0)
    logits = jax.nn.log_softmax(jnp.asarray(rng.normal(size=(8, 3)), jnp.float32))
    label = np.stack([*map(task.problem.feature, task.problem.some_labels(8))])
    valid = np.array([1, 0, 1, 1, 1, 1, 0, 0])

    def sums(part):
        batch = {"label": jnp.asarray(label[part]), "valid": jnp.asarray(valid[part])}
        total, count, metrics = task.score(Routed(logits[part]), batch)
        return np.array([total, count, *(x for pair in metrics.values() for x in pair)])

    parts = [slice(0, 1), slice(1, 2), slice(2, 6), slice(6, 8)]
    np.testing.assert_allclose(
        sum(map(sums, parts)), sums(slice(None)), rtol=1e-5, atol=1e-6
    )


@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.kind)
def test_packed_texts_are_scored_as_alone(problem, tmp_path, tiny, random_params):
    texts = ["ab", "c", "defg", "h", "ij"]
    labels = {
        "multi_label_classification": ["x", "x;y", "", "y", "z"],
        "regression": [0.5, 1, 2, -1, 0],
    }.get(problem.kind, ["1", "2", "3", "1", "2"])
    rows = [["text", "label"], *map(list, zip(texts, labels, strict=True))]
    task = SequenceClassification(problem=problem)
    if problem.kind in ("single_label_classification", "ordinal_regression"):
        task = dataclasses.replace(task, pair_field="pair")
        rows = [["text", "pair", "label"], *([r[0], r[0], r[1]] for r in rows[1:])]
    own, _, source = bound(tmp_path, tiny, rows, task, packing="pad")
    model = own.model(own.run.model, own.run.layout)
    loss = loss_of(own, model)
    data = dataclasses.replace(own.run.data, packing="first_fit")
    packed = make_task(dataclasses.replace(own.run, data=data), own.vocabulary)
    sums = []
    params = None
    for made in (own, packed):
        batch = batch_of(made, source, batch_size=5)
        batch = jax.tree.map(jnp.asarray, batch)
        params = params or random_params(model, batch)
        *sums_of, metrics, _ = loss(params, {}, {}, batch, None)
        sums.append([*sums_of, *(x for pair in metrics.values() for x in pair)])
        assert made.labels == ("label",)
    np.testing.assert_allclose(sums[0], sums[1], rtol=2e-5)


def test_the_median_of_ordered_classes_is_predicted(tmp_path, tiny):
    rows = [{"text": f"t{k}", "label": str(k)} for k in range(4)]
    own, *_ = bound(tmp_path, tiny, rows, SequenceClassification(problem=Ordinal()))
    p = np.array([[0.4, 0.05, 0.2, 0.35], [0.9, 0.1, 0, 0], [0, 0, 0.3, 0.7]])
    logits = jnp.log(jnp.array(p) + 1e-20)
    batch = {"label": jnp.array([0, 0, 3]), "valid": jnp.ones(3)}
    _, _, metrics = own.score(Routed(logits), batch)
    assert own.problem.predict(logits)["label"].tolist() == [2, 0, 3]
    assert metrics["mae"] == (2, 3) and metrics["accuracy"] == (2, 3)


def test_several_labels_are_those_from_the_threshold_on(tmp_path, tiny):
    task = SequenceClassification(problem=MultiLabel(threshold=0.3))
    own, *_ = bound(tmp_path, tiny, SETS, task)
    answers = own.decode(np.array([[0.4, 0.1, 0.3], [0.2, 0.1, 0.1]]), None)
    assert answers[0]["labels"] == ["big", "old"] and answers[0]["label"] == "big"
    assert answers[1]["labels"] == [] and own.counted(answers[1]) == ["none"]


# --- the hub -------------------------------------------------------------------------


def test_ordered_classes_have_no_form_at_the_hub(tiny, random_params, tmp_path):
    run = RunConfig(tiny, SequenceClassification(3, problem=Ordinal()))
    run = dataclasses.replace(run, data=DataConfig(packing="pad"))
    model = make_task(run, PlainVocabulary(40)).model(tiny, run.layout)
    batch = {"tokens": jnp.ones((1, 4), jnp.int32)}
    params = random_params(model, batch)
    assert params["thresholds"].shape == (2,) and "classifier" not in params
    assert model.apply({"params": params}, batch).shape == (1, 3)
    assert not forms.exportable(model) and task_of(model) is None
    with pytest.raises(ValueError, match="thresholds .*='ordinal_regression'"):
        hub.save(model, params, tmp_path / "out")
