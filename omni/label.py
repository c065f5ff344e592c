"""Many clips in, one table out: a JSON object per line and per clip.

    sources ─► files ─► sha256 ─► known? ─► read ─► batches ─► answers ─► row, appended and synced at once

A row has the fields of `omni ask --json` (`clip_row`), and `status` ("ok" or "error") and `error` ({code,
message} or null). A clip that cannot be read or answered becomes such a row and stops nothing.

The run can be killed at any time and is resumed by the same command. A finished row is known by the sha256 of
the clip's bytes, the question, the labels, the model's name and whether reasons were asked for, not by its
path, so a renamed clip is not labelled again. A table has as many rows of a content as there are files of it:
a copy of a clip gets its own row with the answer of the first, at no cost. Rows with an error are tried
again, and replaced. A last line that was torn by a kill or a full disk is cut off.

Left out, for now: decoding ahead of the model, several machines, other formats than JSONL. Two processes must
not write one table.
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
VIDEO = ".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ts .flv .wmv .3gp .gif"
SOUND = ".wav .mp3 .m4a .aac .flac .ogg .opus"
STILL = ".jpg .jpeg .png .bmp .webp"
MEDIA = frozenset(f"{VIDEO} {SOUND} {STILL}".split())  # what is taken from a folder
COLUMNS = frozenset(("clip", "sha256", "question", "labels", "model", "think", "status"))  # what resuming needs
MESSAGE_LENGTH = 300  # characters of an unforeseen error that a row keeps


class LabelSummary(NamedTuple):
    """Rows written now with an answer and with an error, and clips that were in the table already."""

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


class Read(NamedTuple):
    """A clip that waits for its batch, and how long reading it took."""

    job: Job
    clip: Clip
    seconds: float


class Task(NamedTuple):
    """What is the same for all clips of a run."""

    space: LabelSpace
    model: str
    think: bool
    batch_size: int = 1

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
    known = recover(out, {printable(path) for path, _ in clips})
    counts = Counter[str]()
    with _progress(len(clips), progress) as advance, _journal(out) as write:
        for row in _rows(clips, known, task, labeller):
            if row is not None:
                write(row)
            counts[row["status"] if row else "skipped"] += 1
            advance(counts["error"])
    return LabelSummary(counts["ok"], counts["error"], counts["skipped"])


def clip_row(job: Job, task: Task, answer: Answer | None, seconds: float) -> Row:
    """The fields of one clip, in the order in which they are printed; an answer's are null without one."""
    fields = answer.to_dict() if answer else dict.fromkeys(Answer.__dataclass_fields__)
    row = {"clip": printable(job.path), "sha256": job.sha256, **fields, "question": job.question}
    return row | {"think": task.think, "model": task.model, "seconds": round(seconds, 3)}


