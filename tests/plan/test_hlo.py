"""Parsing the text of compiled programs, and counting their cycles."""

import pytest

from llmjax.plan.hlo import execution
from llmjax.plan.hlo.module import HloModule, parse
from llmjax.plan.hlo.summary import summarize
from tests.plan import compiled

LAYERS = 4
LOSS_BLOCKS = 8

LOOP = """HloModule m, is_scheduled=true

%add (a: s32[], b: s32[]) -> s32[] {
  %a = s32[] parameter(0)
  %b = s32[] parameter(1)
  ROOT %sum = s32[] add(%a, %b)
}

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p = (s32[], f32[8]{0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %two = s32[]{:T(128)} constant(2)
  %next = s32[]{:T(128)} add(%i, %two)
  %x = f32[8]{0} get-tuple-element(%p), index=1
  %y = f32[8]{0} fusion(%x), kind=kLoop, calls=%add, frontend_attributes={kernel={
"note":"{}"
}}, metadata={op_name="jit(f)/mul"}, backend_config={"estimated_cycles":"10"}
  ROOT %t = (s32[]{:T(128)}, /*index=1*/f32[8]{0}) tuple(%next, %y)
}

%condition (p: (s32[], f32[8])) -> pred[] {
  %p.1 = (s32[], f32[8]{0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%p.1), index=0
  %limit = s32[] constant(9)
  ROOT %less = pred[] compare(%i.1, %limit), direction=LT
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x.1 = f32[8]{0} parameter(0)
  %start = s32[] constant(START)
  %initial = (s32[], f32[8]{0}) tuple(%start, %x.1)
  %loop = (s32[], f32[8]{0}) while(%initial), condition=%condition, body=%bodyKNOWN
  %out = f32[8]{0} get-tuple-element(%loop), index=1
  ROOT %last = f32[8]{0} negate(%out), backend_config={"estimated_cycles":"3"}
}
"""


def loop(start: str = "1", known: str = "", test: str = "LT") -> HloModule:
    text = LOOP.replace("START", start).replace("KNOWN", known)
    return parse(text.replace("direction=LT", f"direction={test}"))


@pytest.mark.parametrize(
    "start, known, trips",
    [
        ("1", "", 4),  # 1, 3, 5, 7
        ("-4", "", 7),
        ("1", ', backend_config={"known_trip_count":{"n":"5"}}', 5),
    ],
)
def test_loops_count_with_their_trips(start, known, trips):
    program = loop(start, known)
    summary = summarize(program)
    assert [(x.body, x.trips, x.cycles) for x in summary.loops] == [
        ("body", trips, 10 * trips)
    ]
    assert summary.estimated_cycles == 10 * trips + 3


def test_a_loop_with_unknown_trips_counts_once():
    summary = summarize(loop(test="NE"))
    assert summary.loops[0].trips is None
    assert summary.estimated_cycles == 13


def test_an_instruction_may_span_several_lines():
    fusion = loop().computations["body"]["y"]
    assert (fusion.op_name, fusion.cycles, fusion.operands) == (
        "jit(f)/mul",
        10,
        ("x",),
    )


def test_text_without_a_program():
    with pytest.raises(
        ValueError, match=r"no ENTRY computation; give compiled.as_text"
    ):
        parse("HloModule m\n")


@pytest.mark.parametrize(
    "name, cycles", [("fsdp_v5e", 7_755_923), ("mixed_v5p", 3_159_247)]
)
def test_real_programs(name, cycles):
    """The cycles were checked with an independent parser. It misses instructions that a
    kernel's metadata breaks over lines: one copy of 7422 in each of 4 layers of
    `mixed_v5p`."""
    program = parse(compiled.text(name))
    summary = summarize(program)
    assert summary.estimated_cycles == cycles
    assert {x.trips for x in summary.loops} == {LAYERS, LOSS_BLOCKS}
    calls = {}
    for call in summary.pallas:
        calls[call.kernel] = calls.get(call.kernel, 0) + call.calls
    assert calls == {
        "splash_mha_fwd_residuals": 2 * LAYERS,  # remat runs it again
        "splash_mha_dq_no_residuals": LAYERS,
        "splash_mha_dkv_no_residuals": LAYERS,
    }
    assert {dict(c.blocks).get("block_kv_dkv") for c in summary.pallas} <= {512, None}
    assert "splash_attention_kernel.py:" in summary.pallas[0].source
    top = max(summary.largest, key=lambda row: row[3] if row[0] else 0)
    assert "mlp/down" in top[0] and ".py:" in top[1]


def test_fused_computations_are_not_entered():
    program = loop()
    names = {name for _, name, _ in execution.walk(program)}
    assert names == {"main", "body"}


def test_the_location_of_a_matmul_is_the_caller_of_its_projection():
    program = parse(compiled.text("mixed_v5p"))
    instructions = [i for x in program.computations.values() for i in x.values()]
    locations = {
        part: {i.location for i in instructions if f"/{part}/dot_general" in i.op_name}
        for part in ("gate/BTD,DF->BTF", "out/BTNH,NHD->BTD")
    }
    # the lines of FeedForward and Attention when the program was compiled
    assert locations == {
        "gate/BTD,DF->BTF": {"layers.py:162"},
        "out/BTNH,NHD->BTD": {"multihead.py:94"},
    }
