"""The reader of `omni cues`: fit, limits, and the table of precision and recall in `docs/cues.md`.

    python benchmarks/fit_cues.py TRAIN OTHERS HELD_OUT… --features DIR [--write READER] [--assets FILE] [--out JSON]

The manifests are those of `python -m data actors`. TRAIN gives the two ridge regressions; OTHERS, actors and voices of
its own, the limits; HELD_OUT the numbers. Encoded clips are kept in DIR, as in training and `omni eval`. Without
--write, the reader that comes with the package is measured. --assets keeps some held-out clips for the test of the
floor. With a cache it takes two minutes. Beside the synthetic actors: --emodb, the voices of EmoDB's speakers 15 and
16, which no training clip has; --neutral, a folder of real people without expression, such as GRID, on whom every cue
of the face is a false one (but parted lips, if they talk); --facekit, the head of the actors, to render some in known
poses.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer
from rich.progress import track
from safetensors.numpy import save_file

from data import emodb
from data.expressions import UNITS, ActionUnit
from data.facekit import load_rig
from omni.answer import format_answer
from omni.clip import read_clip
from omni.cues.face import face_tower, faces_of, head_angles
from omni.cues.reader import CLIP_COLUMNS, READ, CueReader, Linear, reader, score, to_tensors
from omni.cues.timeline import streams
from omni.cues.truth import VOICE_LIMITS, Limits, cue_truth
from omni.cues.voice import deltas, measure, prosody_track
from omni.evidence import measured as cues_of
from omni.features import ClipFeatures, FeatureCache, read_features
from omni.journal import file_sha256
from omni.loading import load
from omni.manifest import Example, read_manifest
from rewards.cues import cues_reward

RIDGE = {"face": 1000.0, "voice": 10.0}  # 2 % and 0.2 % of the number of rows; ten times less or more is the same
MISSED = 0.05  # share of the clips with a cue that may be called without it, and the other way round
PRECISION = 0.9  # of "there", on the actors that set the limits
ASSET_CLIPS = 40
HEADS = (2000, 2003, 2007, 2011, 2016, 2020)  # actors of the test split
NOTHING = {"action_units": None, "prosody": None}


class Row(NamedTuple):
    """A clip with what is known of it, and what was measured on it: values of action units, shifts of the voice."""

    truth: dict[str, bool | None]
    face: dict[str, float] | None
    voice: dict[str, float] | None

    def score(self, cue) -> float:
        values = self.face if cue.modality == "face" else self.voice
        return math.nan if values is None else score(cue, values)


def encoded(manifest: Path, cache: FeatureCache) -> Iterator[tuple[Example, ClipFeatures]]:
    """The clips of a manifest through the towers; those that were encoded before are not decoded again."""
    for example in track(read_manifest(manifest), manifest.stem):
        known = sorted(cache.folder.glob(f"{file_sha256(example.clip)}-*.safetensors"))
        yield example, read_features(known[0]) if known else cache(cache.processor.read(example.clip))


def fit_face(clips: Sequence[tuple[Example, ClipFeatures]]) -> Linear:
    """Action units of every frame from the tower's detail."""
    details, targets = [], []
    for example, clip in clips:
        if "video" in clip.features:
            units = {n: ActionUnit(**u) for n, u in (example.extra["action_units"] or {}).items()}
            times = clip.times["video"].numpy()
            seen = ~np.isnan(times)
            details.append(clip.features["video"].numpy()[seen])
            targets += [[units[n].strength(t) if n in units else 0.0 for n in UNITS] for t in times[seen]]
    return ridge(np.concatenate(details), np.array(targets), RIDGE["face"])


def fit_voice(clips: Sequence[tuple[Example, ClipFeatures]]) -> Linear:
    """Shifts of the voice from the prosody of the clip."""
    heard = [(e, c) for e, c in clips if "prosody" in c.features and e.extra["prosody"]]
    inputs = [c.features["prosody"].numpy()[0, list(CLIP_COLUMNS)] for _, c in heard]
    return ridge(
        np.array(inputs), np.array([[e.extra["prosody"][n] for n in VOICE_LIMITS] for e, _ in heard]), RIDGE["voice"]
    )


def ridge(x: np.ndarray, y: np.ndarray, penalty: float) -> Linear:
    """x (N, D), y (N, K); columns of x standardised, as `Linear` does it."""
    mean, scale = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64) + 1e-3
    z = np.clip((x - mean) / scale, -6, 6)
    weight = np.linalg.solve(z.T @ z + penalty * np.eye(z.shape[1]), z.T @ (y - y.mean(0)))
    return Linear(mean, scale, weight, y.mean(0))


