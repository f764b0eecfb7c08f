"""Text embedding: rows and their faults, losses by hand, microbatches, devices."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.config import (
    SGD,
    AllNegatives,
    Bytes,
    CoSENT,
    CosineRegression,
    DataConfig,
    GuidedNegatives,
    LayoutConfig,
    Ranking,
    RunConfig,
    SentenceEmbedding,
    TextEmbedding,
    Truncation,
)
from llmjax.data.batches.pipeline import Pipeline
from llmjax.data.prepare import prepare
from llmjax.data.tokenizers.vocabulary import PlainVocabulary
from llmjax.parallel import mesh as mesh_lib
from llmjax.tasks.embedding import losses
from llmjax.tasks.embedding.embedding import TextEmbeddingTask
from llmjax.tasks.embedding.losses import Texts, Vectors
from llmjax.tasks.registry import make_task
from llmjax.tasks.task import loss_of
from llmjax.train import setup
from tests.train import toy

pytestmark = pytest.mark.usefixtures("quick_compile")
ROWS = [
    {"query": "a red car", "positive": "cars", "negatives": ["blue", "green tree"]},
    {"query": "two", "positive": "2", "negatives": ["three"]},
    {"query": "x" * 40, "positive": "y" * 40, "negatives": []},
]


def run_of(tmp_path, tiny, rows, ending="jsonl", **fields):
    file = tmp_path / f"train.{ending}"
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
    task = TextEmbedding(**fields)
    data = dataclasses.replace(data, prepare=whole)
    data = TextEmbeddingTask.with_columns(task, data, said=False)
    model = dataclasses.replace(tiny, architecture="encoder", vocab_size=512)
    return RunConfig(model, task, data)


def made(run):
    corpus = prepare.prepare(run.data)
    task = make_task(run, corpus.tokenizer)
    return task, task.source(corpus, "train"), corpus


def batch_of(task, source):
    pipeline = Pipeline(
        source, task.features, task.run.data, task.length, declared=task.declared
    )
    return next(pipeline.evaluation())


# --- rows ----------------------------------------------------------------------------


def test_rows_become_streams_with_prompts(tmp_path, tiny):
    prompts = {"query_prompt": "query: ", "passage_prompt": "passage: "}
    run = run_of(tmp_path, tiny, ROWS, negatives=2, max_query=16, **prompts)
    task, source, corpus = made(run)
    batch = batch_of(task, source)
    assert source.cut == 1 and batch["valid"].tolist() == [1, 1, 1, 0]
    assert batch["anchor_tokens"].shape == (4, 16) and batch["tokens"].shape == (4, 24)

    def text(name, k):
        ids = batch[f"{name}tokens"][k][batch[f"{name}segment_ids"][k] > 0]
        if len(ids):
            assert (ids[0], ids[-1]) == (
                corpus.tokenizer.bos_id,
                corpus.tokenizer.eos_id,
            )
        return corpus.tokenizer.decode(ids)

    assert text("anchor_", 0) == "query: a red c"  # 14 tokens beside two special ones
    assert text("", 0) == "passage: cars"
    assert [text(f"negative{c}_", 0) for c in (1, 2)] == [
        "passage: blue",
        "passage: green tree",
    ]
    assert [text(f"negative{c}_", 1) for c in (1, 2)] == ["passage: three", ""]


def test_of_many_negatives_some_are_drawn_anew(tmp_path, tiny):
    rows = [{**ROWS[0], "negatives": [*"abcdefgh"]}] * 2
    task, source, _ = made(run_of(tmp_path, tiny, rows))
    assert task.num_negatives == 1
    drawn = {
        task.features(source[0], np.random.default_rng(k))["negative1_tokens"][1]
        for k in range(20)
    }
    assert len(drawn) > 2


@pytest.mark.parametrize(
    ("names", "scored"),
    [
        (("anchor", "positive"), False),
        (("question", "answer", "negative"), False),
        (("Query", "passage", "neg_1", "neg_2"), False),
        (("sentence1", "sentence2", "score"), True),
        (("sentence_A", "sentence_B", "label"), True),
    ],
)
def test_columns_are_known_by_their_usual_names(names, scored, tmp_path, tiny):
    row = {name: f"{k} text" for k, name in enumerate(names)}
    if scored:
        row[names[2]] = 0.5
    loss = CoSENT() if scored else Ranking()
    run = run_of(tmp_path, tiny, [row], loss=loss)
    assert [f.column for f in run.data.prepare.fields] == list(names)
    task, source, _ = made(run)
    assert task.num_negatives == (0 if scored else len(names) - 2)
    assert source[0]["score"] == (0.5 if scored else 1.0)


def test_columns_that_are_not_there_are_named(tmp_path, tiny):
    with pytest.raises(ValueError, match="columns 'a', 'b'; name it in data.prepare.f"):
        run_of(tmp_path, tiny, [{"a": "x", "b": "y"}])
    with pytest.raises(ValueError, match=r"as the field 'score'"):
        run_of(tmp_path, tiny, [{"anchor": "x", "positive": "y"}], loss=CoSENT())


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"query": " "},
            r"record 3 of the split 'train' has an empty 'anchor', and 1 more",
        ),
        ({"positive": ""}, "record 3 .* has an empty 'positive'"),
        ({"positive": "a red car "}, "the same text as 'anchor' and 'positive', and 1"),
        ({"negatives": ["cars"]}, "record 3 .* a negative that is the 'positive' its"),
        ({"negatives": ["", "b"]}, "record 3 .* has an empty negative"),
    ],
)
def test_rows_that_teach_nothing_are_refused_or_counted(
    row, message, tmp_path, tiny, capsys
):
    rows = [*ROWS, ROWS[0] | row, ROWS[0] | row]
    with pytest.raises(ValueError, match=message):
        made(run_of(tmp_path, tiny, rows))
    run = run_of(tmp_path, tiny, rows, faulty="drop")
    _, source, _ = made(run)
    said = capsys.readouterr().err
    if "negatives" in row:
        assert len(source) == 5 and "2 negatives left out" in said
        assert len(source[3]["negatives"]) == len(row["negatives"]) - 1
    else:
        assert len(source) == 3 and "2 rows left out" in said


@pytest.mark.parametrize(
    ("score", "message"),
    [
        ("high", "the column 'score' is str 'high' and no number"),
        (float("nan"), "no finite number"),
        (4.0, "record 0 .* has a 'score' beyond task.max_score=1"),
        (None, "the column 'score' is nothing and no number"),
    ],
)
def test_scores_that_cannot_be_are_named(score, message, tmp_path, tiny):
    row = {"sentence1": "a", "sentence2": "b", "score": score}
    with pytest.raises(ValueError, match=message):
        made(run_of(tmp_path, tiny, [row], loss=CosineRegression()))
    if score == 4.0:
        run = run_of(tmp_path, tiny, [row], loss=CosineRegression(), max_score=5.0)
        assert made(run)[1][0]["score"] == 0.8


@pytest.mark.parametrize(
    ("part", "fields", "message"),
    [
        (
            "task",
            {"truncations": (Truncation(64),)},
            "size 64, and a vector of this mod",
        ),
        ("task", {"max_query": 2}, "leave no room for a text beside 2 special tokens"),
        (
            "data",
            {"batch_size": 1},
            "task.loss.kind='ranking' compares the rows of a b",
        ),
        ("data", {"packing": "concat"}, "needs data.packing='pad'"),
        ("loss", {"z_loss": 0.1}, "loss.z_loss=0.1 is a term of a cross entropy"),
    ],
)
def test_runs_that_do_not_fit_are_refused(part, fields, message, tiny):
    run = of_config(tiny, negatives=0)
    run = dataclasses.replace(
        run, **{part: dataclasses.replace(getattr(run, part), **fields)}
    )
    with pytest.raises(ValueError, match=message):
        make_task(run, PlainVocabulary(38))


# --- losses --------------------------------------------------------------------------


def random_vectors(B=5, C=2, D=8, seed=0):
    rng = np.random.default_rng(seed)
    made = rng.standard_normal((B, D)), rng.standard_normal((B, C, D))
    return Vectors(*(jnp.asarray(x, jnp.float32) for x in made))


def distinct(B=5, C=2):
    ids = np.arange(1, 1 + 2 * B * (1 + C)).reshape(-1, 2)
    return Texts(
        jnp.ones(B, bool),
        jnp.ones((B, C), bool),
        jnp.asarray(ids[:B]),
        jnp.asarray(ids[B:].reshape(B, C, 2)),
    )


def by_hand(vectors, texts, temperature, masked=()):
    """The loss of each anchor among all documents but `masked` (row, row', c)."""
    a, d = np.asarray(vectors.anchor_BD), np.asarray(vectors.docs_BCD)
    a, d = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (a, d))
    z = np.exp(np.einsum("bd,ecd->bec", a, d) / temperature)
    z *= np.asarray(texts.there_BC & texts.valid_B[:, None])[None]
    own = z[np.arange(len(a)), np.arange(len(a)), 0].copy()
    for place in masked:
        z[place] = 0
    return np.log(z.sum((1, 2)) / own)


