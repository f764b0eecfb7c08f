"""Memory while a sharded checkpoint of 1 GB is loaded onto eight devices.

    python tests/proofs/load_memory.py

Writes random weights of a Llama with 13 scanned layers in shards of 200 MB, then loads
them in a fresh process fully sharded over eight forced CPU devices, while a thread
reads RssAnon (the memory that is no file's) every 2 ms. Prints how far it rose above
where it stood before, at its peak and at the end; exits 1 above 1.3 GB. About a minute.
"""

import argparse
import gc
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import jax
import numpy as np
from flax import traverse_util

from llmjax import hub
from llmjax.config import LayoutConfig, ModelConfig
from llmjax.hub.load import abstract
from llmjax.hub.stored_model import open_model
from llmjax.models.heads.language import LanguageModel
from llmjax.parallel.mesh import make_mesh

LIMIT = 1.3e9  # bytes
CONFIG = ModelConfig(
    vocab_size=32_000, d_model=1024, d_ff=4096, num_layers=13, num_heads=16
)


def write(folder: Path) -> None:
    """Random weights, 1 GB in float32."""
    model, rng = LanguageModel(CONFIG), np.random.default_rng(0)
    leaves = {
        path: rng.standard_normal(shape, np.float32)
        for path, shape in abstract(model)[0].items()
    }
    params = traverse_util.unflatten_dict(leaves, sep="/")
    hub.save(model, params, folder, shard_bytes=200 * 10**6)


def anonymous() -> int:
    """RssAnon of this process, in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("RssAnon:")[1].split()[0])


class Peak(threading.Thread):
    """The highest `anonymous` while it runs."""

    def __init__(self):
        super().__init__(daemon=True)
        self.bytes, self.done = anonymous(), threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.002):
            self.bytes = max(self.bytes, anonymous())


def read(folder: Path) -> int:
    """Loads the checkpoint; returns 0 if the peak stays under the limit."""
    stored = sum(p.stat().st_size for p in folder.glob("*.safetensors"))
    mesh = make_mesh(LayoutConfig(data=1, fsdp=8))
    abstract(open_model(folder).model())  # what tracing holds is no weights'
    jax.block_until_ready(jax.device_put(1.0))
    gc.collect()
    before, start = anonymous(), time.perf_counter()
    peak = Peak()
    peak.start()
    _, params = hub.load(folder, mesh=mesh)
    jax.block_until_ready(params)
    seconds, after = time.perf_counter() - start, anonymous()
    peak.done.set()
    peak.join()
    values = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    print(
        f"stored {stored / 1e9:.3f} GB, loaded {values / 1e9:.3f} GB on "
        f"{mesh.size} devices in {seconds:.1f} s"
    )
    rise = peak.bytes - before
    print(
        f"RssAnon above {before / 1e9:.3f} GB: at the end {(after - before) / 1e9:.3f}"
        f" GB, at the peak {rise / 1e9:.3f} GB (limit {LIMIT / 1e9} GB)"
    )
    return int(rise > LIMIT)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--read", type=Path)
    args = parser.parse_args()
    if args.write:
        write(args.write)
        return 0
    if args.read:
        return read(args.read)
    with tempfile.TemporaryDirectory() as scratch:
        folder = f"{scratch}/model"
        subprocess.run([sys.executable, __file__, "--write", folder], check=True)
        return subprocess.run([sys.executable, __file__, "--read", folder]).returncode


if __name__ == "__main__":
    sys.exit(main())