def measured(found: CueReader, clips: Sequence[tuple[Example, ClipFeatures]]) -> list[Row]:
    """What the reader says of each clip, at its highest over time."""
    rows = []
    for example, clip in clips:
        face = voice = None
        if "video" in clip.features:
            values = found.intensities(clip.features["video"].numpy(), clip.times["video"].numpy())
            face = dict(zip(found.units, np.nanmax(values, 0).tolist(), strict=True))
        if "prosody" in clip.features:
            voice = found.voice_shifts(clip.features["prosody"].numpy())
        rows.append(Row(cue_truth(example.extra["action_units"], example.extra["prosody"]), face, voice))
    return rows


def limits_of(cue, rows: Sequence[Row]) -> Limits:
    """The limits of a cue: see MISSED and PRECISION."""
    pairs = [(row.score(cue), row.truth[cue.name]) for row in rows if row.truth.get(cue.name) is not None]
    scores, there = (np.array(column) for column in zip(*[p for p in pairs if not math.isnan(p[0])], strict=True))
    if not there.any():
        return Limits(-math.inf, math.inf)
    if there.all():  # parted lips: no clip proves their absence
        return Limits(-math.inf, float(np.quantile(scores, 1 - PRECISION)))
    order = np.argsort(-scores)
    precise = np.flatnonzero(np.cumsum(there[order]) >= PRECISION * np.arange(1, len(order) + 1))
    precise = precise[precise >= 9]  # the first few say nothing
    least = scores[order][precise[-1]] if len(precise) else math.inf
    present = max(float(np.quantile(scores[~there], 1 - MISSED)), float(least))
    absent = float(np.quantile(scores[there], MISSED))
    middle = (absent + present) / 2
    return Limits(middle, middle) if absent > present else Limits(absent, present)


def table(found: CueReader, rows: Sequence[Row]) -> list[dict]:
    """Of every cue: how often it is there, precision and recall of "there" and of "not there", and the unknown."""
    lines = []
    for cue in READ:
        values = {"face": "face", "voice": "voice"}[cue.modality]
        known = [(row.truth[cue.name], found.verdict(cue, getattr(row, values))) for row in rows
                 if row.truth.get(cue.name) is not None and getattr(row, values) is not None]  # fmt: skip
        count = {(t, v): known.count((t, v)) for t in (True, False) for v in (True, False, None)}
        there, away = (sum(count[t, v] for v in (True, False, None)) for t in (True, False))
        lines.append({
            "cue": cue.name, "measures": " ".join(cue.measures), "clips": there + away, "there": there,
            "precision": share(count[True, True], count[True, True] + count[False, True]),
            "recall": share(count[True, True], there),
            "absent_precision": share(count[False, False], count[False, False] + count[True, False]),
            "absent_recall": share(count[False, False], away),
            "unknown": share(count[True, None] + count[False, None], there + away),
        })  # fmt: skip
    return lines


def share(part: int, whole: int) -> float | None:
    return round(part / whole, 3) if whole else None


def rewarded(clips: Sequence[tuple[Example, ClipFeatures]]) -> dict:
    """What the reward `cues` gives taught reasons, by known and by measured cues, on their own and on the next clip."""
    both = [(e, c) for e, c in clips if c.modalities == ("video", "audio")]
    own = [format_answer(e.label, e.rationale) for e, _ in both]
    truths = {
        "known": [{name: e.extra[name] for name in ("action_units", "prosody")} for e, _ in both],
        "measured": [{"cues": dict(cues_of(c).there)} for _, c in both],
    }
    earned = {way: cues_reward(own, truth) + cues_reward([*own[1:], own[0]], truth) for way, truth in truths.items()}
    pairs = [pair for pair in zip(*earned.values(), strict=True) if None not in pair]
    result: dict = {"clips": len(both), "correlation": round(float(np.corrcoef(np.array(pairs, float).T)[0, 1]), 3)}
    for way, values in earned.items():
        halves = (values[: len(both)], values[len(both) :])
        result[way] = [round(float(np.mean([v for v in half if v is not None])), 3) for half in halves]
    return result


def voices(found: CueReader, folder: Path) -> list[Row]:
    """EmoDB's held-out speakers, each sentence against the speaker's neutral ones."""
    examples = emodb.read_emodb(folder)
    baselines = emodb.speaker_baselines(examples)
    rows = []
    for example in examples:
        if example.extra["split"] == "test":
            wave = read_clip(example.clip, video=False).wave
            truth = cue_truth(None, deltas(measure(wave), baselines[example.extra["speaker"]]))
            rows.append(Row(truth, None, found.voice_shifts(prosody_track(wave).values)))
    return rows


def false_cues(found: CueReader, folder: Path) -> dict:
    """Of people without expression: how many cues of the face were decided, and which of them are there."""
    clips = [streams(read_clip(path, audio=False)) for path in sorted(folder.iterdir())]
    rows = [row for row in measured(found, [(Example(folder, extra=NOTHING), clip) for clip in clips]) if row.face]
    cues = [cue for cue in READ if cue.modality == "face" and cue.direction]
    verdicts = [(cue.name, found.verdict(cue, row.face)) for row in rows for cue in cues]
    return {
        "people": len(rows),
        "decided": sum(verdict is not None for _, verdict in verdicts),
        "there": dict(Counter(name for name, verdict in verdicts if verdict)),
    }