def test_ranking_leaves_out_what_is_not_there_and_copies():
    vectors, texts = random_vectors(), distinct()
    nll, _ = losses.ranking(Ranking(0.3), vectors, texts)
    np.testing.assert_allclose(nll, by_hand(vectors, texts, 0.3), rtol=1e-5)
    there = texts.there_BC.at[1, 1].set(False)
    less = texts.replace(there_BC=there, valid_B=jnp.arange(5) < 4)
    nll, _ = losses.ranking(Ranking(0.3), vectors, less)
    with np.errstate(divide="ignore"):
        wanted = by_hand(vectors, less, 0.3)
    np.testing.assert_allclose(nll[:4], wanted[:4], rtol=1e-5)
    assert jnp.isfinite(nll).all()
    # row 2's negative is a copy of row 0's positive; rows 3 and 4 ask the same
    ids = texts.doc_id_BC2.at[2, 1].set(texts.doc_id_BC2[0, 0])
    asks = texts.anchor_id_B2.at[4].set(texts.anchor_id_B2[3])
    copied = texts.replace(doc_id_BC2=ids, anchor_id_B2=asks)
    nll, _ = losses.ranking(Ranking(0.3), vectors, copied)
    masked = [(0, 2, 1), (3, 4, 0), (4, 3, 0)]
    np.testing.assert_allclose(nll, by_hand(vectors, texts, 0.3, masked), rtol=1e-5)


