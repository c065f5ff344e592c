"""Synthetic actors: rendered talking heads whose expression, voice and words are known because we made them.

    plan (seed, split, index) -> Plan          who, which emotion, which voice; nothing rendered yet
    make (plan)               -> mp4 + json    frames, sound, truth, rationale
    python -m data actors --facekit DIR --out OUT [--emodb DIR] --clips N --seed S

Every clip has a random generator of its own, seeded by (seed, split, index): the order, the number of workers and an
interruption change nothing. A clip that is already there is not made again, and one of other settings is refused.
Actors, voices and sentences of train, validation and test are disjoint; the splits `more` and `rl` have actors and
voices of their own.

What keeps a model from guessing the cues from the label (`docs/data.md` has the measurements):
 - action units of the recipe are dropped, and foreign ones added (`expressions.py`); voices have foreign shifts too
 - in `CONFLICT` of the clips face and voice show different emotions; the stronger one is the label, and the rationale
   names both
 - `MISSING` of the clips have no sound or no picture, and their rationale says nothing about it
A quarter of the training clips carry a real acted voice (EmoDB, CC0) on a rendered face.

Training clips hold just the frames that a model samples (8, at the middles of equal bins), as an ordinary mp4 of about
3 frames a second: a tenth of the rendering. `--fps 25` renders every frame.
"""

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from omni.clip import read_clip
from omni.clip_writer import write_clip
from omni.cues.truth import cue_strength, cue_truth
from omni.cues.voice import deltas, measure
from omni.emotions import EKMAN7
from omni.errors import OmniError
from omni.manifest import Example, write_manifest

from . import emodb, expressions, voice
from .facekit import load_rig
from .motion import idle_at, pose_at, sample_motion
from .rationale import cue_onsets, write_rationale
from .render import Actor, Scene, render
from .visemes import mix, visemes

SPLITS = {
    "train": (0, 360),
    "validation": (1000, 30),
    "test": (2000, 30),
    "more": (3000, 360),  # for a second round of the cold start
    "rl": (5000, 360),  # for reinforcement learning: clips that the cold start has not learnt by heart
}  # first actor seed, how many actors
CONFLICT = 0.25
MISSING = 0.10
REAL_VOICE = 0.25  # of the training clips, if EmoDB is given
FRAMES = 8  # as R1-Omni samples
LEAD, TAIL = 0.2, 0.25  # seconds of silence around the speech
LONGEST = 5.0  # seconds
RATE = 16_000
BABBLE = "dasɪstnəfaɪnəzaxəʔalzoːbaldvɪʁtʔɛs"  # lips for real voices, whose words are not known


@dataclass(frozen=True)
class Plan:
    """What a clip will be, before anything is rendered.

    Attributes:
        face, voice: emotion that each sense shows.
        strength: intensity of (face, voice), 0.4 to 1.15.
        label: the emotion of the stronger sense.
        modalities: senses that the clip keeps.
        real: index into EmoDB's training utterances of that emotion, or None for a synthetic voice.
    """

    split: str
    index: int
    seed: int
    actor: int
    label: str
    face: str
    voice: str
    strength: tuple[float, float]
    modalities: tuple[str, ...]
    real: bool

    @property
    def conflict(self) -> bool:
        """Whether face and voice show different emotions."""
        return self.face != self.voice

    @property
    def name(self) -> str:
        """File name without suffix."""
        return f"{self.split}-{self.index:05d}"


def rng_of(seed: int, split: str, index: int, stage: int) -> np.random.Generator:
    """The random generator of one stage of one clip."""
    return np.random.default_rng([seed, SPLITS[split][0], index, stage])


