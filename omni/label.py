"""Many clips in, one table out: a JSON object per line and per clip.

    sources ─► files ─► sha256 ─► known? ─► read ─► batches ─► answers ─► row, appended and synced at once

A row has the fields of `omni ask --json` (`clip_row`), and `status` ("ok" or "error") and `error` ({code, message}
or null). A clip that cannot be read or answered becomes such a row and stops nothing.

The run can be killed at any time and is resumed by the same command. A finished row is known by the sha256 of the
clip's bytes, the question, the labels, the model's name and whether reasons were asked for, not by its path, so a
renamed clip is not labelled again. A table has as many rows of a content as there are files of it: a copy of a clip
gets its own row with the answer of the first, at no cost. Rows with an error are tried again, and replaced. A last
line that was torn by a kill or a full disk is cut off.

Left out, for now: decoding ahead of the model, several machines, other formats than JSONL. Two processes must not
write one table.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .answer import QUESTION, Answer
from .emotions import LabelSpace, label_space
from .errors import ClipError, ManifestError, OmniError
from .manifest import FORMATS, read_manifest

if TYPE_CHECKING:
    from .clip import Clip

Row = dict[str, Any]
Key = tuple[str, str, tuple[str, ...], str, bool]  # sha256, question, labels, model, think
MEDIA = frozenset(
    ".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ts .flv .wmv .3gp .gif "
    ".wav .mp3 .m4a .aac .flac .ogg .opus .jpg .jpeg .png .bmp .webp".split()
)
MESSAGE_LENGTH = 300  # characters of an unforeseen error that a row keeps


class LabelSummary(NamedTuple):
    """Rows written now with an answer, rows written now with an error, clips that were in the table already."""

    ok: int
    errors: int
    skipped: int


class Labeller(NamedTuple):
    """The two things that labelling needs of a model; a test gives its own."""

    read: Callable[[Path], Clip]
    answer: Callable[[Sequence[Clip], str], Sequence[Answer]]  # clips, question → one answer each


class Job(NamedTuple):
    """One clip to label. `sha256` is "" if the file cannot be read."""

    path: Path
    question: str
    sha256: str


class Task(NamedTuple):
    """What is the same for all clips of a run."""

    space: LabelSpace
    model: str
    think: bool
    batch_size: int

    def key(self, job: Job) -> Key:
        return job.sha256, job.question, self.space.labels, self.model, self.think


def label(
    sources: Iterable[str | Path],
    out: str | Path,
    *,
    model: str = "default",
    labels: LabelSpace | str | Sequence[str] = "ekman7",
    think: bool = True,
    batch_size: int = 4,
    limit: int | None = None,
    question: str | None = None,
    progress: bool = True,
    labeller: Labeller | None = None,
) -> LabelSummary:
    """Label clips into a table; call it again to resume.

    Args:
        sources: files, folders (searched below, known media suffixes, sorted), globs, and manifests
            (.jsonl, .csv, .parquet), whose own questions go before `question`.
        out: a .jsonl file; rows are appended to it.
        model: as `omni.loading.load` takes it; loaded only if a clip is left to label.
        limit: only the first so many clips of the sources.
        progress: show a bar with the time left, if stderr is a terminal.
        labeller: in place of the model.

    Raises:
        ClipError: a source without clips.
        LabelError: an unknown label space.
        ManifestError: `out` is no table of ours or cannot be written, or a manifest is broken.
        ModelError: the model cannot be loaded.
    """
    task = Task(label_space(labels), str(model), think, batch_size)
    if batch_size < 1:
        raise OmniError(f"The batch size is {batch_size}. Give 1 or more.", code="bad_argument")
    out = _table(Path(out))
    clips = find_clips(sources, question)[:limit]
    known = recover(out, {str(path) for path, _ in clips})
    labeller = labeller or _model_labeller(task)
    counts = Counter[str]()
    with _progress(len(clips), progress) as advance, _journal(out) as write:
        for row in _rows(clips, known, task, labeller):
            if row is not None:
                write(row)
            counts[row["status"] if row else "skipped"] += 1
            advance(counts["error"])
    return LabelSummary(counts["ok"], counts["error"], counts["skipped"])


def clip_row(
    path: Path, sha256: str, question: str, task: Task, answer: Answer | None, seconds: float
) -> Row:
    """The fields of one clip, in the order in which they are printed; an answer's fields are null without one."""
    fields = answer.to_dict() if answer else dict.fromkeys(Answer.__dataclass_fields__)
    row = {"clip": str(path), "sha256": sha256, **fields, "question": question, "think": task.think}
    return row | {"space": list(task.space.labels), "model": task.model, "seconds": round(seconds, 3)}