def head_errors(facekit: Path) -> dict:
    """Degrees by which turn, nod and tilt of held-out actors are off, mean, against the same actor's frontal face."""
    from data.render import Actor, Scene, render  # needs the extra `actors`

    rig, errors, slopes = load_rig(facekit), [], []
    for seed in HEADS:
        rng, actor = np.random.default_rng(seed), Actor(rig, seed)
        poses = np.vstack([np.zeros(3), rng.normal(0, (0.2, 0.12, 0.1), (15, 3))])  # yaw, pitch, roll in radians
        frames = np.stack([render(actor, Scene(seed, 160), {}, tuple(pose), rng) for pose in poses])
        seen = [
            (pose, head_angles(faces[0].points))
            for pose, faces in zip(poses, faces_of(face_tower(), frames), strict=True)
            if faces
        ]
        known, found = (np.array(column) for column in zip(*seen, strict=True))
        moved = np.degrees(known - known[0]) * (1, 1, -1)  # the rig rolls to the other side
        errors.append(np.abs(found - found[0] - moved)[1:])
        slopes.append(((found - found[0]) * moved).sum(0) / (moved**2).sum(0))
    off = np.concatenate(errors)
    return {"pictures": len(off), "off": off.mean(0).round(1).tolist(), "slope": np.mean(slopes, 0).round(2).tolist()}


def markdown(lines: Sequence[dict]) -> str:
    """The table of docs/cues.md."""
    head = "| cue | measured by | clips | there | precision | recall | not there: precision | recall | unknown |"
    cells = [["–" if x is None else f"{x:.2f}" if isinstance(x, float) else str(x) for x in line.values()]
             for line in lines]  # fmt: skip
    return "\n".join([head, "|---|---|" + "---:|" * 7, *(f"| {' | '.join(row)} |" for row in cells)])


def keep_assets(path: Path, clips: Sequence[tuple[Example, ClipFeatures]]) -> None:
    """Some held-out clips, evenly taken: what the towers made of them, and the truth."""
    whole = [(e, c) for e, c in clips if c.modalities == ("video", "audio")]
    chosen = whole[:: max(1, len(whole) // ASSET_CLIPS)][:ASSET_CLIPS]
    tensors = {
        f"{i}.{name}": value
        for i, (_, c) in enumerate(chosen)
        for name, value in (
            ("detail", c.features["video"].numpy().astype(np.float16)),
            ("times", c.times["video"].numpy()),
            ("prosody", c.features["prosody"].numpy()[:1].astype(np.float16)),
        )
    }
    facts = [{key: e.extra[key] for key in ("action_units", "prosody")} for e, _ in chosen]
    save_file(tensors, path, metadata={"clips": json.dumps(facts)})


def main(
    train: Path,
    others: Path,
    held_out: list[Path],
    features: Annotated[Path, typer.Option(help="Folder of encoded clips.")] = Path("features"),
    write: Annotated[Path | None, typer.Option(help="Fit, and keep the reader here.")] = None,
    assets: Annotated[Path | None, typer.Option(help="Keep some held-out clips for the test.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the table as JSON.")] = None,
    emodb_folder: Annotated[Path | None, typer.Option("--emodb", help="Folder of EmoDB.")] = None,
    facekit: Annotated[Path | None, typer.Option(help="The converted head of the actors.")] = None,
    neutral: Annotated[Path | None, typer.Option(help="Folder of clips of real people without expression.")] = None,
) -> None:
    """Fit and measure the reader."""
    cache = FeatureCache(features, *load("default"))
    found = reader() if write is None else None
    if write is not None:
        taught = list(encoded(train, cache))
        bare = CueReader(fit_face(taught), fit_voice(taught), tuple(UNITS), tuple(VOICE_LIMITS), {})
        rows = measured(bare, list(encoded(others, cache)))
        found = CueReader(bare.face, bare.voice, bare.units, bare.shifts, {c.name: limits_of(c, rows) for c in READ})
        tensors, facts = to_tensors(found)
        save_file(tensors, write, metadata={"reader": json.dumps(facts)})
    clips = [row for manifest in held_out for row in encoded(manifest, cache)]
    if assets is not None:
        keep_assets(assets, clips)
    lines = table(found, measured(found, clips))
    if out is not None:
        out.write_text(json.dumps(lines, indent=1))
    typer.echo(markdown(lines))
    typer.echo(json.dumps(rewarded(clips)))
    if emodb_folder is not None:
        rows = voices(found, emodb_folder)
        typer.echo(markdown([line for line in table(found, rows) if line["clips"]]))
    if facekit is not None:
        typer.echo(json.dumps(head_errors(facekit)))
    if neutral is not None:
        typer.echo(json.dumps(false_cues(found, neutral)))


if __name__ == "__main__":
    typer.run(main)