def printable(path: Path) -> str:
    """A path as text; bytes that are no UTF-8 (a file from an old disk) become �."""
    return os.fsencode(path).decode("utf-8", "replace")


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
            raise ClipError(f"There are no clips in {source}. Give files, folders or manifests.", code="no_clips")
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
    """The rows of a table, after making it whole: torn last line off, errors of clips in `retry` out.

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
    return row if isinstance(row, dict) and row.keys() >= COLUMNS else None


def _replace(out: Path, content: bytes) -> None:
    """Put content in the place of a file in one step, so that a kill leaves the old one or the new one."""
    with tempfile.NamedTemporaryFile(dir=out.parent, prefix=f".{out.name}.", delete=False) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(file.name, out.stat().st_mode & 0o777)
    os.replace(file.name, out)


def _rows(
    clips: Sequence[tuple[Path, str]], known: Sequence[Row], task: Task, labeller: Labeller | None
) -> Iterator[Row | None]:
    """One row per clip as it is done, None for one that the table has already."""
    answers = {_key(row): row for row in known if row["status"] == "ok"}
    left = Counter(_key(row) for row in known if row["status"] == "ok")
    batch: list[Read] = []

    def flush() -> Iterator[Row]:
        for row in _answer(batch, task, labeller) if labeller else []:
            if row["status"] == "ok":
                answers[_key(row)] = row
            yield row
        batch.clear()

    for path, question in clips:
        job = Job(path, question, _sha256(path))
        key = task.key(job)
        full = len(batch) == task.batch_size
        if full or any(other.job.question != question or task.key(other.job) == key for other in batch):
            yield from flush()  # a batch has one question, and a copy waits for the answer of the first
        if left[key] > 0:
            left[key] -= 1
            yield None
        elif key in answers:
            yield answers[key] | {"clip": printable(path), "seconds": 0.0}
        else:
            labeller = labeller or _model_labeller(task)
            read = _read(job, task, labeller)
            if isinstance(read, Read):
                batch.append(read)
            else:
                yield read
    yield from flush()


def _read(job: Job, task: Task, labeller: Labeller) -> Read | Row:
    started = time.perf_counter()
    try:
        clip = labeller.read(job.path)
    except Exception as err:  # the row is the boundary
        return _error_row(job, task, err, time.perf_counter() - started)
    return Read(job, clip, time.perf_counter() - started)


def _answer(batch: Sequence[Read], task: Task, labeller: Labeller) -> list[Row]:
    """Rows of a batch. If it fails as a whole, each clip is tried alone: one bad clip spoils no other."""
    if not batch:
        return []
    started = time.perf_counter()
    try:
        answers = labeller.answer([item.clip for item in batch], batch[0].job.question)
    except Exception as err:  # the row is the boundary
        if len(batch) > 1:
            return [row for item in batch for row in _answer([item], task, labeller)]
        return [_error_row(batch[0].job, task, err, batch[0].seconds + time.perf_counter() - started)]
    share = (time.perf_counter() - started) / len(batch)
    done = {"status": "ok", "error": None}
    return [
        clip_row(item.job, task, answer, item.seconds + share) | done
        for item, answer in zip(batch, answers, strict=True)
    ]


def _error_row(job: Job, task: Task, err: Exception, seconds: float) -> Row:
    code, message = "internal", " ".join(f"{type(err).__name__}: {err}".split())[:MESSAGE_LENGTH]
    if isinstance(err, OmniError):
        code, message = err.code, str(err)
    return clip_row(job, task, None, seconds) | {
        "status": "error",
        "error": {"code": code, "message": message},
    }


def _key(row: Row) -> Key:
    """The key of a finished row, as `Task.key` makes it of a job."""
    return row["sha256"], row["question"], tuple(row["labels"]), row["model"], row["think"]


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
    """Load the model. Its errors are not those of a clip: they end the run."""
    from .clip import read_clip
    from .generate import reason_batch
    from .loading import load

    model, processor = load(task.model)

    def read(path: Path) -> Clip:
        return read_clip(path, frames=processor.frames)

    def answer(clips: Sequence[Clip], question: str) -> Sequence[Answer]:
        options = {"labels": task.space, "think": task.think}
        answers: list[Answer] = reason_batch(model, processor, clips, question=question, **options)
        return answers

    return Labeller(read, answer)


def _table(out: Path) -> Path:
    if out.suffix.lower() != ".jsonl" or out.is_dir():
        raise ManifestError(f"{out} cannot be the table. Name a file that ends in .jsonl.", code="bad_out")
    return out


@contextmanager
def _journal(out: Path) -> Iterator[Callable[[Row], None]]:
    """A function that appends one row and returns when it is on the disk."""
    with _writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        file = out.open("ab", buffering=0)

    def write(row: Row) -> None:
        line = memoryview(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        with _writing(out):
            while line:
                line = line[file.write(line) or 0 :]
            os.fsync(file.fileno())

    with file:
        yield write


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        raise ManifestError(
            f"Cannot write {out}: {err.strerror}. Make room or choose another --out; finished rows are safe.",
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
