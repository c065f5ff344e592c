"""Answers of models to the clips of a manifest: one JSON object per clip, model and mode, written while they are made.

    manifest ─► cases ─► known? ─► encode once ─► think, no-think ─► rows, appended and synced batch by batch

A row has the fields of `omni label`, and the truth, the mode, the protocol, the label space that was asked for and the
hash of the model's files. A clip that cannot be read or answered becomes a row with its error and stops nothing.

The run can be killed at any time and is resumed by the same call. A finished row is known by what the answer depends
on: the bytes of the clip, the sense that was left out, the question, the label space, the model and the hash of its
files, the mode, the protocol; not by the clip's path or truth, so a corrected manifest costs no new answers and a model
trained anew gets new ones.
Clips with equal bytes are answered once. Rows with an error are tried again, and replaced.

Two processes must not write one table. Decoding ahead of the model is left out.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from .answer import Answer, parse_answer
from .emotions import LabelSpace
from .errors import ModelError, OmniError
from .journal import Row, appending, file_sha256, printable, recover
from .manifest import Example

Key = tuple[str, ...]
OPEN = LabelSpace("open", ("any words that fit, separated by commas",))  # what an open vocabulary puts for a list
VERBATIM = "verbatim"  # the mode that gives one plain question and takes the text as it is
VERBATIM_TOKENS = 160  # a longer text is no label, so where it ends does not matter
WEIGHTS = (".safetensors", ".json", ".jinja")  # files of a model folder that its answers depend on
COLUMNS = frozenset(("clip", "sha256", "question", "space", "model", "model_sha256", "mode", "protocol", "status"))
MESSAGE_LENGTH = 300  # characters of an unforeseen error that a row keeps
ANSWER = (
    *("label", "confidence", "labels", "thought", "text", "well_formed", "modalities", "warnings"),
    *("duration_s", "transcript", "evidence", "gates", "maps"),
)


class Ask(NamedTuple):
    """How a batch is asked; without a question, with that of the model."""

    question: str | None
    space: LabelSpace
    mode: str


class Case(NamedTuple):
    """A row of the manifest with what its answer depends on.

    Attributes:
        truth: a word of the space, None in an open one.
        without: "audio" or "video" if that is left out of the clip, else "".
    """

    example: Example
    truth: str | None
    question: str | None
    space: LabelSpace
    sha256: str
    without: str = ""

    @property
    def clip(self) -> str:
        """What tells its content from others: the hash, or the path of a file that cannot be read."""
        return self.sha256 or printable(self.example.clip)


class ModelId(NamedTuple):
    """A model by the name that `load` takes, and the hash of its files, "" for a remote one."""

    name: str
    sha256: str


class Answerer(NamedTuple):
    """The two things that evaluation needs of a loaded model; a test gives its own."""

    encode: Callable[[Path], Any]
    answer: Callable[[Sequence[Any], Ask], Sequence[Row]]  # encoded clips → the fields of ANSWER, or `text` alone


class Timed(NamedTuple):
    """What came out, or the exception why not, and how many seconds it took."""

    value: Any
    seconds: float


class Counts(NamedTuple):
    """Rows written now, those of them with an error, and rows that were there already."""

    done: int
    errors: int
    known: int


def predict(
    table: Path,
    cases: Sequence[Case],
    models: Sequence[ModelId],
    modes: Sequence[str],
    protocol: str,
    *,
    load: Callable[[str], Answerer],
    batch_size: int = 4,
    progress: bool = True,
) -> tuple[dict[Key, Row], Counts]:
    """Complete a table of predictions; call it again to resume.

    Args:
        table: a .jsonl file; rows are appended to it.
        load: a model by name; called only for a model with a clip left to answer.
        progress: show a bar with the time left, if stderr is a terminal.

    Returns:
        Rows by `key_of`, and what was done.

    Raises:
        ManifestError: the table is none of ours or cannot be written.
        ModelError: a model cannot be loaded.
    """
    distinct = list({(case.clip, case.question, case.space): case for case in cases}.values())
    wanted = {key_of(case, model, mode, protocol) for case in distinct for model in models for mode in modes}
    ours = {printable(case.example.clip) for case in distinct} | {case.clip for case in distinct}
    asked = {(model.name, mode, protocol) for model in models for mode in modes}

    def try_again(row: Row) -> bool:
        how = (row["model"], row["mode"], row["protocol"])
        return row["status"] == "error" and how in asked and bool({row["clip"], row["sha256"]} & ours)

    rows = {row_key(row): row for row in recover(table, COLUMNS, try_again)}
    known, done, errors = len(wanted & rows.keys()), 0, 0
    with _progress(len(wanted), known, progress) as advance, appending(table) as write:
        for model in models:
            for new in _answers(distinct, model, modes, protocol, batch_size, rows, load):
                write(new)
                done, errors = done + len(new), errors + sum(row["status"] == "error" for row in new)
                rows |= {row_key(row): row for row in new}
                advance(len(new), errors)
    return rows, Counts(done, errors, known)


def key_of(case: Case, model: ModelId, mode: str, protocol: str) -> Key:
    """What an answer depends on; prompts and cues are the package's."""
    from . import __version__

    asked = case.clip, case.without, case.question or "", *case.space.labels
    return *asked, model.name, model.sha256, mode, protocol, __version__


