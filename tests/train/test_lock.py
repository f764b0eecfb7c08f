"""Two runs do not share a workdir."""

import os
import socket

import pytest
from etils import epath

from llmjax.train import lock


def test_the_second_run_is_told_of_the_first(tmp_path):
    workdir = epath.Path(tmp_path)
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    told = f"is in use by {holder}: .*--workdir"
    with lock.held(workdir), pytest.raises(ValueError, match=told), lock.held(workdir):
        pass
    with lock.held(workdir):
        pass


def test_storage_without_locks_is_said(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(lock.UNABLE[0], "no locks")

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    with lock.held(epath.Path(tmp_path)):
        assert "is on storage without locks" in capsys.readouterr().err
