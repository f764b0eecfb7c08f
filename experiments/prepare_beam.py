"""Cleans text files as an Apache Beam job, here or on a cluster: a TFDS dataset.

    bash launch/beam.sh --input='texts/*.jsonl.gz' --directory=~/.cache/llmjax

Other flags go to Beam: `--runner=FlinkRunner --flink_master=...`,
`--direct_num_workers=2 --direct_running_mode=multi_processing`. On Google's Dataflow:
`bash launch/dataflow.sh`. The `source` that is printed is a `data.source`
where `data.directory` is the directory.
"""

import sys
from typing import Any

import tensorflow_datasets as tfds
from absl import flags
from apache_beam.options.pipeline_options import PipelineOptions

from experiments import cli
from llmjax.config import PrepareConfig
from llmjax.data.prepare import beam_text

INPUT = flags.DEFINE_list("input", None, "Patterns of files, local or gs://.")
TEXT_FIELD = flags.DEFINE_string("text_field", "text", "The field with the text.")
DIRECTORY = flags.DEFINE_string("directory", None, "Where the dataset goes.")
RUNNER = flags.DEFINE_string("runner", "DirectRunner", "Beam's runner.")
MIN_CHARACTERS = flags.DEFINE_integer("min_characters", 80, "Shortest document.")
_BEAM: list[str] = []  # flags that are not ours


def main() -> dict[str, Any]:
    prepare = PrepareConfig(text=TEXT_FIELD.value, min_characters=MIN_CHARACTERS.value)
    options = PipelineOptions(_BEAM)
    accepted = options.get_all_options()
    unknown = options.get_all_options(retain_unknown_options=True).keys() - accepted
    if unknown:
        raise ValueError(
            f"neither a flag of ours nor of Beam: {', '.join(sorted(unknown))}; "
            "--help lists ours"
        )
    builder = beam_text.BeamText(
        config=beam_text.config(INPUT.value or (), prepare),
        data_dir=DIRECTORY.value,
        file_format="array_record",
    )
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(
            beam_runner=RUNNER.value, beam_options=options
        )
    )
    return {
        "source": f"tfds:{builder.name}/{builder.builder_config.name}",
        "folder": str(builder.data_path),
        **builder.info.metadata,
    }


def _take_beams_flags() -> None:
    """Moves the flags that are not ours from the command line to `_BEAM`."""
    names = {name for name in flags.FLAGS} | {f"no{name}" for name in flags.FLAGS}
    ours = [sys.argv[0]]
    for argument in sys.argv[1:]:
        name = argument.lstrip("-").partition("=")[0]
        mine = not argument.startswith("--") or name in names or name == "help"
        (ours if mine else _BEAM).append(argument)
    sys.argv[:] = ours


if __name__ == "__main__":
    _take_beams_flags()
    cli.launch(main, required=("input", "directory"))
