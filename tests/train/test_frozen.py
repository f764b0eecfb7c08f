"""Weights that are not trained: no gradient, no moments, saved once, checked."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from flax.traverse_util import flatten_dict

from llmjax.models.forward import variables
from llmjax.parallel.mesh import use
from llmjax.tasks.task import loss_of
from llmjax.train import loop
from llmjax.train.checkpoints import frozen
from llmjax.train.checkpoints.checkpoints import Checkpoints
from llmjax.train.checkpoints.reading import load_params
from llmjax.train.state import WithAxes
from tests.train import toy

STACK = "transformer/stack/group_0/*"
FREEZE = toy.change(toy.NOISY, optimizer={"freeze": (STACK,)})
TEACHER = {"w": np.arange(8, dtype=np.float32).reshape(4, 2) / 8}
AXES = {"w": ("D", None)}


def pulled(task, model):
    """The task's loss, and a pull of the final norm towards a teacher's sum."""
    inner = loss_of(task, model)

    def loss(params, frozen, extra, batch, rng):
        total, count, metrics, extra = inner(params, frozen, extra, batch, rng)
        scale = params["transformer"]["stack"]["final_norm"]["scale"]
        pull = (jnp.sum(frozen["teacher"]["w"]) - jnp.sum(scale)) ** 2
        seen = {"seen": extra["seen"] + 1}
        return total + pull * count, count, metrics, extra | seen

    return loss


def make(config=FREEZE, devices=1, teacher=TEACHER):
    trees = {"teacher": WithAxes(teacher, AXES)}
    extra = {"seen": WithAxes(np.int32(0))}
    return toy.program(config, devices, loss=pulled, frozen=trees, extra=extra)


def leaves(tree):
    return flatten_dict(tree, sep="/")


@pytest.fixture(scope="module")
def freezing():
    return make()


@pytest.fixture(scope="module")
def frozen_run(freezing, train, held_out, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("frozen")
    state, result = loop.fit(freezing, train, held_out, workdir, progress=False)
    return workdir, jax.device_get(state), result


def test_what_is_frozen_stays_and_the_rest_moves(freezing, frozen_run):
    _, state, result = frozen_run
    before = jax.device_get(freezing.init())
    toy.assert_same_bits(state.frozen["params"], before.frozen["params"])
    toy.assert_same_bits(state.frozen["teacher"], TEACHER)
    names = leaves(state.frozen["params"])
    assert names and all(name.startswith(STACK[:-1]) for name in names)
    assert not names.keys() & leaves(state.params).keys()
    for name, leaf in leaves(state.params).items():
        assert not np.array_equal(leaf, leaves(before.params)[name]), name
    assert state.extra["seen"] == 10
    sizes = [x.size for x in jax.tree.leaves(state.params)]
    assert result["trained_parameters"] == sum(sizes) < result["parameters"]


def test_the_step_holds_no_moment_and_no_gradient_of_frozen_weights():
    """Of an MLP beside which nothing else counts."""
    wide = toy.change(toy.CONFIG, model={"d_ff": 4096})
    frozen_mlp = toy.change(wide, optimizer={"freeze": ("*/mlp/*",)})
    argument, temporary = [], []
    for config in (wide, frozen_mlp):
        program = toy.program(config)
        with use(program.mesh):
            step = program.step.lower(program.restorable(), program.batch).compile()
        memory = step.memory_analysis()
        argument.append(memory.argument_size_in_bytes)
        temporary.append(memory.temp_size_in_bytes)
    mlp = sum(4 * x.size for x in jax.tree.leaves(program.abstract.frozen))
    assert mlp > 1e6
    assert argument[0] - argument[1] == 2 * mlp  # Adam's two moments
    assert temporary[0] - temporary[1] > 0.9 * mlp  # its gradient


@pytest.mark.parametrize("step", [2, 6])
def test_killed_and_resumed_with_a_teacher(
    step, freezing, frozen_run, train, held_out, tmp_path
):
    def kill():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ended = toy.Interrupted(train, step, kill)
        loop.fit(freezing, ended, held_out, tmp_path, progress=False)
    state, _ = loop.fit(make(), train, held_out, tmp_path, progress=False)
    toy.assert_same_bits(jax.device_get(state), frozen_run[1])


def test_frozen_trees_are_written_once_and_not_among_the_checkpoints(frozen_run):
    workdir, state, _ = frozen_run
    folders = {p.name for p in (workdir / "frozen").iterdir()}
    assert folders == {frozen.digest(tree) for tree in state.frozen.values()}
    saved = Checkpoints(workdir)._saved(10)
    assert not jax.tree.leaves(saved["frozen"])


def test_killed_between_both_writes(
    freezing, frozen_run, train, held_out, tmp_path, monkeypatch
):
    def fail(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("orbax.checkpoint.CheckpointManager.save", fail)
        with pytest.raises(KeyboardInterrupt):
            loop.fit(freezing, train, held_out, tmp_path, progress=False)
    folders = sorted((tmp_path / "frozen").iterdir())
    times = [f.stat().st_mtime_ns for f in folders]
    assert len(folders) == 2
    state, _ = loop.fit(freezing, train, held_out, tmp_path, progress=False)
    toy.assert_same_bits(jax.device_get(state), frozen_run[1])
    assert [f.stat().st_mtime_ns for f in folders] == times


def test_killed_within_the_first_write(freezing, tmp_path, monkeypatch):
    state = freezing.init()

    def fail(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(frozen.ocp.PyTreeCheckpointHandler, "finalize", fail)
        with pytest.raises(KeyboardInterrupt):
            frozen.save(epath.Path(tmp_path), state.frozen)
    reference = frozen.save(epath.Path(tmp_path), state.frozen)["teacher"]
    abstract = freezing.restorable().frozen["teacher"]
    found = frozen.restore(epath.Path(tmp_path), "teacher", reference, abstract)
    toy.assert_same_bits(found, TEACHER)


def test_another_teacher_is_refused_by_name(frozen_run, train, held_out):
    other = make(teacher={"w": TEACHER["w"] + 1})
    with pytest.raises(ValueError, match="'teacher' are not those that this run"):
        loop.fit(other, train, held_out, frozen_run[0], progress=False)
    without = toy.program(FREEZE)
    with pytest.raises(ValueError, match=r"\['params', 'teacher'\] and this run \['p"):
        Checkpoints(frozen_run[0]).restore(without.restorable())


def files_of(folder):
    return [f for f in folder.rglob("*") if f.is_file()]


def test_frozen_files_that_are_lost_or_changed_are_named(frozen_run, tmp_path):
    workdir, state, _ = frozen_run
    shutil.copytree(workdir, tmp_path / "run")
    reference = frozen.digest(state.frozen["params"])
    folder = tmp_path / "run" / "frozen"
    other = frozen.digest(state.frozen["teacher"])
    (folder / other).rename(folder / "teacher")
    program = make()
    with pytest.raises(ValueError, match=f"{other} does not exist; .*'teacher'"):
        Checkpoints(tmp_path / "run").restore(program.restorable())
    (folder / "teacher").rename(folder / other)
    largest = max(files_of(folder / reference), key=lambda f: f.stat().st_size)
    data = largest.read_bytes()
    largest.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=f"{largest} is damaged: it has"):
        load_params(tmp_path / "run", 10)
    (folder / reference).rename(folder / "lost")
    changed = jax.tree.map(lambda x: x + 1, state.frozen["params"])
    wrong = frozen.save(epath.Path(tmp_path / "other"), {"params": changed})["params"]
    shutil.copytree(tmp_path / "other" / "frozen" / wrong, folder / reference)
    with pytest.raises(ValueError, match="no longer their sha256"):
        load_params(tmp_path / "run", 10)


def test_weights_alone_are_all_of_the_model(frozen_run):
    workdir, state, _ = frozen_run
    config, params = load_params(workdir, 10)
    average = state.opt_state[-1].average
    wanted = variables(average, state.frozen)["params"]
    toy.assert_same_bits(params, wanted)
    assert config.optimizer.freeze == (STACK,)


def test_frozen_weights_lie_where_their_axes_say():
    config = toy.change(FREEZE, layout={"fsdp": 4, "tensor": 2, "data": 1})
    state = make(config, 8).init()
    teacher = state.frozen["teacher"]["w"]
    assert teacher.addressable_shards[0].data.shape == (1, 2)
    up = state.frozen["params"]["transformer"]["stack"]["group_0"]["layer_0"]["mlp"]
    assert up["up"]["kernel"].addressable_shards[0].data.shape == (2, 4, 16)


def test_a_callers_arrays_survive_the_run(train):
    teacher = jax.tree.map(jnp.asarray, TEACHER)
    program = make(teacher=teacher)
    for _ in range(2):
        with use(program.mesh):
            program.step(program.init(), program.place(train.batch(0)))
    toy.assert_same_bits(teacher, TEACHER)


def test_a_base_given_by_the_caller_is_not_trained(whole, train, noisy):
    """Weights of another run, under what is trained here."""
    base = {"transformer": {"stack": whole.state.params["transformer"]["stack"]}}
    program = toy.program(noisy, frozen={"params": WithAxes(base)})
    state = program.init()
    toy.assert_same_bits(jax.device_get(state.frozen["params"]), base)
    assert all("/stack/" not in name for name in leaves(state.params))
    with use(program.mesh):
        state, _ = program.step(state, program.place(train.batch(0)))
    toy.assert_same_bits(jax.device_get(state.frozen["params"]), base)


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (
            ("transformer/stak/*",),
            r"'transformer/stak/\*', which matches no weight; close.*transformer/stack",
        ),
        (("*",), r"freeze=\('\*',\) and .* leave none of the model's weights to train"),
    ],
)
def test_a_pattern_of_nothing_or_everything_is_named(patterns, message):
    with pytest.raises(ValueError, match=message):
        toy.program(toy.change(toy.CONFIG, optimizer={"freeze": patterns}))


def test_trees_that_do_not_fit_are_named(noisy):
    wrong = {"transformer": {"embeder": {"table": np.zeros((64, 16), np.float32)}}}
    with pytest.raises(ValueError, match=r"has transformer/embeder/table, .*embedder/"):
        toy.program(noisy, frozen={"params": WithAxes(wrong)})
    small = {"transformer": {"embedder": {"table": np.zeros((6, 16), np.float32)}}}
    with pytest.raises(ValueError, match=r"has shape \(6, 16\), .*wants \(64, 16\)"):
        toy.program(noisy, frozen={"params": WithAxes(small)})
    axes = {"w": ("D",)}
    with pytest.raises(ValueError, match=r"frozen/teacher/w has shape \(4, 2\)"):
        toy.program(noisy, frozen={"teacher": WithAxes(TEACHER, axes)})
    replaced = dataclasses.replace(WithAxes(TEACHER, AXES), axes={"v": ("D", None)})
    with pytest.raises(ValueError, match=r"frozen/teacher/w .* the axes None"):
        toy.program(noisy, frozen={"teacher": replaced})


@pytest.mark.parametrize(
    "name", ["_METADATA", "_sharding", "array_metadatas/process_0"]
)
def test_a_flipped_bit_in_what_describes_them_is_named(name, frozen_run, tmp_path):
    shutil.copytree(frozen_run[0], tmp_path / "run")
    file = max((tmp_path / "run" / "frozen").glob(f"*/{name}"), key=str)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match=f"{file} is damaged: its sha256"):
        for reference in (tmp_path / "run" / "frozen").iterdir():
            frozen.shapes(epath.Path(tmp_path / "run"), "params", reference.name)
