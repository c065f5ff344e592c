"""What the readers of corpora share: an owner's table with line numbers, clips found by name, labels, folds, checks.

    owner's files ─► Found(where, key, example), one per clip ─► `listed` or `in_folds` ─► examples of a manifest

`where` is what a message begins with: "file:line", or the clip where a corpus has no table. A missing file, an
unknown label, a clip that stands twice and an empty part are errors; nothing is left out silently. No clip is opened.

Without a fold, a corpus of five folds is listed whole, each clip once, and `fold` says in whose test part it is. With
a fold, `fold` is that fold and `split` is train or test.
"""

import csv
import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from omni.emotions import canonical, label_space
from omni.errors import LabelError, ManifestError
from omni.manifest import Example

VIDEO = (".mp4", ".avi", ".mkv", ".mov", ".flv", ".webm")
FOLDS = (1, 2, 3, 4, 5)
PARTS = ("train", "test")


class Row(NamedTuple):
    """One row of an owner's table, its values stripped."""

    where: str
    values: dict[str, str]


class Found(NamedTuple):
    """One clip; `key` is what must not stand twice."""

    where: str
    key: str
    example: Example


Part = Callable[[int, str], Iterable[Found]]  # fold, "train" or "test" → its clips


def read_text(path: Path) -> str:
    """The text of a file in UTF-8; a byte order mark is taken off.

    Raises:
        ManifestError: no such file, or another encoding.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as err:
        raise ManifestError(
            f"There is no file {path}. Give --root the folder as its owner distributes it, unpacked.", code="not_found"
        ) from err
    except UnicodeDecodeError as err:
        line = err.object[: err.start].count(b"\n") + 1
        raise ManifestError(f"{path}:{line}: no UTF-8 text. Save the file as UTF-8.", code="bad_encoding") from err


def read_table(path: Path, columns: Sequence[str]) -> list[Row]:
    """The rows of a CSV file that has these columns, perhaps among others.

    Raises:
        ManifestError: no such file, a column missing, a row that does not fit the header, or no rows.
    """
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        header, found = reader.fieldnames or [], [(reader.line_num, values) for values in reader]
    except csv.Error as err:
        raise ManifestError(f"{path}:{reader.line_num + 1}: {err}. Take the owner's file.", code="bad_row") from err
    for column in columns:
        if column not in header:
            raise ManifestError(
                f"{path}:1: no column '{column}' in {', '.join(header) or 'an empty file'}. Take the owner's file.",
                code="bad_table",
            )
    rows = []
    for line, values in found:
        where = f"{path}:{line}"
        if None in values or None in values.values():
            raise ManifestError(
                f"{where}: the row has another number of columns than the header. Take the owner's file.",
                code="bad_row",
            )
        rows.append(Row(where, {column: value.strip() for column, value in values.items()}))
    if not rows:
        raise ManifestError(f"{path}:1: a header and no rows. Take the owner's file.", code="empty_file")
    return rows


def first_file(root: Path, names: Sequence[str]) -> Path:
    """The first of some places below a folder at which there is a file.

    Raises:
        ManifestError: at none of them.
    """
    for name in names:
        if (root / name).is_file():
            return root / name
    raise ManifestError(
        f"{root} has no {' or '.join(names)}. Give --root the folder as its owner distributes it, unpacked.",
        code="not_found",
    )


def clips_below(folder: Path, suffixes: Sequence[str] = VIDEO) -> dict[str, Path]:
    """Name without suffix → clip, for the clips in a folder and the folders in it or linked, in the order of paths.

    Raises:
        ManifestError: no such folder, or a name that stands twice.
    """
    if not folder.is_dir():
        raise ManifestError(
            f"There is no folder {folder}, where the clips should be. Unpack them there.", code="not_found"
        )
    clips: dict[str, Path] = {}
    files = (Path(home, name) for home, _, names in os.walk(folder, followlinks=True) for name in names)
    for path in sorted(files):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        if path.stem in clips:
            raise ManifestError(
                f"{path}: '{path.stem}' stands already at {clips[path.stem]}. Remove one.", code="duplicate"
            )
        clips[path.stem] = path
    return clips


def clip_named(key: str, clips: Mapping[str, Path], where: str, folder: Path) -> Path:
    """The clip of a row.

    Raises:
        ManifestError: there is none.
    """
    if key not in clips:
        raise ManifestError(f"{where}: there is no clip '{key}' below {folder}. Unpack it there.", code="no_clip")
    return clips[key]


def coded(codes: Mapping[str, str], code: str, what: str, where: str) -> str:
    """What a code of the owner means.

    Raises:
        LabelError: an unknown code.

    >>> coded({"1": "happy", "2": "sad"}, "1", "label", "set_1.csv:2")
    'happy'
    >>> coded({"1": "happy", "2": "sad"}, "8", "label", "set_1.csv:2")
    Traceback (most recent call last):
    omni.errors.LabelError: set_1.csv:2: unknown label '8'. Known are 1 (happy), 2 (sad).
    """
    if code not in codes:
        known = ", ".join(name if name == meaning else f"{name} ({meaning})" for name, meaning in codes.items())
        raise LabelError(f"{where}: unknown {what} '{code}'. Known are {known}.", code="unknown_label")
    return codes[code]


def label_in(space: str, word: str, where: str) -> str:
    """The label of a space for the owner's word.

    Raises:
        LabelError: a word that is not in the space.

    >>> label_in("mafw11", "helplessness", "train.txt:1")
    'helpless'
    """
    labels = label_space(space)
    label = canonical(word, labels)
    if label is None:
        raise LabelError(
            f"{where}: unknown label '{word}'. {space} has {', '.join(labels.labels)}.", code="unknown_label"
        )
    return label


def chosen(split: str, splits: Iterable[str]) -> tuple[str, ...]:
    """The splits that `--split` names: one of them, or all.

    Raises:
        ManifestError: another name.

    >>> chosen("all", ["train", "dev"]), chosen("dev", ["train", "dev"])
    (('train', 'dev'), ('dev',))
    """
    splits = tuple(splits)
    if split not in (*splits, "all"):
        raise ManifestError(f"Unknown split '{split}'. Use {', '.join(splits)} or all.", code="unknown_split")
    return splits if split == "all" else (split,)


def listed(found: Iterable[Found], place: object) -> list[Example]:
    """The examples of the clips found.

    Args:
        place: the folder that was read, for the message.

    Raises:
        ManifestError: a key that stands twice, or no clip.
    """
    seen: dict[str, str] = {}
    examples = []
    for where, key, example in found:
        if key in seen:
            raise ManifestError(f"{where}: '{key}' stands already at {seen[key]}. Remove one.", code="duplicate")
        seen[key] = where
        examples.append(example)
    if not examples:
        raise ManifestError(f"{place} has no clip of that kind. Check --root and the options.", code="no_clips")
    return examples


def in_folds(part: Part, fold: int | None, split: str, place: object) -> list[Example]:
    """The whole corpus by its five test parts, or the train and test part of one fold.

    A clip that is in two test parts, or in both parts of a fold, is one that stands twice.

    Args:
        part: the clips of a part of a fold.
        fold: one of `FOLDS`, or None for all clips.
        split: train, test or all; only with a fold.

    Raises:
        ManifestError: another fold or split, a split without a fold, a clip that stands twice, an empty part.
    """
    wanted = chosen(split, PARTS)
    if fold is None:
        if split != "all":
            raise ManifestError(f"--split {split} needs a fold. Add --fold 1, … 5.", code="no_fold")
        return listed((_marked(one, fold=k) for k in FOLDS for one in part(k, "test")), place)
    if fold not in FOLDS:
        raise ManifestError(f"Unknown fold {fold}. Use 1, 2, 3, 4 or 5.", code="unknown_fold")
    found = [_marked(one, fold=fold, split=name) for name in PARTS for one in part(fold, name)]
    for name in PARTS:
        if all(one.example.extra["split"] != name for one in found):
            raise ManifestError(f"{place}: fold {fold} has no {name} clip. Unpack the missing ones.", code="empty_fold")
    return [example for example in listed(found, place) if example.extra["split"] in wanted]


def speaker_folds(found: Sequence[Found], actors: Mapping[int, Sequence[str]]) -> Part:
    """Folds by the `actor` of each clip.

    Args:
        actors: fold → who is in its test part.
    """

    def part(fold: int, name: str) -> list[Found]:
        return [one for one in found if (one.example.extra["actor"] in actors[fold]) == (name == "test")]

    return part


def _marked(found: Found, **extra: object) -> Found:
    return found._replace(example=replace(found.example, extra=found.example.extra | extra))