def plan(split: str, index: int, seed: int, real_voices: bool) -> Plan:
    """Draw what clip `index` of a split will be."""
    rng = rng_of(seed, split, index, 0)
    first, count = SPLITS[split]
    emotion = EKMAN7[rng.integers(len(EKMAN7))]
    face = voice_ = emotion
    strength = (rng.uniform(0.4, 1.15), rng.uniform(0.4, 1.15))  # people do not show all in every sense
    modalities: tuple[str, ...] = ("video", "audio")
    kind = rng.random()
    if kind < CONFLICT and emotion != "neutral":
        others = [e for e in EKMAN7 if e not in (emotion, "neutral")]
        other, strong, weak = (
            others[rng.integers(len(others))],
            rng.uniform(0.9, 1.15),
            rng.uniform(0.35, 0.55),
        )
        face, voice_, strength = (
            (emotion, other, (strong, weak)) if rng.random() < 0.5 else (other, emotion, (weak, strong))
        )
    elif kind > 1 - MISSING:
        modalities = ("video",) if rng.random() < 0.5 else ("audio",)
    real = real_voices and split == "train" and rng.random() < REAL_VOICE and voice_ != "surprise"
    return Plan(
        split,
        index,
        seed,
        first + int(rng.integers(count)),
        emotion,
        face,
        voice_,
        strength,
        modalities,
        real,
    )


@dataclass(frozen=True)
class Sources:
    """Where the generator reads from and how it renders; crosses to worker processes."""

    facekit: Path
    emodb: Path | None = None
    fps: float | None = None
    size: int = 160


def make(plan: Plan, sources: Sources, out: Path) -> Example:
    """Render one clip, unless it is already there, and return its manifest row.

    Raises:
        OmniError: the clip that is there was made with other settings.
    """
    truth_file = _truth_file(plan, out)
    clip = truth_file.with_suffix(".wav" if plan.modalities == ("audio",) else ".mp4")
    if known_truth(plan, sources, out) is None or not clip.exists():
        clip.parent.mkdir(parents=True, exist_ok=True)
        truth = _render_clip(plan, sources, clip)
        unfinished = truth_file.with_suffix(".part")
        unfinished.write_text(json.dumps(truth, indent=1))
        os.replace(unfinished, truth_file)
    return _example(plan, clip, json.loads(truth_file.read_text()))


def known_truth(plan: Plan, sources: Sources, out: Path) -> dict | None:
    """The truth that an earlier run wrote of this clip, or None; also where a power cut left half of it.

    Raises:
        OmniError: it is not that of the plan; older versions wrote no settings, so there the emotions must do.
    """
    file = _truth_file(plan, out)
    if not file.exists():
        return None
    try:
        truth = json.loads(file.read_text())
    except ValueError:
        return None
    planned = {"label": plan.label, "face": plan.face, "voice": plan.voice, "modalities": list(plan.modalities)}
    there = {name: truth.get(name) for name in planned} | truth.get("made", {})
    wanted = planned | (_settings(plan, sources) if "made" in truth else {})
    other = [f"{name} {there[name]}, not {wanted[name]}" for name in reversed(wanted) if there[name] != wanted[name]]
    if other:
        message = f"{file} is of a run with other settings ({other[0]}). Give another --out, or the same settings."
        raise OmniError(message, code="settings")
    return truth


def _truth_file(plan: Plan, out: Path) -> Path:
    return out / plan.split / f"{plan.name}.json"


def _settings(plan: Plan, sources: Sources) -> dict:
    """What decides how a clip comes out, beside its split and index."""
    return {"emodb": plan.real, "fps": sources.fps, "size": sources.size, "seed": plan.seed}


def _render_clip(plan: Plan, sources: Sources, path: Path) -> dict:
    """Write the clip and return its truth."""
    rng = rng_of(plan.seed, plan.split, plan.index, 1)
    sound = _real_voice(plan, sources, rng) if plan.real else _synthetic_voice(plan, rng)
    wave = np.concatenate([np.zeros(int(LEAD * RATE), np.float32), sound.wave, np.zeros(int(TAIL * RATE), np.float32)])
    wave = wave[: int(LONGEST * RATE)]
    duration = len(wave) / RATE
    units = expressions.sample_action_units(plan.face, rng, plan.strength[0], duration=duration)
    seen, heard = "video" in plan.modalities, "audio" in plan.modalities
    if seen:
        fps = sources.fps or FRAMES / duration
        times = (
            (np.arange(round(duration * fps)) + 0.5) / fps
            if sources.fps is None
            else np.arange(round(duration * fps)) / fps
        )
        frames = _frames(plan, sources, units, sound.ipa, wave, times, rng)
        write_clip(path, frames=frames, fps=fps, wave=wave if heard else None)
    else:
        write_clip(path, wave=wave)
    return _truth(plan, units, sound, duration) | {"made": _settings(plan, sources)}


