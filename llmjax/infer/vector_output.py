"""Vectors in one array of a file, as `llmjax.infer.output` writes rows."""

import json
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llmjax.infer.output import Output, Rows

NAME = "vectors"  # of the array


class VectorOutput(Output):
    """A .npz or .safetensors with the float32 array `vectors`, a row of it each.

    `NAME.part` has the numbers alone, to which the file's beginning is put at the end.
    """

    endings = (".npz", ".safetensors")

    def __init__(self, path: Path, identity: Mapping[str, Any]):
        super().__init__(path, identity)
        size = self._part.stat().st_size // 4
        self._width = size // self.rows if self.rows else 0

    def _encoded(self, rows: Rows) -> bytes:
        """The numbers of rows' `vector`."""
        vectors = np.array([row["vector"] for row in rows], "<f4")
        self._width = vectors.shape[1]
        return vectors.tobytes()

    def finish(self) -> None:
        """Writes the file beside its numbers, and removes these."""
        new = self.path.with_name(f"{self.path.name}.new")
        with self._held:
            self._file.flush()
            with self._part.open("rb") as numbers:
                if self.path.suffix.lower() == ".npz":
                    self._write_npz(new, numbers)
                else:
                    self._write_safetensors(new, numbers)
            new.replace(self.path)
            self._part.unlink()
            self._progress.unlink(missing_ok=True)

    def _write_npz(self, file: Path, numbers: Any) -> None:
        shape = (self.rows, self._width)
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        with (
            zipfile.ZipFile(file, "w") as archive,
            archive.open(f"{NAME}.npy", "w", force_zip64=True) as out,
        ):
            np.lib.format.write_array_header_1_0(out, header)
            shutil.copyfileobj(numbers, out, 2**20)

    def _write_safetensors(self, file: Path, numbers: Any) -> None:
        shape = [self.rows, self._width]
        offsets = [0, 4 * self.rows * self._width]
        about = {"dtype": "F32", "shape": shape, "data_offsets": offsets}
        header = json.dumps({NAME: about}).encode()
        header += b" " * (-len(header) % 8)
        with file.open("wb") as out:
            out.write(len(header).to_bytes(8, "little") + header)
            shutil.copyfileobj(numbers, out, 2**20)
