"""`omni eval`: models against a manifest whose truth is known.

    manifest ─► predictions.jsonl (predictions.py) ─► metrics.json ─► report.html (evaluation_report.py)

    protocol   what is asked                          what counts
    omni       our question with the label space,     the label that `omni ask` prints: that of the reasons, at once
               thinking first and at once             the most probable; beside it, as `written`, the one that
                                                      `score_answer` reads in the text
    r1-omni    R1-Omni's evaluation question, with     the text, if it is a label of the space letter by letter
               neither list nor instruction

A row of the manifest has a `label`, or true words in its column `openset`, or both. Labels are mapped into the space by
`omni.emotions.canonical`, and every mapping is listed. A row without a label is asked in an open vocabulary: the prompt
lists none, the answer may be several words, and the emotion-wheel scores judge them.

A clip that cannot be read is a wrong answer in WAR, UAR and F1, as the published numbers have one denominator for all;
it is listed with its error. Calibration and the shares of unparsable text are over the clips that were answered, and so
are those of the reasons (`grounding.py`): what they say of face and voice, against what was measured of the clip, and
against its known action units and prosody where the manifest has them, as that of synthetic actors does.

Intervals are 95 % by bootstrap over clips (seeded), those of shares by Wilson's formula, which is right at 0 and 1 too.
The two modes are compared on the same resampled clips.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import __version__
from .answer import parse_answer
from .calibration import aurc, risk_coverage
from .emotions import OUR_WHEELS, SPACES, EmotionWheels, LabelSpace, canonical, emotion_words, label_space, read_wheels
from .errors import LabelError, ManifestError, OmniError
from .evaluation_report import page
from .grounding import measure_reasons, reasons_told
from .journal import Row, file_sha256, replace_file
from .manifest import Example, read_manifest
from .metrics import (
    RESAMPLES,
    Floats,
    brier,
    class_metrics,
    confusion,
    ece,
    interval,
    published_wheel,
    reliability,
    resample,
    resample_classes,
    score_answer,
    strict_wheel,
    wilson,
)
from .predictions import OPEN, VERBATIM, Answerer, Case, Key, ModelId, fingerprint, key_of, load_answerer, predict

SEED = 0
WORD_LENGTH = 40  # characters of an answered word that a list shows
UNKNOWN_WORDS, MISTAKES = 30, 8  # how many the report shows
WHEEL_SCORES = {"published": published_wheel, "strict": strict_wheel}


class Protocol(NamedTuple):
    """How one is evaluated: the ways of asking, and what the report says of it."""

    modes: tuple[str, ...]
    says: str


PROTOCOLS = {
    "omni": Protocol(
        ("think", "no-think"),
        "Protocol omni: the model's own question (ours lists the labels); the answer is the label that the reasons "
        "lead to, without reasons the most probable one. “Written” is the label in the text; there, an answer that "
        "cannot be parsed is wrong. Not comparable with numbers of the r1-omni protocol.",
    ),
    "r1-omni": Protocol(
        (VERBATIM,),
        "Protocol r1-omni: the released evaluation question, without a list of labels and without an instruction to "
        "think or to use tags; the whole text, stripped, is compared with the label letter by letter. A synonym, a "
        "capital letter or a tag is wrong. Comparable with numbers of the released scripts.",
    ),
}


class Evaluation(NamedTuple):
    """The content of metrics.json; how many answers were made now, failed, or were there already; and all of them.

    Attributes:
        answers: mode, case and row of every answer that was asked for.
    """

    metrics: dict[str, Any]
    done: int
    errors: int
    known: int
    answers: Sequence[tuple[str, Case, Row]]


class Judged(NamedTuple):
    """A clip of the manifest with its answer: the label that counts and the one that is written, None for none."""

    case: Case
    row: Row
    label: str | None
    written: str | None

    @property
    def right(self) -> bool:
        return self.label == self.case.truth


def evaluate(
    manifest: str | Path,
    models: Sequence[str] = ("default",),
    *,
    out: str | Path,
    labels: LabelSpace | str | Sequence[str] | None = None,
    protocol: str = "omni",
    modes: Sequence[str] | None = None,
    question: str | None = None,
    without: str = "",
    wheels: str | Path | None = None,
    features: str | Path | None = None,
    batch_size: int = 4,
    limit: int | None = None,
    progress: bool = True,
    load: Callable[[str], Answerer] | None = None,
) -> Evaluation:
    """Evaluate models into a folder; call it again to resume.

    Args:
        models: as `omni.loading.load` takes them; loaded only if a clip is left to answer.
        out: the folder of predictions.jsonl, metrics.json and report.html.
        labels: the label space; without it, the first of `SPACES` that has all labels of the manifest.
        protocol: a key of `PROTOCOLS`.
        modes: some of the protocol's; all of them without.
        question: in place of the model's own; a question in the manifest goes first.
        without: "audio" or "video", to leave that out of every clip; a clip that has nothing else is one that cannot be
            read.
        wheels: a file for `omni.emotions.read_wheels`, in place of our wheels.
        features: folder of a feature cache, as in training; without it, each clip is encoded once and forgotten.
        limit: only the first so many rows of the manifest.
        progress: show a bar with the time left, if stderr is a terminal.
        load: in place of the model.

    Raises:
        OmniError: an argument, the manifest, a label or a model is wrong; said before a model is loaded.
    """
    out, manifest = Path(out), Path(manifest)
    chosen = _modes(protocol, modes)
    if batch_size < 1 or limit == 0 or not models or len(set(models)) < len(models):
        raise OmniError("Give each model once, and a batch size and a limit of 1 or more.", code="bad_argument")
    if without not in ("", "audio", "video"):
        raise OmniError(f"Nothing called '{without}' can be left out. Use audio or video.", code="bad_argument")
    ids = [fingerprint(str(name)) for name in models]
    rings = read_wheels(wheels) if wheels else OUR_WHEELS
    examples = read_manifest(manifest)
    space = _space(examples, labels, protocol, manifest)
    cases = [_case(one, space, question, protocol, manifest)._replace(without=without) for one in examples[:limit]]
    if all(case.truth is None for case in cases):
        space = None
    rows, counts = predict(
        out / "predictions.jsonl",
        cases,
        ids,
        chosen,
        protocol,
        load=load or partial(load_answerer, features=Path(features) if features else None, without=without),
        batch_size=batch_size,
        progress=progress,
    )
    facts = {"manifest": str(manifest), "without": without or None, "wheels": rings.name}
    metrics = facts | measure(cases, rows, ids, chosen, protocol, space, rings)
    _write(out, metrics)
    answers = [
        (mode, case, rows[key_of(case, model, mode, protocol)]) for model in ids for mode in chosen for case in cases
    ]
    return Evaluation(metrics, *counts, answers)


def measure(
    cases: Sequence[Case],
    rows: dict[Key, Row],
    models: Sequence[ModelId],
    modes: Sequence[str],
    protocol: str,
    space: LabelSpace | None,
    wheels: EmotionWheels = OUR_WHEELS,
) -> dict[str, Any]:
    """What predictions are worth, as JSON values: all that the report shows.

    Args:
        rows: as `predict` gives them, one for every case, model and mode.
        space: of the labels; None if no row of the manifest has one.
    """
    judged = {
        (model.name, mode): [judge(case, rows[key_of(case, model, mode, protocol)], protocol) for case in cases]
        for model in models
        for mode in modes
    }
    failures = Counter(
        (one.row["clip"], model, mode, one.row["error"]["code"], one.row["error"]["message"])
        for (model, mode), all_of in judged.items()
        for one in all_of
        if one.row["status"] == "error"
    )
    pairs = [model.name for model in models if {"think", "no-think"} <= set(modes)]
    return {
        "omni_version": __version__,
        "protocol": protocol,
        "protocol_says": PROTOCOLS[protocol].says,
        "labels": {"name": space.name, "labels": list(space.labels)} if space else None,
        "questions": [
            {"question": asked, "clips": clips} for asked, clips in Counter(case.question for case in cases).items()
        ],
        "clips": len(cases),
        "failed": sum(any(one.row["status"] == "error" for one in of) for of in zip(*judged.values(), strict=True)),
        "failures": [dict(zip(("clip", "model", "mode", "code", "message"), f, strict=True)) for f in failures],
        "bootstrap": {"resamples": RESAMPLES, "seed": SEED},
        "models": {model.name: model.sha256 for model in models},
        "runs": [
            {"model": model, "mode": mode} | _run(all_of, space, protocol, wheels)
            for (model, mode), all_of in judged.items()
        ],
        "comparisons": [
            {"model": name} | _compare(judged[name, "think"], judged[name, "no-think"], space)
            for name in (pairs if space else [])
        ],
        "mappings": _mappings(cases, [one for all_of in judged.values() for one in all_of], protocol),
        "unknown_words": _unknown_words([one for all_of in judged.values() for one in all_of], protocol),
    }


def judge(case: Case, row: Row, protocol: str) -> Judged:
    """A prediction against the truth; no label where the clip failed or the row has none."""
    if row["status"] == "error" or case.truth is None:
        return Judged(case, row, None, None)
    if protocol == "r1-omni":
        label = row["text"] if row["text"] in case.space else None
        return Judged(case, row, label, label)
    return Judged(case, row, row["label"], score_answer(case.truth, row["text"], case.space).label)


def table(metrics: dict[str, Any]) -> str:
    """The runs as lines of text."""
    width = max(len(name) for name in ("model", *metrics["models"])) + 2
    lines = [
        f"{'model':{width}}{'mode':10}{'WAR':20}{'UAR':20}{'weighted F1':20}{'written WAR':20}{'ECE':20}unparsable"
    ]
    for run in metrics["runs"]:
        ece_of = (run["calibration"] or {}).get("ece")
        cells = [run.get("war"), run.get("uar"), run.get("f1_weighted"), (run["written"] or {}).get("war"), ece_of]
        text = "".join(f"{_cell(cell):20}" for cell in cells)
        lines.append(f"{run['model']:{width}}{run['mode']:10}{text}{_cell(run['unparsable'])}")
        lines += [f"{'':{width}}{line}" for line in reasons_told(run["reasons"])]
        lines += [
            f"{'':{width}}wheel, {name}: F {report['f1']:.3f}, {report['mean_length']:.1f} words an answer"
            for name, report in (run["open"] or {}).items()
            if name in WHEEL_SCORES and report
        ]
    return "\n".join(lines)


def _cell(value: dict[str, float] | None) -> str:
    return f"{value['value']:.3f} {value['low']:.3f}–{value['high']:.3f}" if value else "–"


def _modes(protocol: str, modes: Sequence[str] | None) -> tuple[str, ...]:
    if protocol not in PROTOCOLS:
        raise OmniError(f"Unknown protocol '{protocol}'. Use {', '.join(PROTOCOLS)}.", code="unknown_protocol")
    all_of = PROTOCOLS[protocol].modes
    wrong = [mode for mode in modes or () if mode not in all_of]
    if wrong:
        raise OmniError(
            f"The protocol {protocol} has no mode '{wrong[0]}'. Use {', '.join(all_of)}.", code="unknown_mode"
        )
    return tuple(mode for mode in all_of if mode in (modes or all_of))


def _space(examples: Sequence[Example], labels: Any, protocol: str, manifest: Path) -> LabelSpace | None:
    """The label space of the manifest; None if it has no labels."""
    words = Counter(example.label for example in examples if example.label is not None)
    if not examples:
        raise ManifestError(f"{manifest} has no rows. Give a manifest with clips and their labels.", code="empty_file")
    if protocol == "r1-omni" and sum(words.values()) < len(examples):
        raise ManifestError(f"{manifest}: rows without a 'label' cannot be judged by r1-omni. Use --protocol omni.")
    if not words:
        return None
    if labels is not None:
        space = label_space(labels)
        missing = sorted(word for word in words if canonical(word, space) is None)
        if missing:
            raise LabelError(
                f"{manifest} has labels that {space.name} lacks: {', '.join(missing)}. "
                f"Name a space that has them, such as --labels {','.join(sorted(words))}.",
                code="unknown_label",
            )
        return space
    for space in SPACES.values():
        if all(canonical(word, space) is not None for word in words):
            return space
    named = ",".join(sorted(words) if len(words) > 1 else [*words, "…"])  # a space has two words at least
    raise LabelError(
        f"The labels of {manifest} are in none of {', '.join(SPACES)}: {', '.join(sorted(words))}. "
        f"Name their space: --labels {named}, or a file with one word per line.",
        code="no_label_space",
    )


def _case(example: Example, space: LabelSpace | None, question: str | None, protocol: str, manifest: Path) -> Case:
    openset = example.extra.get("openset")
    if not isinstance(openset, str | list | None) or not all(isinstance(word, str) for word in openset or ()):
        raise ManifestError(
            f"{manifest}: the 'openset' of {example.clip} must be text or a list of words.", code="bad_row"
        )
    if example.label is None and not emotion_words(openset):
        raise ManifestError(
            f"{manifest}: {example.clip} has neither a 'label' nor an 'openset'. Add one, or leave the row out.",
            code="no_truth",
        )
    asked = None if protocol == "r1-omni" else example.question or question
    if example.label is None or space is None:
        return Case(example, None, asked, OPEN, file_sha256(example.clip))
    return Case(example, canonical(example.label, space), asked, space, file_sha256(example.clip))


def _run(judged: Sequence[Judged], space: LabelSpace | None, protocol: str, wheels: EmotionWheels) -> dict[str, Any]:
    """One model in one mode."""
    closed = [one for one in judged if one.case.truth is not None]
    answered = [one for one in judged if one.row["status"] == "ok"]
    opened = [one for one in judged if emotion_words(one.case.example.extra.get("openset"))]
    facts = {
        "clips": len(judged),
        "failed": len(judged) - len(answered),
        "seconds_a_clip": float(np.mean([one.row["seconds"] for one in judged])),
    }
    classes = _classes(closed, [one.label for one in closed], space) if space else {}
    own_text = space is not None and protocol != "r1-omni"
    return (
        facts
        | classes
        | {
            "written": _classes(closed, [one.written for one in closed], space) if space and own_text else None,
            "calibration": _calibration([one for one in answered if one.row["labels"]], space) if space else None,
            **_text(answered, protocol),
            "reasons": measure_reasons([(one.row, one.case.example.extra) for one in answered]),
            "open": _open(opened, wheels) if opened else None,
            "mistakes": _mistakes(closed),
        }
    )


def _classes(judged: Sequence[Judged], prediction: Sequence[str | None], space: LabelSpace) -> dict[str, Any]:
    truth = [str(one.case.truth) for one in judged]
    counts = confusion(truth, prediction, space)
    found, drawn = class_metrics(counts), resample_classes(truth, prediction, space, seed=SEED)
    names = ("war", "uar", "f1_weighted", "f1_macro")
    recall = {
        label: _estimate(found.recall[k], drawn.recall[:, k]) | {"clips": int(counts[k].sum())}
        for k, label in enumerate(space.labels)
        if counts[k].sum()
    }
    metrics = {name: _estimate(getattr(found, name), getattr(drawn, name)) for name in names}
    return metrics | {"recall": recall, "confusion": counts.tolist()}


def _calibration(judged: Sequence[Judged], space: LabelSpace) -> dict[str, Any] | None:
    """ECE, Brier score and AURC of the label probabilities, and their curves; None if there are none."""
    if not judged:
        return None
    right = np.array([one.right for one in judged])
    confidence = np.array([one.row["confidence"] for one in judged])
    squares = np.array([brier([str(one.case.truth)], [one.row["labels"]], space) for one in judged])
    gap = resample(lambda drawn: ece(right[drawn], confidence[drawn]), len(judged), seed=SEED)
    area = resample(lambda drawn: aurc(right[drawn], confidence[drawn]), len(judged), seed=SEED)
    spread = resample(lambda drawn: squares[drawn].mean(), len(judged), seed=SEED)
    return {
        "ece": _estimate(ece(right, confidence), gap),
        "brier": _estimate(squares.mean(), spread),
        "aurc": _estimate(aurc(right, confidence), area),
        "bins": [one._asdict() for one in reliability(right, confidence)],
        "risk_coverage": [one._asdict() for one in risk_coverage(right, confidence)],
    }


def _text(judged: Sequence[Judged], protocol: str) -> dict[str, Any]:
    """Shares of the answered clips: text without an answer, an answer that is no label, and bad form."""
    if protocol == "r1-omni":
        no_label = sum(one.label is None for one in judged)
        return {"unparsable": _portion(no_label, len(judged)), "unknown": None, "malformed": None}
    answers = [parse_answer(one.row["text"]) for one in judged]
    closed = [(one, parsed) for one, parsed in zip(judged, answers, strict=True) if one.case.truth is not None]
    unknown = sum(one.written is None and parsed.label is not None for one, parsed in closed)
    return {
        "unparsable": _portion(sum(parsed.label is None for parsed in answers), len(judged)),
        "unknown": _portion(unknown, len(closed)),
        "malformed": _portion(sum(not one.row["well_formed"] for one in judged), len(judged)),
    }


def _open(judged: Sequence[Judged], wheels: EmotionWheels) -> dict[str, Any]:
    """The emotion-wheel scores; a clip that failed has answered nothing."""
    truth = [one.case.example.extra["openset"] for one in judged]
    answers = [_answer_words(one.row) for one in judged]
    reports = {name: score(truth, answers, wheels) for name, score in WHEEL_SCORES.items()}
    asked_openly = sum(one.row["mode"] == VERBATIM or one.case.space == OPEN for one in judged)
    return {"asked_openly": asked_openly} | {name: r._asdict() if r else None for name, r in reports.items()}


def _answer_words(row: Row) -> str | None:
    return row["text"] if row["mode"] == VERBATIM else parse_answer(row["text"] or "").label


def _compare(think: Sequence[Judged], fast: Sequence[Judged], space: LabelSpace | None) -> dict[str, Any]:
    """Thinking less answering at once, over the same clips."""
    pairs = [(a, b) for a, b in zip(think, fast, strict=True) if a.case.truth is not None]
    truth = [str(a.case.truth) for a, _ in pairs]
    both = [[one.label for one in side] for side in zip(*pairs, strict=True)]
    values = [class_metrics(confusion(truth, labels, space)) for labels in both]  # type: ignore[arg-type]
    drawn = [resample_classes(truth, labels, space, seed=SEED) for labels in both]  # type: ignore[arg-type]
    differences = {
        name: _estimate(
            getattr(values[0], name) - getattr(values[1], name), getattr(drawn[0], name) - getattr(drawn[1], name)
        )
        for name in ("war", "uar", "f1_weighted")
    }
    right = Counter((a.right, b.right) for a, b in pairs)
    answered = [(a, b) for a, b in pairs if a.row["status"] == b.row["status"] == "ok"]
    return differences | {
        "clips": len(pairs),
        "disagreeing": [a.row["clip"] for a, b in pairs if a.label != b.label],  # a human should look at these first
        "same_answer": _portion(sum(a.label == b.label for a, b in answered), len(answered)),
        "both_right": right[True, True],
        "only_think_right": right[True, False],
        "only_no_think_right": right[False, True],
        "neither_right": right[False, False],
    }


def _mappings(cases: Sequence[Case], judged: Sequence[Judged], protocol: str) -> list[dict[str, Any]]:
    """Every word that counted as another: of the truth, and of the answers as they are written."""
    found = Counter(("truth", str(case.example.label), case.truth) for case in cases if case.truth is not None)
    if protocol != "r1-omni":
        read = (("answer", parse_answer(one.row["text"]).label, one.written) for one in judged if one.written)
        found.update((where, str(word), label) for where, word, label in read)
    rows = ((key, clips) for key, clips in found.most_common() if key[1] != key[2])
    return [{"where": where, "word": word, "label": label, "clips": clips} for (where, word, label), clips in rows]


def _unknown_words(judged: Sequence[Judged], protocol: str) -> list[dict[str, Any]]:
    """The most frequent answers that are no label of the space."""
    lost = [one for one in judged if one.row["status"] == "ok" and one.case.truth is not None and one.written is None]
    words = (one.row["text"] if protocol == "r1-omni" else parse_answer(one.row["text"]).label for one in lost)
    found = Counter(" ".join(word.split())[:WORD_LENGTH] for word in words if word)
    return [{"word": word, "clips": clips} for word, clips in found.most_common(UNKNOWN_WORDS)]


def _mistakes(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """The wrong answers that the model was surest of."""
    wrong = [one for one in judged if not one.right and one.row["confidence"] is not None]
    wrong.sort(key=lambda one: -one.row["confidence"])
    fields = ("clip", "label", "confidence", "thought", "transcript")
    return [{"truth": one.case.truth} | {name: one.row[name] for name in fields} for one in wrong[:MISTAKES]]


def _estimate(value: Any, drawn: Floats) -> dict[str, float]:
    return {"value": float(value)} | interval(drawn)._asdict()


def _portion(part: int, whole: int) -> dict[str, float] | None:
    return {"value": part / whole} | wilson(part, whole)._asdict() if whole else None


def _write(out: Path, metrics: dict[str, Any]) -> None:
    text = json.dumps(metrics, ensure_ascii=False, indent=1, allow_nan=False)
    replace_file(out / "metrics.json", text.encode())
    replace_file(out / "report.html", page(metrics).encode())