def find_clips(sources: Iterable[str | Path], question: str | None = None) -> list[tuple[Path, str]]:
    """The clips that the sources name, each once, with their questions.

    A file that is named is taken as it is, even if it does not exist: it becomes a row with an error.

    Raises:
        ClipError: a folder without media files, a glob without matches, or no sources.
    """
    default = question or QUESTION
    found: dict[Path, str] = {}
    for source in sources:
        clips = _expand(os.path.expanduser(source), default)
        if not clips:
            raise ClipError(
                f"There are no clips in {source}. Give files, folders or manifests.", code="no_clips"
            )
        for path, asked in clips:
            found.setdefault(path, asked)
    if not found:
        raise ClipError("There is nothing to label. Give files, folders or manifests.", code="no_clips")
    return list(found.items())


def _expand(source: str, question: str) -> list[tuple[Path, str]]:
    path = Path(source)
    if path.is_dir():
        return [(file, question) for file in _media_below(path)]
    if path.suffix.lower() in FORMATS:
        return [(example.clip, example.question or question) for example in read_manifest(path)]
    if glob.has_magic(source) and not path.exists():
        matches = map(Path, sorted(glob.glob(source, recursive=True)))
        return [(file, question) for file in matches if file.is_file()]
    return [(path, question)]


def _media_below(folder: Path) -> list[Path]:
    files = [Path(root) / name for root, _, names in os.walk(folder) for name in names if name[0] != "."]
    return sorted(file for file in files if file.suffix.lower() in MEDIA and file.is_file())


def recover(out: Path, retry: set[str]) -> list[Row]:
    """The rows that stand in a table, after making it whole: torn last line off, errors of clips in `retry` out.

    Raises:
        ManifestError: a line that is no row of ours. Nothing is changed then.
    """
    if not out.exists():
        return []
    raw = out.read_bytes()
    *lines, tail = raw.split(b"\n")
    lines += [tail] if _parse(tail) else []
    rows = [_parse(line) for line in lines]
    for number, row in enumerate(rows, start=1):
        if row is None:
            raise ManifestError(
                f"{out}:{number}: this is no row of omni label. Give --out a new file, or repair the line.",
                code="bad_row",
            )
    kept = [
        (line, row)
        for line, row in zip(lines, rows, strict=True)
        if row and not (row["status"] == "error" and row["clip"] in retry)
    ]
    whole = b"".join(line + b"\n" for line, _ in kept)
    if whole != raw:
        _replace(out, whole)
    return [row for _, row in kept]


