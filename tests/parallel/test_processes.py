"""Two real processes: each makes its share of a batch, and together they have it."""

import json

import pytest

from tests import two_processes

pytestmark = pytest.mark.slow

# For every layout: the share of this process, and whether the batch that is put
# together, at a place that tells its row and column, is the whole one.
TOGETHER = """
import dataclasses
import json
import numpy as np
from llmjax.config import LayoutConfig
from llmjax.parallel import axes
from llmjax.parallel.processes import distributed
from llmjax.parallel.mesh import make_mesh
whole = np.arange(8 * 16).reshape(8, 16)
told = []
for sizes in json.loads(sys.argv[3]):
    layout = LayoutConfig(data=1)
    layout = dataclasses.replace(layout, **layout.mesh_fields(sizes))
    mesh = make_mesh(layout)
    on = axes.batch_sharding(mesh, {"x": whole})["x"]
    k, n = distributed.share(mesh)
    own = whole.reshape(n, -1, 16)[k]
    x = jax.make_array_from_process_local_data(on, own, whole.shape)
    right = all((np.asarray(s.data) == whole[s.index]).all()
                for s in x.addressable_shards)
    told.append([k, n, right])
open(sys.argv[4], "w").write(json.dumps(told))
"""
SHARES = [
    ({"data": 8}, 2),
    ({"data": 2, "tensor": 4}, 2),
    ({"expert": 2, "sequence": 4}, 2),
    ({"sequence": 8}, 1),
    ({"tensor": 8}, 1),
    ({"pipeline": 2, "fsdp": 4}, 1),
    ({"pipeline": 4, "fsdp": 2}, 1),
]


def test_processes_hold_the_rows_that_their_devices_need(tmp_path):
    sizes = json.dumps([layout for layout, _ in SHARES])
    two_processes.run(TOGETHER, sizes, tmp_path / "RANK.json")
    for rank in range(2):
        told = json.loads((tmp_path / f"{rank}.json").read_text())
        assert told == [[rank % n, n, True] for _, n in SHARES]