def test_a_guide_leaves_out_what_it_finds_near():
    vectors, guide, texts = random_vectors(), random_vectors(seed=1), distinct()
    config = Ranking(0.3, negatives=GuidedNegatives(margin=0.1))
    a, d = (np.asarray(losses.unit(x)) for x in (guide.anchor_BD, guide.docs_BCD))
    near = np.einsum("bd,ecd->bec", a, d)
    limit = near[np.arange(5), np.arange(5), 0] - 0.1
    masked = [
        (b, e, c)
        for b, e, c in np.ndindex(near.shape)
        if near[b, e, c] > limit[b] and (b, 0) != (e, c)
    ]
    assert 3 < len(masked) < 40
    nll, _ = losses.ranking(config, vectors, texts, guide)
    np.testing.assert_allclose(nll, by_hand(vectors, texts, 0.3, masked), rtol=1e-5)


def test_both_ways_and_cosent_by_hand():
    vectors, texts = random_vectors(C=1), distinct(C=1)
    both = Ranking(0.3, ("query_to_doc", "doc_to_query"), "each")
    nll, _ = losses.ranking(both, vectors, texts)
    back = Vectors(vectors.docs_BCD[:, 0], vectors.anchor_BD[:, None])
    wanted = (by_hand(vectors, texts, 0.3) + by_hand(back, texts, 0.3)) / 2
    np.testing.assert_allclose(nll, wanted, rtol=1e-5)
    score = jnp.array([0.1, 0.9, 0.5, 0.5, 0.0])
    cosine = np.asarray(losses.cosines(vectors))
    valid = jnp.arange(5) < 4
    terms = [
        np.exp((cosine[i] - cosine[j]) / 0.3)
        for i in range(4)
        for j in range(4)
        if score[i] < score[j]
    ]
    value = losses.cosent(jnp.asarray(cosine), score, valid, 0.3)
    np.testing.assert_allclose(value, np.log(1 + sum(terms)), rtol=1e-5)


def test_equal_texts_are_known_whatever_their_row():
    tokens = jnp.array([[5, 6, 7, 9], [5, 6, 7, 0], [6, 5, 7, 0], [5, 6, 0, 0]])
    there = jnp.array([[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 0, 0]]) > 0
    ids = np.asarray(losses.identity(tokens, there))
    assert len({tuple(i) for i in ids.tolist()}) == 3 and (ids[0] == ids[1]).all()
    short = losses.identity(tokens[:, :3], there[:, :3])
    np.testing.assert_array_equal(ids, short)


# --- the task ------------------------------------------------------------------------


