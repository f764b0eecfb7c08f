"""Transfers of a step: kind, axis, network and bytes."""

import pytest

from llmjax.plan.cost import chips
from llmjax.plan.hlo.collectives import by_kind_and_axis, collectives, replica_groups
from llmjax.plan.hlo.module import parse
from tests.plan import compiled

# Bytes in bfloat16 of one layer's weights and of the output table (see compiled.py).
LAYER = 2 * (2 * 512 * 512 + 2 * 512 * 256 + 3 * 512 * 1536)
TABLE = 2 * 4096 * 512


@pytest.mark.parametrize(
    "text, groups",
    [
        ("replica_groups={{0,2},{1,3}}, x", ((0, 2), (1, 3))),
        ("replica_groups=[2,2]<=[4], x", ((0, 1), (2, 3))),
        ("replica_groups=[2,2]<=[2,2]T(1,0), x", ((0, 2), (1, 3))),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}, x", ((0, 2), (1, 3))),
        ("replica_groups=mesh['a'=4] {'a':(2)2}, x", ((0, 1), (2, 3))),
        ("replica_groups=mesh['a'=4] {'a':(1)2}, x", ((0, 2), (1, 3))),
        ("source_target_pairs={{0,1},{1,0}}, x", ((0, 1), (1, 0))),
        ("replica_groups={}, x", ((0, 1, 2, 3),)),
    ],
)
def test_groups_in_every_form(text, groups):
    assert replica_groups(text, 4) == groups


def test_an_unknown_form_of_groups_is_an_error():
    with pytest.raises(ValueError, match="replica_groups=<new>.*cannot be read"):
        replica_groups("replica_groups=<new>", 4)


def rows(name: str, topology: str, **sizes: int):
    mesh = compiled.mesh(chips.parse(topology), **sizes)
    transfers = collectives(parse(compiled.text(name)), mesh)
    table = {(r["kind"], r["axis"]): r for r in by_kind_and_axis(transfers)}
    return transfers, table


def test_bytes_of_a_real_program_over_three_axes():
    """Weights are gathered over fsdp by the forward pass and again by remat, the output
    table by every block of the loss; their tensor shards stay apart."""
    _, table = rows("mixed_v5p", "v5p:2x2x4", data=2, fsdp=4, tensor=2)
    gathered = table["all-gather", "fsdp"]
    assert gathered["result_bytes"] == (2 * 4 * LAYER + 8 * TABLE) // 2
    assert gathered["link_bytes"] == gathered["result_bytes"] * 3 // 4
    # out and down are reduced whole, the other five in fusions that scatter
    whole, scattered = 4 * 2 * (512 * 512 + 512 * 1536) // 2, 4 * LAYER // 2
    assert table["all-reduce", "fsdp"]["result_bytes"] - whole < 1000  # and norms
    output_table = 8 * 2 * TABLE // 2  # in float32
    reduced = table["reduce-scatter", "fsdp"]["result_bytes"]
    assert reduced == scattered - whole + output_table
    # activations in bfloat16 [2, 1024, 512]: after out and down, and backward
    activations = 2 * 2 * 1024 * 512
    tensor = table["all-reduce", "tensor"]
    assert tensor["result_bytes"] >= 5 * 4 * activations
    assert tensor["link_bytes"] == tensor["result_bytes"]  # 2 (n - 1) / n of two
    assert ("all-reduce", "data") in table


def test_counts_and_overlap_of_a_real_program_over_one_axis():
    """The counts were checked with an independent parser."""
    transfers, table = rows("fsdp_v5e", "v5e:4x4", fsdp=16)
    calls = {kind: row["calls"] for (kind, _), row in table.items()}
    assert calls == {
        "all-gather": 33,
        "all-reduce": 10,
        "collective-permute": 1020,
        "all-to-all": 2,
    }
    assert {axis for _, axis in table} == {"fsdp"}
    permutes = [c for c in transfers if c.kind == "collective-permute"]
    assert all(c.asynchronous for c in permutes)
    fused = [c for c in transfers if c.start.startswith("async-collective-start")]
    assert fused and all(c.done.startswith("async-collective-done") for c in fused)
    assert any(not c.asynchronous for c in transfers)


RENDEZVOUS = (
    '_xla_host_transfer_rendezvous="all-reduce.1_0",'
    '_xla_megascale_target="{1,2}x{0:15}",_xla_megascale_transfer_type="ALL_REDUCE"'
)
BIG, SMALL = "bf16[4,64]{1,0:S(5)}", "bf16[1,64]{1,0}"
ACROSS = f"""HloModule m

ENTRY %main (x: f32[256]) -> f32[256] {{
  %x = f32[256]{{0}} parameter(0)
  %go = token[] after-all()
  %send.1 = (f32[256]{{0}}, u32[], token[]) send(%x, %go), channel_id=1, {RENDEZVOUS}
  %recv.1 = (f32[256]{{0}}, u32[], token[]) recv(%go), channel_id=2, {RENDEZVOUS}
  %send-done.1 = token[] send-done(%send.1), channel_id=1
  %recv-done.1 = (f32[256]{{0}}, token[]) recv-done(%recv.1), channel_id=2
  %a = (({BIG}, {SMALL}, s32[]), {BIG}, u32[]) dynamic-update-slice-start(%x, %x, %x)
  %a.done = {BIG} dynamic-update-slice-done(%a)
  %near = (f32[64]{{0:S(1)}}, f32[64]{{0}}, u32[]) copy-start(%d)
  ROOT %y = f32[256]{{0}} get-tuple-element(%recv-done.1), index=0
}}
"""


def test_slices_and_hosts():
    """Slices exchange through their hosts' runtime; offloaded arrays go to the host."""
    mesh = compiled.mesh(chips.parse("v5e:4x4", 2), data=2, fsdp=16)
    across, offload = collectives(parse(ACROSS), mesh)
    assert (across.kind, across.axis, across.network) == ("all-reduce", "data", "dcn")
    assert (across.group_size, across.link_bytes) == (2, 1024)
    assert (across.start, across.done) == ("send.1", "recv-done.1")
    sent = (offload.kind, offload.network, offload.link_bytes)
    assert sent == ("host-copy", "host", 128)
    assert (offload.start, offload.done) == ("a", "a.done")


MIXED = """HloModule m

ENTRY %main (x: f32[4]) -> f32[4] {
  %x = f32[4]{0} parameter(0)
  ROOT %y = f32[4]{0} all-reduce(%x), channel_id=1, replica_groups=GROUPS, to_apply=%add
}
"""


@pytest.mark.parametrize(
    "groups, axis",
    [
        ("{{0,1},{2,3},{4,5},{6,7}}", "tensor"),
        ("{{0,2,4,6},{1,3,5,7}}", "data+fsdp"),
        ("{{0,1,2,3,4,5,6,7}}", "data+fsdp+tensor"),
        ("{{0,3},{1,2},{4,7},{5,6}}", "mixed"),
        ("{{0,1},{2,4},{3,5},{6,7}}", "mixed"),
    ],
)
def test_axes_from_groups(groups, axis):
    mesh = compiled.mesh(chips.parse("v5e:2x4"), data=2, fsdp=2, tensor=2)
    (transfer,) = collectives(parse(MIXED.replace("GROUPS", groups)), mesh)
    assert transfer.axis == axis
