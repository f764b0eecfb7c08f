"""What the mains share: the flags, one-line errors, and result.json."""

import json
import sys
from collections.abc import Callable
from typing import Any

from absl import app, flags, logging
from etils import epath
from ml_collections import config_flags

from llmjax import config as cfg
from llmjax.parallel.processes import membership

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A file of configs/; --config.a.b=c sets a field."
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where the run lives; a local path or a bucket."
)


def launch(
    main: Callable[[], dict[str, Any] | None], required: tuple[str, ...] = ()
) -> None:
    """Runs `main`, which reads the flags; what it returns is `<workdir>/result.json`.

    A user's mistake ends in one line and exit code 2, without a traceback.
    """
    flags.mark_flags_as_required(list(required))

    def absl_main(argv: list[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.ERROR)  # orbax tells every step it takes
        with _one_line():
            if membership.requested():
                membership.join(config().train if CONFIG.value else cfg.TrainConfig())
            result = main()
        if result is not None and membership.rank() == 0:
            text = json.dumps(result, indent=1)
            print(text)
            if WORKDIR.value is not None:
                write_result(WORKDIR.value, text)

    def parse(argv: list[str]) -> list[str]:
        with _one_line(), cfg.reworded():
            return flags.FLAGS(argv)

    try:
        app.run(absl_main, flags_parser=parse)
    except flags.Error as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(2)
    except BaseException as e:
        membership.leave(e)
        raise


def config() -> cfg.RunConfig:
    """The parsed `--config`."""
    with cfg.reworded():
        return cfg.parse(CONFIG.value)


def write_result(workdir: str, text: str) -> None:
    """Writes `<workdir>/result.json`, whole or not at all."""
    folder = epath.Path(workdir).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "result.json.part"
    part.write_text(text + "\n")
    part.replace(folder / "result.json")


class _one_line:  # noqa: N801 - reads as a statement
    """Turns the errors that llmjax raises for a user's mistake into one line."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, (ValueError, FileNotFoundError)):
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