def row_key(row: Row) -> Key:
    """The key of a finished row, as `key_of` makes it of a case."""
    without = row.get("without") or ""  # tables of older versions have no such field
    asked = row["sha256"] or row["clip"], without, row["question"] or "", *row["space"]
    return *asked, row["model"], row["model_sha256"], row["mode"], row["protocol"], row.get("omni_version", "")


def fingerprint(name: str) -> ModelId:
    """A model with the hash of the weights and settings in its folder.

    For "default" that is our adapters, since its base is pinned; for an adapter its folder, and that of its base.

    Raises:
        ModelError: a folder that does not exist.
    """
    if name.startswith("hub:"):
        return ModelId(name, "")
    folder = Path(__file__).parent / "default" / "adapter" if name == "default" else Path(name)
    if not folder.is_dir():
        raise ModelError(
            f"There is no model folder {name}. Give a folder, 'default', or 'hub:owner/name'.", code="not_found"
        )
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in WEIGHTS:
            digest.update(f"{path.name} {file_sha256(path)}\n".encode())
    settings = folder / "adapter_config.json"
    base = json.loads(settings.read_text()).get("base_model_name_or_path") if settings.exists() else None
    if base and Path(base).is_dir():
        digest.update(fingerprint(base).sha256.encode())
    return ModelId(name, digest.hexdigest())


def load_answerer(name: str, features: Path | None = None, without: str = "") -> Answerer:
    """A model as evaluation needs it. Its errors are not those of a clip: they end the run.

    Args:
        without: "audio" or "video", to leave that out of every clip. A clip of nothing else is a `ClipError`.
        features: folder of a `FeatureCache`. Features are then taken as they are kept, in half precision, also the
            first time, so that a resumed run gives the answers of an undisturbed one.
    """
    from .features import FeatureCache, read_features
    from .generate import as_features, build_inputs, reason_batch
    from .loading import load
    from .released import LABEL_QUESTION

    model, processor = load(name)
    cache = FeatureCache(features, model, processor) if features else None

    def encode(path: Path) -> Any:
        clip = processor.read(path, audio=without != "audio", video=without != "video")
        if cache is None:
            return as_features(model, processor, [clip])[0]
        cache(clip)
        return read_features(cache.path(clip))

    def verbatim(clips: Sequence[Any]) -> list[Row]:
        inputs = build_inputs(model, processor, clips, [LABEL_QUESTION] * len(clips))
        tokenizer, start = processor.tokenizer, inputs["input_ids"].shape[1]
        how = {"max_new_tokens": VERBATIM_TOKENS, "do_sample": False, "pad_token_id": tokenizer.pad_token_id}
        texts = tokenizer.batch_decode(model.generate(**inputs, **how)[:, start:], skip_special_tokens=True)
        return [{"text": text.strip()} for text in texts]  # as the released inference does before the comparison

    def answer(clips: Sequence[Any], ask: Ask) -> Sequence[Row]:
        if ask.mode == VERBATIM:
            return verbatim(clips)
        options = {"question": ask.question, "labels": ask.space, "think": ask.mode == "think"}
        given = reason_batch(model, processor, clips, **options)
        return [open_fields(one) if ask.space == OPEN else one.to_dict() for one in given]

    return Answerer(encode, answer)


