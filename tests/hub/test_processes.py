"""Two processes of four devices each load one checkpoint: each reads its half."""

import json

import numpy as np
from flax import traverse_util

from tests import two_processes

# Loads `folder` over all eight devices; writes how many values it read of each tensor,
# and the first device's shard of one leaf.
LOAD = """
import dataclasses, importlib, json, sys
import numpy as np
folder, out = sys.argv[3:]
from llmjax.config import LayoutConfig
from llmjax.parallel.mesh import make_mesh
loading = importlib.import_module("llmjax.hub.load")
source = loading.open_model(folder)
read = dict.fromkeys(source.tensors, 0)
def counting(name, stored):
    def f(index):
        array = stored.read(index)
        read[name] += array.size
        return array
    return dataclasses.replace(stored, read=f)
tensors = {k: counting(k, s) for k, s in source.tensors.items()}
source = dataclasses.replace(source, tensors=tensors)
mesh = make_mesh(LayoutConfig(data=1, fsdp=8))
params = loading.read_params(source, source.model(), mesh=mesh)
up = params["transformer"]["stack"]["group_0"]["layer_0"]["mlp"]["up"]["kernel"]
shards = {str(s.index): np.asarray(s.data).tolist() for s in up.addressable_shards}
open(out, "w").write(json.dumps([read, shards]))
"""


def test_each_process_reads_its_own_part(shards, tmp_path, params):
    two_processes.run(LOAD, shards, tmp_path / "RANK.json")
    outs = [tmp_path / f"{rank}.json" for rank in range(2)]
    (read, blocks), (read_too, blocks_too) = (json.loads(o.read_text()) for o in outs)
    leaf = traverse_util.flatten_dict(params, sep="/")[
        "transformer/stack/group_0/layer_0/mlp/up/kernel"
    ]
    name = "model.layers.{}.mlp.up_proj.weight"
    for layer in range(3):
        half = leaf[layer].size // 2
        assert read[name.format(layer)] == read_too[name.format(layer)] == half
    assert read["model.norm.weight"] == read_too["model.norm.weight"] == 16
    assert len(blocks) == len(blocks_too) == 4 and not blocks.keys() & blocks_too
    for index, block in (blocks | blocks_too).items():
        where = eval(index, {"slice": slice})
        np.testing.assert_array_equal(np.float32(block), leaf[where])
