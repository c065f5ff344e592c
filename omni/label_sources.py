"""What there is to label: files, folders, globs, manifests and paths on stdin → clips with their questions.

    clip.mp4            a file, taken as it is, even if it does not exist: it becomes a row with an error
    recordings/         every media file below the folder, sorted; hidden ones and linked folders are left out
    "day?/**/*.mp4"     a glob; ** goes through folders but not through links, so that a loop of links ends
    table.csv           a manifest (.csv, .jsonl, .parquet) with a column `clip`; `question` goes before --question,
                        and every other column passes through to the table, named manifest_NAME where the table has
                        a NAME of its own; a manifest_NAME of the manifest gets another manifest_ in front
    -                   paths on stdin, one a line; or between zero bytes, as `find -print0` writes them

A clip that several sources name, absolute or relative, is taken once for each question, from the first of them and
under the path that stands there. A manifest that names a clip twice with one question is refused: which of the two
rows should pass through?
"""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .errors import ClipError, ManifestError, OmniError
from .journal import encodable
from .label_row import COLUMNS
from .manifest import FORMATS, Example, read_manifest

STDIN = "-"
VIDEO = ".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ts .flv .wmv .3gp .gif"
SOUND = ".wav .mp3 .m4a .aac .flac .ogg .opus"
STILL = ".jpg .jpeg .png .bmp .webp"
MEDIA = frozenset(f"{VIDEO} {SOUND} {STILL}".split())  # what is taken from a folder
CLASH = "manifest_"
CLASHING = re.compile(f"(?:{CLASH})*(?:{'|'.join(COLUMNS)})")


class Wanted(NamedTuple):
    """A clip to label. A question of None is the model's own; `extra` are the columns that pass through."""

    path: Path
    question: str | None = None
    extra: dict[str, Any] = {}  # noqa: RUF012 (never changed)


class Shard(NamedTuple):
    """Part `number` of `of`, from 1: every `of`-th clip.

    >>> Shard(2, 3).of_these("abcdefgh")
    'beh'
    """

    number: int
    of: int

    def of_these(self, clips: Any) -> Any:
        return clips[self.number - 1 :: self.of]


def parse_shard(text: str) -> Shard:
    """What "2/8" means.

    Raises:
        OmniError: something else.

    >>> parse_shard("2/8")
    Shard(number=2, of=8)
    """
    number, _, of = text.partition("/")
    if number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of):
        return Shard(int(number), int(of))
    raise OmniError(f"The shard is '{text}'. Give two numbers, from 1/8 to 8/8 for eight parts.", code="bad_argument")


def find_clips(sources: Iterable[str | Path], question: str | None = None) -> list[Wanted]:
    """The clips that the sources name, in their order, each once for each question.

    Args:
        question: for clips whose manifest has none.

    Raises:
        ClipError: a folder without media files or that cannot be listed, a glob without matches, or no sources.
        ManifestError: a broken manifest, or one that names a clip twice with the same question.
    """
    question = question and encodable(question)
    found: dict[tuple[str, str | None], Wanted] = {}
    for source in sources:
        clips = list(_expand(os.path.expanduser(source), question))
        if not clips:
            raise ClipError(f"There are no clips in {source}. Give files, folders or manifests.", code="no_clips")
        for clip in clips:
            found.setdefault((os.path.abspath(clip.path), clip.question), clip)
    if not found:
        raise ClipError("There is nothing to label. Give files, folders or manifests.", code="no_clips")
    return list(found.values())


def _expand(source: str, question: str | None) -> Iterable[Wanted]:
    path = Path(source)
    if not source:  # an unset variable of a shell, which is not the folder that one stands in
        return []
    if source == STDIN:
        names = _names(sys.stdin.buffer.read())
        return [Wanted(file, question) for name in names for file in _files(Path(name))]
    if path.suffix.lower() in FORMATS and not path.is_dir():
        return _of_manifest(path, question)
    if glob.has_magic(source) and not path.exists():
        return [Wanted(file, question) for file in _matches(path)]
    return [Wanted(file, question) for file in _files(path)]


def _names(raw: bytes) -> list[str]:
    r"""
    >>> _names(b"a.mp4\r\nb c.mp4\n\n"), _names(b"a\nb.mp4\0c.mp4\0")
    (['a.mp4', 'b c.mp4'], ['a\nb.mp4', 'c.mp4'])
    """
    parts = raw.split(b"\0") if b"\0" in raw else [line.rstrip(b"\r") for line in raw.split(b"\n")]
    return [os.fsdecode(part) for part in parts if part]


def _files(path: Path) -> list[Path]:
    return _media_below(path) if path.is_dir() else [path]


def _media_below(folder: Path) -> list[Path]:
    def refuse(err: OSError) -> None:
        raise ClipError(
            f"Cannot list the folder {err.filename}: {err.strerror}. Change its permissions, or leave it out.",
            code="not_allowed_path",
        ) from err

    files = []
    for root, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if name[0] != "."]
        files += [Path(root) / name for name in names if name[0] != "." and Path(name).suffix.lower() in MEDIA]
    # A link that leads nowhere is a clip that somebody misses: it gets its row.
    return sorted(file for file in files if file.is_file() or file.is_symlink())


def _matches(pattern: Path) -> list[Path]:
    """Files that match. `glob.glob` would follow links through **, forever where they form a loop of loops."""
    parts = pattern.parts
    plain = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    base = Path(*parts[:plain])
    rest = [part if part == "**" else part.replace("**", "*") for part in parts[plain:]]  # as the shell reads a**b
    hidden = any(part.startswith(".") for part in rest)
    found = (file for file in base.glob("/".join(rest)) if file.is_file())
    return sorted(file for file in found if hidden or not _is_hidden(file.relative_to(base)))


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _of_manifest(path: Path, question: str | None) -> Iterator[Wanted]:
    seen = set()
    for example in read_manifest(path):
        asked = encodable(example.question) if example.question else question
        if (example.clip, asked) in seen:
            raise ManifestError(
                f"{path} names {example.clip.name} twice with the same question. Leave one row out, or give them "
                "different questions.",
                code="clip_twice",
            )
        seen.add((example.clip, asked))
        yield Wanted(example.clip, asked, _passing(example))


def _passing(example: Example) -> dict[str, Any]:
    """The columns of a manifest that pass through, no two under one name.

    >>> _passing(Example(Path("a.mp4"), "sad", extra={"take": 2, "seed": 7}))
    {'manifest_label': 'sad', 'take': 2, 'manifest_seed': 7}
    >>> _passing(Example(Path("a.mp4"), "sad", extra={"manifest_label": "happy"}))
    {'manifest_label': 'sad', 'manifest_manifest_label': 'happy'}
    """
    known = {"label": example.label, "rationale": example.rationale}
    columns = {name: value for name, value in known.items() if value is not None} | example.extra
    return {CLASH + name if CLASHING.fullmatch(name) else name: value for name, value in columns.items()}