def _frames(
    plan: Plan, sources: Sources, units, ipa: str | None, wave: np.ndarray, times: np.ndarray, rng
) -> np.ndarray:
    actor = _actor(sources.facekit, plan.actor)
    scene = Scene(int(rng.integers(2**31)), sources.size)
    mouth = visemes(ipa or BABBLE, wave, RATE, times)
    motion = sample_motion(rng, float(times[-1]))
    frames = []
    for at, spoken in zip(times, mouth, strict=True):
        idle, shown = idle_at(motion, at), expressions.shapes_at(units, at)
        shown = {name: shown.get(name, 0.0) + idle.get(name, 0.0) for name in {**shown, **idle}}
        frames.append(render(actor, scene, mix(shown, spoken), pose_at(motion, at), rng))
    return np.stack(frames)


@lru_cache(maxsize=1)
def _rig(facekit: Path):
    return load_rig(facekit)


@lru_cache(maxsize=2)
def _actor(facekit: Path, seed: int) -> Actor:
    return Actor(_rig(facekit), seed)


@dataclass(frozen=True)
class Sound:
    """A voice and what is known of it; `shift` is the prosody against the same speaker's neutral voice."""

    wave: np.ndarray
    shift: dict[str, float]
    speaker: str
    text: str | None
    ipa: str | None


def _synthetic_voice(plan: Plan, rng) -> Sound:
    speech = voice.speak_split(plan.split, plan.voice, rng, plan.strength[1])
    return Sound(speech.wave, speech.deltas, speech.voice, speech.text, speech.ipa)


def _real_voice(plan: Plan, sources: Sources, rng) -> Sound:
    examples, baselines = _utterances(sources.emodb)
    ours = [e for e in examples if e.label == plan.voice]
    example = ours[rng.integers(len(ours))]
    wave = read_clip(example.clip, video=False).wave[: int((LONGEST - LEAD - TAIL) * RATE)]
    wave = wave * np.float32(10 ** (rng.uniform(-8, 2) / 20))
    speaker = example.extra["speaker"]
    return Sound(wave, deltas(measure(wave), baselines[speaker]), f"emodb-{speaker}", None, None)


@lru_cache(maxsize=1)
def _utterances(folder: Path):
    examples = _training_voices(folder)
    return examples, emodb.speaker_baselines(examples)


def _training_voices(folder: Path) -> list[Example]:
    return [e for e in emodb.read_emodb(folder) if e.extra["split"] == "train"]


def _truth(plan: Plan, units, sound: Sound, duration: float) -> dict:
    """What is known of the clip, as JSON."""
    seen, heard = "video" in plan.modalities, "audio" in plan.modalities
    return {
        "label": plan.label,
        "split": plan.split,
        "face": plan.face,
        "voice": plan.voice,
        "strength": [round(s, 3) for s in plan.strength],
        "conflict": plan.conflict,
        "modalities": list(plan.modalities),
        "action_units": {n: {k: round(v, 3) for k, v in asdict(u).items()} for n, u in units.items()} if seen else None,
        "prosody": {k: round(float(v), 3) for k, v in sound.shift.items()} if heard else None,
        "text": sound.text,
        "duration": round(duration, 3),
        "actor": plan.actor,
        "speaker": sound.speaker,
    }


def _example(plan: Plan, clip: Path, truth: dict) -> Example:
    """The manifest row: truth, and the rationales written from it."""
    heard, rng = "audio" in plan.modalities, rng_of(plan.seed, plan.split, plan.index, 2)
    units = {n: expressions.ActionUnit(**u) for n, u in (truth["action_units"] or {}).items()}
    apex = {n: u.intensity for n, u in units.items()} if truth["action_units"] is not None else None
    cues, strengths = cue_truth(apex, truth["prosody"]), cue_strength(apex, truth["prosody"])
    conflict = None
    if plan.conflict:
        conflict = {
            "face": plan.face,
            "voice": plan.voice,
            "winner": "face" if plan.label == plan.face else "voice",
        }
    facts = {"intensities": strengths, "times": cue_onsets(units, truth["duration"])}
    said = truth["text"] if heard else None
    whole = {**facts, "transcript": said, "modalities": plan.modalities, "conflict": conflict}
    extra = {k: v for k, v in truth.items() if k not in ("label", "made")}
    extra["rationale_plain"] = write_rationale(cues, plan.label, rng, **whole, overall=plan.face)
    if len(plan.modalities) == 2:  # the same clip with one sense taken away
        extra["rationale_mute"] = write_rationale(cues, plan.face, rng, **facts, modalities=("video",))
        extra["rationale_blind"] = write_rationale(
            cues, plan.voice, rng, **facts, transcript=said, modalities=("audio",)
        )
    return Example(clip=clip, label=plan.label, rationale=write_rationale(cues, plan.label, rng, **whole), extra=extra)