def of_config(tiny, dropout=0.0, microbatches=1, batch_size=8, **fields):
    model = dataclasses.replace(
        tiny, architecture="encoder", num_layers=1, dropout=dropout
    )
    data = DataConfig(packing="pad", seq_len=12, batch_size=batch_size)
    layout = LayoutConfig(microbatches=microbatches)
    task = TextEmbedding(**{"max_query": 8, "negatives": 1} | fields)
    return RunConfig(model, task, data, layout)


@pytest.mark.parametrize(
    ("architecture", "pooling"), [("encoder", "mean"), ("decoder", "last")]
)
def test_truncations_are_a_weighted_sum(architecture, pooling, tiny, random_params):
    """And each is the loss of vectors that are cut and made of length 1 again."""
    parts = (Truncation(16), Truncation(4, 0.5))
    run = of_config(tiny, truncations=parts, pooling=pooling)
    cfg = dataclasses.replace(run.model, architecture=architecture)
    task = make_task(dataclasses.replace(run, model=cfg), PlainVocabulary(38))
    batch = jax.tree.map(jnp.asarray, task.example_batch(6))
    model = task.model(cfg, run.layout)
    params = random_params(model, batch)

    @jax.jit
    def made(params):
        return loss_of(task, model)(params, {}, {}, batch, None), task.outputs(model)(
            {"params": params}, batch, None
        )

    (total, count, metrics, _), outputs = made(params)
    vectors = outputs["vectors"]
    anchors = {k: batch[f"anchor_{k}"] for k in ("tokens", "segment_ids", "positions")}
    x_BTD = model.apply({"params": params}, anchors, method="hidden")
    pooled = x_BTD.mean(1) if pooling == "mean" else x_BTD[:, -1]  # no padding
    np.testing.assert_allclose(vectors.anchor_BD, pooled, rtol=1e-4, atol=1e-5)
    whole, _ = losses.ranking(Ranking(), vectors.truncated(16), distinct(6))
    short, _ = losses.ranking(Ranking(), vectors.truncated(4), distinct(6))
    np.testing.assert_allclose(total, whole.sum() + 0.5 * short.sum(), rtol=1e-5)
    assert count == 6 and {"accuracy", "accuracy_4", "chance"} < metrics.keys()


LOSSES = {
    "ranking": {"loss": Ranking(directions=("query_to_doc", "doc_to_query"))},
    "guided": {"loss": Ranking(negatives=GuidedNegatives(margin=0.05))},
    "cosent": {"loss": CoSENT(), "truncations": (Truncation(16), Truncation(4))},
    "cosine": {"loss": CosineRegression()},
}


def stepped(run, devices=1, steps=1):
    """The weights before and after some steps of gradient descent, and the metrics."""
    task = make_task(run, PlainVocabulary(38))
    rows = task.example_batch(run.data.batch_size)
    rows["valid"][-1] = 0
    mesh = mesh_lib.make_mesh(run.layout, jax.devices()[:devices])
    program = setup.build(run, task, rows, mesh=mesh)
    state = program.init()
    before = jax.device_get(state.params)
    with mesh_lib.use(mesh):
        for _ in range(steps):
            state, (metrics, scalars) = program.step(state, program.place(rows))
    after, out = jax.device_get((state.params, (metrics, scalars)))
    return before, after, out, jax.device_get(state.frozen)


def sgd(run):
    optimizer = dataclasses.replace(
        run.optimizer, algorithm=SGD(momentum=0.0), learning_rate=1.0, weight_decay=0.0
    )
    optimizer = dataclasses.replace(optimizer, schedule=toy.CONFIG.optimizer.schedule)
    return dataclasses.replace(run, optimizer=optimizer)


@pytest.mark.parametrize("name", LOSSES)
def test_microbatches_and_devices_are_one_batch(name, tiny):
    """Loss, count and gradient, with a row that only fills up."""
    config = sgd(of_config(tiny, **LOSSES[name]))
    one = stepped(config, steps=2)
    norms = one[2][1]
    assert norms["grad_norm"] > 1e-3
    four = dataclasses.replace(config, layout=LayoutConfig(microbatches=4))
    two = dataclasses.replace(
        config, layout=LayoutConfig(microbatches=2, data=2, fsdp=2)
    )
    whole = dataclasses.replace(config, layout=LayoutConfig(data=8))
    others = [(four, 1), (two, 4), *([(whole, 8)] if name == "ranking" else [])]
    for other, devices in others:
        found = stepped(other, devices, steps=2)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
            (one[1], one[2][0], one[2][1]["grad_norm"]),
            (found[1], found[2][0], found[2][1]["grad_norm"]),
        )