def _parse(line: bytes) -> Row | None:
    """A row of ours, or None."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and {"clip", "sha256", "status"} <= row.keys() else None


def _replace(out: Path, content: bytes) -> None:
    """Put content in the place of a file in one step, so that a kill leaves the old one or the new one."""
    with tempfile.NamedTemporaryFile(dir=out.parent, prefix=f".{out.name}.", delete=False) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(file.name, out.stat().st_mode & 0o777)
    os.replace(file.name, out)


def _rows(
    clips: Sequence[tuple[Path, str]], known: Sequence[Row], task: Task, labeller: Labeller
) -> Iterator[Row | None]:
    """One row per clip as it is done, None for one that the table has already."""
    answers = {_row_key(row): row for row in known if row["status"] == "ok"}
    left = Counter(_row_key(row) for row in known if row["status"] == "ok")
    batch: list[tuple[Job, Clip, float]] = []

    def flush() -> Iterator[Row]:
        for row in _answer(batch, task, labeller):
            if row["status"] == "ok":
                answers[_row_key(row)] = row
            yield row
        batch.clear()

    for path, question in clips:
        job = Job(path, question, _sha256(path))
        key = task.key(job)
        if batch and (len(batch) == task.batch_size or batch[0][0].question != question):
            yield from flush()
        if any(task.key(other) == key for other, _, _ in batch):  # a copy of a clip that waits
            yield from flush()
        if left[key] > 0:
            left[key] -= 1
            yield None
        elif key in answers:
            yield answers[key] | {"clip": str(path), "seconds": 0.0}
        else:
            started = time.perf_counter()
            try:
                clip = labeller.read(path)
            except Exception as err:  # the row is the boundary
                yield _error_row(job, task, err, time.perf_counter() - started)
            else:
                batch.append((job, clip, time.perf_counter() - started))
    yield from flush()


def _answer(batch: Sequence[tuple[Job, Clip, float]], task: Task, labeller: Labeller) -> list[Row]:
    """Rows of a batch. If it fails as a whole, each clip is tried alone, so that one bad clip spoils no other."""
    if not batch:
        return []
    started = time.perf_counter()
    try:
        answers = labeller.answer([clip for _, clip, _ in batch], batch[0][0].question)
    except Exception as err:  # the row is the boundary
        if len(batch) > 1:
            return [row for item in batch for row in _answer([item], task, labeller)]
        job, _, reading = batch[0]
        return [_error_row(job, task, err, reading + time.perf_counter() - started)]
    share = (time.perf_counter() - started) / len(batch)
    return [
        clip_row(job.path, job.sha256, job.question, task, answer, reading + share)
        | {"status": "ok", "error": None}
        for (job, _, reading), answer in zip(batch, answers, strict=True)
    ]


def _error_row(job: Job, task: Task, err: Exception, seconds: float) -> Row:
    code, message = "internal", " ".join(f"{type(err).__name__}: {err}".split())[:MESSAGE_LENGTH]
    if isinstance(err, OmniError):
        code, message = err.code, str(err)
    row = clip_row(job.path, job.sha256, job.question, task, None, seconds)
    return row | {"status": "error", "error": {"code": code, "message": message}}


def _row_key(row: Row) -> Key:
    """The key of a row, as `Task.key` makes it of a job."""
    return (
        row["sha256"],
        row.get("question", ""),
        tuple(row.get("space") or ()),
        row.get("model", ""),
        row.get("think", True),
    )


def _sha256(path: Path) -> str:
    """Hash of a file's bytes, "" if there is no regular file to read; reading it then says why."""
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _model_labeller(task: Task) -> Labeller:
    """The model behind a `Labeller`, loaded when the first clip needs it."""
    loaded: list[Any] = []

    def ready() -> tuple[Any, Any]:
        from .loading import load

        if not loaded:
            loaded.extend(load(task.model))
        return loaded[0], loaded[1]

    def read(path: Path) -> Clip:
        from .clip import read_clip

        return read_clip(path, frames=ready()[1].frames)

    def answer(clips: Sequence[Clip], question: str) -> Sequence[Answer]:
        from .generate import reason_batch

        model, processor = ready()
        return reason_batch(model, processor, clips, question=question, labels=task.space, think=task.think)

    return Labeller(read, answer)


def _table(out: Path) -> Path:
    if out.suffix.lower() != ".jsonl" or out.is_dir():
        raise ManifestError(f"{out} cannot be the table. Name a file that ends in .jsonl.", code="bad_out")
    return out


@contextmanager
def _journal(out: Path) -> Iterator[Callable[[Row], None]]:
    """A function that appends one row and returns when it is on the disk."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("ab", buffering=0) as file:

            def write(row: Row) -> None:
                line = memoryview(json.dumps(row, ensure_ascii=False).encode() + b"\n")
                while line:
                    line = line[file.write(line) :]
                os.fsync(file.fileno())

            yield write
    except OSError as err:
        raise ManifestError(
            f"Cannot write {out}: {err.strerror}. Make room or choose another --out; the rows so far are safe.",
            code="cannot_write",
        ) from err


@contextmanager
def _progress(total: int, show: bool) -> Iterator[Callable[[int], None]]:
    """A bar on stderr with clips done, errors and time left; a function that moves it by one clip."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not (show and console.is_terminal)) as bar:
        line = bar.add_task("labelling", total=total)

        def advance(errors: int) -> None:
            bar.update(line, advance=1, description=f"labelling, {errors} errors" if errors else "labelling")

        yield advance