def generate(sources: Sources, out: Path, split: str, clips: int, seed: int, workers: int = 2) -> Iterator[int]:
    """Make the clips of a split and its manifest `<split>.jsonl`; yields how many are done.

    Raises:
        OmniError: no such split, `out` has clips of other settings, or EmoDB lacks utterances that are wanted; at the
            call, before the first clip.
    """
    if split not in SPLITS:
        raise OmniError(f"There is no split {split!r}. Choose one of: {', '.join(SPLITS)}.", code="split")
    plans = sorted((plan(split, i, seed, sources.emodb is not None) for i in range(clips)), key=lambda p: p.actor)
    for one in plans:
        known_truth(one, sources, out)
    _check_voices(plans, sources.emodb)
    return _make_all(plans, sources, out, out / f"{split}.jsonl", workers)


def _check_voices(plans: Sequence[Plan], folder: Path | None) -> None:
    """Refuse an EmoDB folder without utterances of an emotion that is wanted, or of a speaker at rest."""
    wanted = {p.voice for p in plans if p.real}
    if folder is None or not wanted:
        return
    examples = _training_voices(folder)
    lacking = sorted(wanted - {e.label for e in examples})
    at_rest = {e.extra["speaker"] for e in examples if e.label == "neutral"}
    unknown = sorted({e.extra["speaker"] for e in examples} - at_rest)
    if lacking or unknown:
        what = f"no {lacking[0]} utterance" if lacking else f"no neutral utterance of speaker {unknown[0]}"
        raise OmniError(f"{folder} has {what}. Give the whole of EmoDB, or leave out --emodb.", code="emodb")


def _make_all(plans: Sequence[Plan], sources: Sources, out: Path, manifest: Path, workers: int) -> Iterator[int]:
    batches = [
        plans[i : i + 20] for i in range(0, len(plans), 20)
    ]  # one actor's clips stay together: textures are cached
    rows: dict[int, Example] = {}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        try:
            for future in as_completed([pool.submit(_make_batch, batch, sources, out) for batch in batches]):
                rows |= future.result()
                yield len(rows)
        except BaseException:  # a full disk, a closed generator: say so now, not when all others are done
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    write_manifest(manifest, [rows[i] for i in sorted(rows)])


def _make_batch(plans: Sequence[Plan], sources: Sources, out: Path) -> dict[int, Example]:
    return {p.index: make(p, sources, out) for p in plans}


def showcase(sources: Sources, out: Path, seed: int = 1) -> Iterator[Path]:
    """The example clips: one of each emotion, one whose face and voice disagree, one mute, one without a picture.

    Actors, voices and sentences are those of the test split. Each clip has its truth beside it as NAME.json.
    """
    out.mkdir(parents=True, exist_ok=True)
    first = SPLITS["test"][0]
    both, strong = ("video", "audio"), (1.0, 1.0)
    plans = {e: Plan("test", 90_000 + i, seed, first + i, e, e, e, strong, both, False) for i, e in enumerate(EKMAN7)}
    plans["conflict"] = Plan("test", 90_010, seed, first + 10, "angry", "happy", "angry", (0.5, 1.15), both, False)
    plans["mute"] = Plan("test", 90_011, seed, first + 11, "happy", "happy", "happy", strong, ("video",), False)
    plans["voice"] = Plan("test", 90_012, seed, first + 12, "sad", "sad", "sad", strong, ("audio",), False)
    for name, plan in plans.items():
        clip = out / f"{name}{'.wav' if plan.modalities == ('audio',) else '.mp4'}"
        truth = _render_clip(plan, sources, clip)
        clip.with_suffix(".json").write_text(json.dumps(truth, indent=1) + "\n")
        yield clip
