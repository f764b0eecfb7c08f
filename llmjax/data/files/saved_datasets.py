"""A Hugging Face dataset saved to disk (`save_to_disk`), or several by split."""

import json
import pathlib
import re
from typing import Any

from llmjax.data.files import reading_tables
from llmjax.data.files.slices import FileSlice, evenly, unreadable

_DICT, _STATE, _INFO = "dataset_dict.json", "state.json", "dataset_info.json"
_SPLIT = re.compile(r"\w+([.-]\w+)*")


def is_one(folder: pathlib.Path) -> bool:
    """Whether a folder has what `save_to_disk` writes."""
    return (folder / _DICT).exists() or (folder / _STATE).exists()


def files(
    folder: pathlib.Path, label: str
) -> tuple[tuple[pathlib.Path, ...], tuple[FileSlice, ...], tuple[str, ...]]:
    """The files of a dataset, or of all of its splits.

    Returns:
      Files, slices, and the names of the classes, where `label` has them.

    Raises:
      ValueError: a file is damaged or of another form, or lies outside the folder.
    """
    paths: list[pathlib.Path] = []
    slices: list[FileSlice] = []
    names: tuple[str, ...] = ()
    for split, place in _splits(folder).items():
        names = _class_names(place, label) or names
        for file in _data_files(place):
            try:
                size = file.stat().st_size
            except OSError as e:
                raise unreadable(file, e) from None
            runs = evenly(reading_tables.num_batches(file), size)
            paths.append(file)
            slices += [
                FileSlice((str(file),), "arrow", start, stop, split, size // len(runs))
                for start, stop in runs
            ]
    if not paths:
        raise ValueError(f"{folder} is a dataset without data; save it again")
    return tuple(paths), tuple(slices), names


def _splits(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """The folder of each split; "" for a dataset that is none of several."""
    path = folder / _DICT
    if not path.exists():
        return {"": folder}
    splits = _object(path).get("splits")
    if not isinstance(splits, list) or not all(isinstance(s, str) for s in splits):
        raise _other(path, "its 'splits' are no list of names")
    for split in splits:
        if not _SPLIT.fullmatch(split):  # it becomes the name of files
            raise _other(path, f"its split {split!r} is no name")
    return {split: folder / split for split in splits}


def _data_files(place: pathlib.Path) -> list[pathlib.Path]:
    """The arrow files of a dataset, all in its folder."""
    path = place / _STATE
    state = _object(path)
    entries = state.get("_data_files")
    if not isinstance(entries, list):
        raise _other(path, "its '_data_files' are no list")
    if state.get("_indices_data_files"):
        raise ValueError(
            f"{path} is of a dataset that was selected or shuffled and lists its rows "
            "apart; save it again after `dataset.flatten_indices()`"
        )
    names = [e.get("filename") if isinstance(e, dict) else None for e in entries]
    for name in names:
        if not isinstance(name, str) or not name:
            raise _other(path, "an entry of its '_data_files' has no 'filename'")
        if pathlib.PurePath(name).is_absolute() or ".." in pathlib.PurePath(name).parts:
            raise ValueError(
                f"{path} names the file {name!r}, which is not in its folder and is "
                "not read; copy it there and save the dataset again"
            )
    return [place / str(name) for name in names]


def _class_names(place: pathlib.Path, label: str) -> tuple[str, ...]:
    """The names of the classes of a feature, or of a sequence of them."""
    path = place / _INFO
    if not label or not path.exists():
        return ()
    features = _object(path).get("features") or {}
    if not isinstance(features, dict):
        raise _other(path, "its 'features' are no object")
    feature = features.get(label)
    while isinstance(feature, dict) and isinstance(feature.get("feature"), dict):
        feature = feature["feature"]
    if isinstance(feature, list) and len(feature) == 1:  # a sequence of old
        (feature,) = feature
    names = feature.get("names") if isinstance(feature, dict) else None
    if names is None:
        return ()
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise _other(path, f"the 'names' of its feature {label!r} are no list of names")
    return tuple(names)


def _object(path: pathlib.Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes().decode())
    except OSError as e:
        raise unreadable(path, e) from None
    except (ValueError, RecursionError) as e:
        raise _other(path, f"it is not JSON: {e}") from None
    if not isinstance(value, dict):
        raise _other(path, f"it holds {type(value).__name__} and no object")
    return value


def _other(path: pathlib.Path, reason: str) -> ValueError:
    return ValueError(
        f"{path} is not as `datasets` writes it with `save_to_disk` ({reason}); save "
        "the dataset again, or move the file away if the folder holds other data"
    )