def open_fields(answer: Answer) -> Row:
    """The fields of an answer in an open vocabulary, where no label has a probability."""
    well_formed = parse_answer(answer.text).well_formed
    return answer.to_dict() | {"label": None, "confidence": None, "labels": None, "well_formed": well_formed}


def _answers(
    cases: Sequence[Case],
    model: ModelId,
    modes: Sequence[str],
    protocol: str,
    batch_size: int,
    rows: Mapping[Key, Row],
    load: Callable[[str], Answerer],
) -> Iterator[list[Row]]:
    """The rows of one model that are missing, batch by batch; each clip is encoded once for all modes."""
    from . import __version__

    answerer = None
    for batch in _batches(cases, batch_size):
        missing = {m: [case for case in batch if key_of(case, model, m, protocol) not in rows] for m in modes}
        if not any(missing.values()):
            continue
        answerer = answerer or load(model.name)
        needed = {case.clip: case for left in missing.values() for case in left}
        encoded = {clip: _encode(case, answerer) for clip, case in needed.items()}
        for mode, left in missing.items():
            facts = {"model": model.name, "model_sha256": model.sha256, "protocol": protocol, "mode": mode}
            facts |= {"omni_version": __version__}
            ask = Ask(batch[0].question, batch[0].space, mode)
            if left:
                results = _answer([encoded[case.clip] for case in left], ask, answerer)
                yield [_row(case, facts, result) for case, result in zip(left, results, strict=True)]


def _batches(cases: Sequence[Case], size: int) -> Iterator[list[Case]]:
    """Neighbours that are asked the same."""
    for _, group in groupby(cases, key=lambda case: (case.question, case.space)):
        same = list(group)
        yield from (same[i : i + size] for i in range(0, len(same), size))


def _encode(case: Case, answerer: Answerer) -> Timed:
    """The streams of a clip, or why there are none."""
    started = time.perf_counter()
    try:
        return Timed(answerer.encode(case.example.clip), time.perf_counter() - started)
    except Exception as err:  # the row is the boundary
        return Timed(err, time.perf_counter() - started)


def _answer(clips: Sequence[Timed], ask: Ask, answerer: Answerer) -> list[Timed]:
    """Fields or an error of each clip. If the batch fails as a whole, each is tried alone: one spoils no other."""
    good = [clip for clip in clips if not isinstance(clip.value, Exception)]
    started = time.perf_counter()
    try:
        answers = iter(answerer.answer([clip.value for clip in good], ask) if good else [])
    except Exception as err:  # the row is the boundary
        if len(clips) > 1:
            return [result for clip in clips for result in _answer([clip], ask, answerer)]
        return [Timed(err, clips[0].seconds + time.perf_counter() - started)]
    share = (time.perf_counter() - started) / max(1, len(good))
    return [clip if isinstance(clip.value, Exception) else Timed(next(answers), clip.seconds + share) for clip in clips]


def _row(case: Case, facts: Row, result: Timed) -> Row:
    """A line of the table; the fields of an answer are null without one."""
    failed = isinstance(result.value, Exception)
    row: Row = {"clip": printable(case.example.clip), "sha256": case.sha256, "truth": case.truth}
    row |= {"without": case.without or None, "openset": case.example.extra.get("openset"), **facts}
    row |= {"question": case.question, "space": list(case.space.labels), **dict.fromkeys(ANSWER)}
    row |= {} if failed else result.value
    row |= {"seconds": round(result.seconds, 3), "status": "error" if failed else "ok"}
    return row | {"error": _error(result.value) if failed else None}


def _error(err: Exception) -> Row:
    if isinstance(err, OmniError):
        return {"code": err.code, "message": str(err)}
    return {"code": "internal", "message": " ".join(f"{type(err).__name__}: {err}".split())[:MESSAGE_LENGTH]}


@contextmanager
def _progress(total: int, known: int, show: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr with answers done, errors and time left; a function that moves it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not (show and console.is_terminal)) as bar:
        line = bar.add_task("evaluating", total=total, completed=known)

        def advance(rows: int, errors: int) -> None:
            bar.update(line, advance=rows, description=f"evaluating, {errors} errors" if errors else "evaluating")

        yield advance
