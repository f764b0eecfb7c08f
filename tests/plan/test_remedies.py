"""Remedies come cheapest first, are compiled one by one, and two that fit end it."""

import pytest

from configs.pretrain import llama2_7b
from llmjax import config as cfg
from llmjax.plan.compiler.compile import Compiled, Memory, Seconds
from llmjax.plan.cost import chips, estimate
from llmjax.plan.cost.estimate import Size
from llmjax.plan.layouts import remedies
from llmjax.plan.layouts.changes import changed
from llmjax.train.setup import Program

SIZE = Size(weights=6_738_415_616, expert_weights=0, optimizer_bytes=8.0)
GIB = 2**30
# the remedies only pass it to `Size.of`, which the tests replace
PROGRAM = object.__new__(Program)


@pytest.fixture
def failed(monkeypatch):
    """Llama 2 7B on a quarter of the chips, 30 GiB too much by the compiler."""
    monkeypatch.setattr(Size, "of", lambda program: SIZE)
    topology = chips.parse("v5p:2x2x4")
    draft = llama2_7b.base()
    draft.layout.remat.saved = ("query", "key", "value", "context", "out", "gate", "up")
    run = cfg.parse(draft)
    return verdict(run, topology, 125 * GIB)


def verdict(run, topology, needed):
    available = topology.chip.usable_hbm_bytes
    return Compiled(
        run,
        topology,
        PROGRAM,
        Memory(0, 0, 0, needed, 0, 0) if needed <= available else None,
        needed,
        available,
        "" if needed <= available else "Ran out of memory",
        "",
        {},
        Seconds(0.0, 0.0, 0.0, 0.0),
    )


def bytes_of(run, topology):
    mesh = estimate.mesh_sizes(run.layout, topology.devices)
    return estimate.estimate(run, topology, SIZE, mesh).bytes


def compiler(failed, error=1.0):
    """A compiler that needs `error` times the bytes of the estimate."""
    scale = failed.needed / bytes_of(failed.config, failed.topology)

    def compile_step(run, topology):
        return verdict(run, topology, int(bytes_of(run, topology) * scale * error))

    return compile_step


def test_the_cheapest_that_should_fit_comes_first(failed):
    plausible = remedies.plausible(failed)
    assert [r.slower for r in plausible] == sorted(r.slower for r in plausible)
    assert all(r.predicted_bytes <= failed.available for r in plausible)
    assert all(
        "optimizer_memory" not in r.change for r in plausible
    )  # would save too little
    kinds = {tuple(r.change) for r in plausible}
    assert ("microbatches",) in kinds
    assert ("remat",) in kinds


def test_two_that_fit_are_enough(failed):
    tried = remedies.find(failed, compiler=compiler(failed))
    assert [t.fits for t in tried] == [True, True]
    assert all(t.needed <= failed.available for t in tried)


def test_remedies_that_do_not_fit_end_after_the_last_try(failed):
    tried = remedies.find(failed, compiler=compiler(failed, error=10.0))
    assert len(tried) == remedies.TRIES
    assert not any(t.fits for t in tried)


def test_a_layout_that_cannot_be_built_is_noted_and_passed_by(failed):
    good = compiler(failed)

    def compile_step(run, topology):
        if run.layout.microbatches > 1:
            raise ValueError("no such name")
        return good(run, topology)

    tried = remedies.find(failed, tries=20, enough=1, compiler=compile_step)
    assert [t.fits for t in tried][-1]
    assert {t.error for t in tried[:-1]} == {"no such name"}


def test_two_changes_together_where_one_is_not_enough(failed):
    topology = chips.parse("v5p:2x2x1")
    run = failed.config
    hopeless = verdict(run, topology, bytes_of(run, topology))
    single = remedies.candidates(run, estimate.mesh_sizes(run.layout, 4))
    assert all(
        bytes_of(changed(run, c), topology) > hopeless.available
        for c, _ in single
        if c.get("tensor", 1) == 1 and c.get("sequence", 1) == 1
    )
    plausible = remedies.plausible(hopeless)
    assert "and" in plausible[0].why
    assert len(plausible[0].change) > 1


def test_a_pipeline_may_keep_the_inputs_of_its_stages_alone():
    draft = llama2_7b.base()
    draft.layout.fsdp = 4
    draft.layout.remat = {"kind": "full"}
    draft.layout.pipeline.update(stages=4, microbatches=16)
    draft.data.batch_size = 128
    run, topology = cfg.parse(draft), chips.parse("v5p:2x2x4")
    mesh = estimate.mesh_sizes(run.layout, topology.devices)
    changes = [change for change, _ in remedies.candidates(run, mesh)]
    (change,) = (c for c in changes if c.keys() == {"pipeline"})
    after = changed(run, change)
    assert after.layout.pipeline == cfg.Pipeline(4, 1, 16, recompute=True)
    tokens = 128 * run.data.seq_len / 4
    of_stages = 2 * tokens * run.model.d_model  # bytes of a layer's inputs, bfloat16
    saved = bytes_of(run, topology) - bytes_of(after, topology)
    assert saved == pytest.approx(of_stages * (8 - 1 - 8 / 16))
    longer = estimate.step_flops(after) / estimate.step_flops(run)
    assert longer == pytest.approx(5 / 4, rel=0.03)


def test_rounds_of_a_pipeline_keep_the_weights_of_a_stage_for_each_time():
    draft = llama2_7b.get_config()
    draft.layout.fsdp = 4
    draft.layout.pipeline.update(stages=4, microbatches=16)
    draft.data.batch_size = 128
    run, topology = cfg.parse(draft), chips.parse("v5p:2x2x4")

    def held(**stages):
        after = changed(run, {"pipeline": cfg.Pipeline(4, microbatches=16, **stages)})
        return bytes_of(after, topology)

    times, of_stage = 16 * 2 + 3, 2 * 6.74e9 / 16 / 2  # bytes of its weights, bfloat16
    assert held(rounds=2) - held() == pytest.approx(times * of_stage, rel=1e-2)
    assert held(rounds=2, recompute=True) < held()
