"""Two real processes train as one does; one is lost, and all goes on from there."""

import json
import sys

import numpy as np
import pytest
from etils import epath

from llmjax.data.store import manifest
from llmjax.parallel.processes import supervise
from llmjax.train.metrics import writers
from tests.train import toy, toy_main

pytestmark = pytest.mark.slow


def test_a_lost_process_is_named_and_then_it_goes_on_as_a_single_one_does(
    whole, tmp_path, capfd, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", str(toy_main.ROOT))
    monkeypatch.chdir(toy_main.ROOT)
    flags = ["--processes=2", "--devices=2", f"--logs={tmp_path}", "--timeout=5"]
    main = [sys.executable, "-m", "tests.train.toy_main", "--layout=fsdp=2,tensor=2"]
    command = [*flags, "--", *main, f"--workdir={tmp_path}/run"]

    assert supervise.main([*command, "--lose=1:5"]) == 137
    said = capfd.readouterr().err
    assert "process 1 of 2 was killed by SIGKILL after step" in said
    assert "the other 1 have ended" in said
    # told to end by something else than the supervisor: both save, and end at one step
    told = [*flags, "--restarts=2", *command[len(flags) :], "--lose=1:5"]
    told.append("--signal=SIGTERM")
    assert supervise.main(told) == supervise.STOPPED
    said = capfd.readouterr().err
    assert "was lost" not in said and "starting all again" not in said
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert not result["finished"] and 3 < result["step"] < 10
    assert supervise.main(command) == 0

    listed = manifest.read_json(
        epath.Path(tmp_path / "run/checkpoints/10/checksums.json")
    )
    hashed = {n.split("/")[1] for n in listed if n.startswith("state/ocdbt.process_")}
    assert hashed == {"ocdbt.process_0", "ocdbt.process_1"}
    assert not [n for n in listed if "checksums" in n]  # the parts were joined

    one, two = (toy.untimed(writers.read(w)) for w in (whole.workdir, tmp_path / "run"))
    for wanted, found in zip(one, two, strict=True):
        assert wanted.keys() == found.keys()
        for name, value in wanted.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)