def test_the_guide_is_the_model_as_it_began(tiny):
    run = sgd(of_config(tiny, **LOSSES["guided"]))
    before, after, _, frozen = stepped(run, steps=2)
    toy.assert_same_bits(frozen["reference"], before)
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), before, after)
    assert max(jax.tree.leaves(moved)) > 1e-3


def simcse(tiny, microbatches, dropout, views):
    model = dataclasses.replace(
        tiny, architecture="encoder", num_layers=1, dropout=dropout
    )
    data = DataConfig(packing="pad", seq_len=12, batch_size=8)
    layout = LayoutConfig(microbatches=microbatches)
    return sgd(RunConfig(model, SentenceEmbedding(views), data, layout))


def test_simcse_in_microbatches_is_one_batch(tiny):
    one, four = (stepped(simcse(tiny, k, 0.0, "halves")) for k in (1, 4))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        (one[1], one[2][0]),
        (four[1], four[2][0]),
    )


def test_dropout_is_the_same_in_both_passes(tiny):
    """The gradient is that of microbatches' outputs kept, with their own keys."""
    run = simcse(tiny, 4, 0.3, "dropout")
    before, _, (metrics, scalars), _ = stepped(run)
    task = make_task(run, PlainVocabulary(38))
    rows = task.example_batch(8)
    rows["valid"][-1] = 0
    rows = jax.tree.map(jnp.asarray, rows)
    loss = loss_of(task, task.model(run.model, run.layout))
    key = jax.random.fold_in(jax.random.key(run.train.seed), 0)

    @jax.value_and_grad
    def kept(params):
        parts = [
            loss.outputs(
                params,
                {},
                jax.tree.map(lambda x, i=i: x[i::4], rows),
                jax.random.fold_in(key, i),
            )
            for i in range(4)
        ]
        tree = jax.tree.map(lambda *x: jnp.stack(x, 1).reshape(8, -1), *parts)
        total, count, _ = loss.score(tree, rows, training=True)
        return total / count

    value, grads = jax.jit(kept)(before)
    np.testing.assert_allclose(metrics["loss"][0] / 7, value, rtol=1e-5)
    norm = np.sqrt(sum(float(jnp.sum(g**2)) for g in jax.tree.leaves(grads)))
    np.testing.assert_allclose(scalars["grad_norm"], norm, rtol=1e-4)


def test_memory_falls_with_the_microbatches(tiny):
    """Temporaries of the compiled step, as its activations come one microbatch."""
    model = dataclasses.replace(tiny, d_ff=256)
    sizes = []
    for k in (1, 8):
        run = of_config(model, microbatches=k, batch_size=128)
        task = make_task(run, PlainVocabulary(38))
        rows = task.example_batch(128)
        mesh = mesh_lib.make_mesh(run.layout, jax.devices()[:1])
        program = setup.build(run, task, rows, mesh=mesh)
        with mesh_lib.use(mesh):
            compiled = program.step.lower(program.restorable(), program.batch).compile()
        sizes.append(compiled.memory_analysis().temp_size_in_bytes)
    assert sizes[1] < 0.4 * sizes[0]


def test_a_wrapped_loss_cannot_be_cached(tiny):
    run = of_config(tiny, microbatches=2, batch_size=16)
    task = make_task(run, PlainVocabulary(38))
    wrapped = lambda task, model: lambda *a: loss_of(task, model)(*a)  # noqa: E731
    with pytest.raises(ValueError, match=r"layout.microbatches=2 computes them apart"):
        setup.build(run, task, task.example_batch(16), loss=wrapped)


def test_negatives_are_a_variant_of_their_own():
    assert Ranking().negatives == AllNegatives()
    with pytest.raises(ValueError, match="directions has doc_to_query; accepted"):
        Ranking(directions=("doc_to_query",))
    with pytest.raises(
        ValueError, match="query_to_query, which never has the positive"
    ):
        Ranking(directions=("query_to_doc", "query_to_query"), partition="each")
    with pytest.raises(
        ValueError, match="truncations has the sizes 4, 4; give each on"
    ):
        TextEmbedding(truncations=(Truncation(4), Truncation(4)))
