"""Two processes of four devices each load one checkpoint: each reads its half."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
from flax import traverse_util

ROOT = Path(__file__).resolve().parents[2]
# Loads `folder` over all eight devices; writes how many values it read of each tensor,
# and the first device's shard of one leaf.
LOAD = """
import dataclasses, importlib, json, sys
import jax, numpy as np
port, rank, folder, out = sys.argv[1:]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{port}", 2, int(rank))
from llmjax.config import LayoutConfig
from llmjax.parallel.mesh import make_mesh
loading = importlib.import_module("llmjax.hub.load")
source = loading.open_source(folder)
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
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    flags = "--xla_force_host_platform_device_count=4"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": flags}
    outs = [tmp_path / f"{rank}.json" for rank in range(2)]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", LOAD, str(port), str(rank), str(shards), str(out)],
            env=environment,
            stderr=subprocess.PIPE,
        )
        for rank, out in enumerate(outs)
    ]
    for process in running:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err.decode()[-2000:]
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
