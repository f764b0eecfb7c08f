"""Hundreds of damaged files: each loads a whole model or is a ValueError, quickly."""

import json
import struct
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import traverse_util

from llmjax import hub
from llmjax.hub import families
from llmjax.hub.load import abstract

FILES = 150  # of each format
SECONDS, BYTES = 1.0, 64 << 20
EVIL = (0, 1, 2, 255, 2**16, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
JSON_EVIL = (*EVIL, -1, 1.5, 1e308, None, True, "", "F32", "x" * 50, [], {}, [[]], "\0")


def flip(rng, data, head):
    for _ in range(rng.integers(1, 4)):
        data[rng.integers(head)] ^= 1 << rng.integers(8)


def overwrite(rng, data, head):
    at, code = rng.integers(head - 8), "BHIQ"[rng.integers(4)]
    value = EVIL[rng.integers(len(EVIL))] & (256 ** struct.calcsize(code) - 1)
    struct.pack_into("<" + code, data, at, value)


def truncate(rng, data, head):
    del data[rng.integers(len(data)) :]


def cut(rng, data, head):
    at = rng.integers(head)
    del data[at : at + rng.integers(1, 64)]


def insert(rng, data, head):
    at = rng.integers(head)
    data[at:at] = rng.bytes(rng.integers(1, 64))


def copy(rng, data, head):
    a, b, n = rng.integers(head), rng.integers(head), rng.integers(1, 64)
    data[a : a + n] = data[b : b + n]


def anywhere(rng, data, head):
    flip(rng, data, len(data))


DAMAGES = (flip, flip, overwrite, overwrite, truncate, cut, insert, copy, anywhere)


def rewrite_json(rng, data, head):
    """Changes of a safetensors header: a value replaced, a key gone or doubled."""
    value = json.loads(bytes(data[8:head]))
    names = [k for k in value if k != "__metadata__"]
    name, other = (names[i] for i in rng.integers(len(names), size=2))
    evil = JSON_EVIL[rng.integers(len(JSON_EVIL))]
    key = ("shape", "dtype", "data_offsets")[rng.integers(3)]
    what = rng.integers(6)
    if what == 0:
        value[name][key] = evil
    elif what == 1 and value[name][key] and key != "dtype":
        value[name][key][rng.integers(len(value[name][key]))] = evil
    elif what == 2:
        value[name] = value[other]
    elif what == 3:
        value[f"{name}.more"] = value.pop(name)
    elif what == 4:
        value["__metadata__"] = evil
    else:
        del value[name]
    text = json.dumps(value).encode()
    data[:head] = struct.pack("<Q", len(text)) + text


@pytest.fixture(scope="module")
def seeds(tmp_path_factory, cfg, model, params, write_gguf):
    """format -> (the file that `load` opens or whose folder it does, header's size)."""
    folder = tmp_path_factory.mktemp("seeds")
    hub.save(model, params, folder / "model")
    single = folder / "model" / "model.safetensors"
    head = 8 + struct.unpack("<Q", single.read_bytes()[:8])[0]
    tensors = hub.to_hub(families.family("llama"), cfg, params)
    whole = write_gguf(folder / "model.gguf", cfg, tensors)
    size = whole.stat().st_size - sum(t.nbytes for t in tensors.values())
    return {"safetensors": (single, head), "gguf": (whole, size)}


def peak() -> int:
    """The most memory that this process has held since `forget`, in bytes.

    0 where the system does not tell (it tells on Linux).
    """
    if not Path("/proc/self/status").exists():
        return 0
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def forget() -> int:
    """Restarts `peak` at what is held now, which it returns."""
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")
    return peak()


def outcome(path: Path) -> bool:
    """Whether `path` loads; a ValueError is no, and anything else is raised."""
    try:
        model, params = hub.load(path)
    except ValueError as e:
        assert str(e)
        return False
    leaves = traverse_util.flatten_dict(jax.device_get(params), sep="/")
    assert {k: v.shape for k, v in leaves.items()} == abstract(model)[0]
    return True


@pytest.mark.parametrize("format_", ["safetensors", "gguf"])
def test_damaged_files(seeds, format_):
    file, head = seeds[format_]
    whole, path = file.read_bytes(), file if format_ == "gguf" else file.parent
    rng = np.random.default_rng(0)
    damages = DAMAGES + (rewrite_json,) * 4 * (format_ == "safetensors")
    assert outcome(path)
    loaded, worst = 0, (0.0, 0)
    for i in range(FILES):
        data = bytearray(whole)
        damage = damages[rng.integers(len(damages))]
        damage(rng, data, head)
        file.write_bytes(data)
        before, start = forget(), time.process_time()
        loaded += outcome(path)
        used = time.process_time() - start, peak() - before
        assert used[0] < SECONDS and used[1] < BYTES, (i, damage.__name__, used)
        worst = max(worst[0], used[0]), max(worst[1], used[1])
    file.write_bytes(whole)
    # weights may be any bits; headers seldom: both ways must have been taken
    assert 0.02 * FILES < loaded < 0.5 * FILES, loaded
    print(
        f"{format_}: {loaded} of {FILES} load; at worst {worst[0]:.2f} s and "
        f"{worst[1] >> 20} MB"
    )
