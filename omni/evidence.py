"""The check of a rationale against its clip: each thing it says of face or voice, with a verdict and a time.

    thought ─► sentences ─► claims (cue, polarity), by `cues/lexicon.json`
    clip    ─► cues that are there, not there, unknown, by `cues/reader.py` or by the truth of a synthetic actor
    claim   ─► supported, with the time the cue was seen · contradicted · uncheckable

A claim about a sense that the clip does not have is contradicted, also a denial: what is not there cannot be looked at.
A claim in the reader's unknown band, or about a cue that nobody can measure (tears, loudness), is uncheckable. The time
of a supported claim is that of the action units, of the speech for a voice, and of all that was seen for a denial.

All this takes a millisecond or two, as it reads the features that the model was given anyway. The features of another
vision tower than ours tell no action units: every claim about the face is then uncheckable, unless the clip itself is
measured, `check(thought, measured(streams(clip)))` with `cues/timeline.py`. With several people in the picture it is
about the one whom the face tower follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from .cues.lexicon import CUES, Cue, claims, sentences
from .cues.reader import READ, CueReader, reader, score
from .cues.truth import supports
from .cues.voice import FEATURES, VOICED_AT_LEAST

if TYPE_CHECKING:
    from .features import ClipFeatures

Verdict = Literal["supported", "contradicted", "uncheckable"]
Span = tuple[float, float]
SENSES = {"face": "video", "voice": "audio"}  # modality of a cue → that of a clip
VERDICTS: dict[bool | None, Verdict] = {True: "supported", False: "contradicted", None: "uncheckable"}
MARKS: dict[Verdict, str] = {"supported": "✓", "contradicted": "✗", "uncheckable": "·"}
HALF_ROW = 0.125  # s; half a row of a prosody track


@dataclass(frozen=True)
class Evidence:
    """One claim of a rationale and what the clip says to it.

    Attributes:
        sentence: in which it was said.
        modality: "face" or "voice".
        cue: a name of the lexicon, such as "brow_down".
        polarity: 1 the text says that the cue is there, -1 that it is not.
        verdict: what the clip says to it.
        t0, t1: seconds between which a supported claim holds; None otherwise.
    """

    sentence: str
    modality: str
    cue: str
    polarity: int
    verdict: Verdict
    t0: float | None = None
    t1: float | None = None


class ClipCues(NamedTuple):
    """What a clip shows.

    Attributes:
        there: of each cue whether it is there, None if that is unknown; no cue of a sense that the clip lacks.
        spans: seconds of the cues that are there, and under "face" and "voice" of all that was seen and heard.
    """

    there: Mapping[str, bool | None]
    spans: Mapping[str, Span]


def evidence_of(thought: str, clip: ClipFeatures) -> tuple[Evidence, ...]:
    """The claims of a thought, checked against the clip that it is about."""
    return check(thought, measured(clip)) if thought else ()


def check(thought: str, found: ClipCues) -> tuple[Evidence, ...]:
    """The claims of a thought in reading order, checked against the cues of a clip.

    >>> cues = ClipCues({"smile": True, "brow_down": False}, {"smile": (0.5, 1.5), "face": (0.0, 2.0)})
    >>> [(e.cue, e.polarity, e.verdict, e.t0) for e in check("A smile, and no frown. The pitch is high.", cues)]
    [('smile', 1, 'supported', 0.5), ('brow_down', -1, 'supported', 0.0), ('pitch_high', 1, 'contradicted', None)]
    """
    senses = {CUES[name].modality for name in found.there}
    checked = []
    for claim in claims(thought):
        verdict = VERDICTS[supports(claim, found.there) if claim.modality in senses else False]
        span = found.spans.get(claim.cue if claim.polarity > 0 else claim.modality)
        t0, t1 = (round(t, 3) for t in span) if span and verdict == "supported" else (None, None)
        checked.append(Evidence(claim.sentence, claim.modality, claim.cue, claim.polarity, verdict, t0, t1))
    return tuple(checked)


def measured(clip: ClipFeatures) -> ClipCues:
    """The cues of a clip, measured on the features that the towers made of it."""
    there: dict[str, bool | None] = {}
    spans: dict[str, Span] = {}
    for cue in CUES.values():
        if SENSES[cue.modality] in clip.modalities:
            there[cue.name] = None
    read = reader()
    if "video" in clip.modalities and {"video", "expression"} <= clip.features.keys():  # those of our face tower
        _see(read, np.asarray(clip.features["video"]), np.asarray(clip.times["video"]), there, spans)
    if "audio" in clip.modalities and "prosody" in clip.features:
        _hear(read, np.asarray(clip.features["prosody"]), np.asarray(clip.times["prosody"]), there, spans)
    return ClipCues(there, spans)


def _see(
    read: CueReader, detail: np.ndarray, times: np.ndarray, there: dict[str, bool | None], spans: dict[str, Span]
) -> None:
    """Fill in the cues of the face."""
    values = read.intensities(detail, times)  # (T, U)
    seen = ~np.isnan(times)
    values, times = values[seen], times[seen]
    spans["face"] = (float(times[0]), float(times[-1]))
    highest = dict(zip(read.units, values.max(0).tolist(), strict=True))
    for cue in READ:
        if cue.modality == "face":
            there[cue.name] = read.verdict(cue, highest)
            if there[cue.name]:
                spans[cue.name] = _span(read, cue, values, times) if cue.direction else spans["face"]


def _span(read: CueReader, cue: Cue, values: np.ndarray, times: np.ndarray) -> Span:
    """Around the highest value, as long as it stays above half of it."""
    levels = np.array([score(cue, dict(zip(read.units, row, strict=True))) for row in values])
    apex = int(levels.argmax())
    low = np.flatnonzero(levels < levels[apex] / 2)
    before, after = low[low < apex], low[low > apex]
    first = int(before[-1]) + 1 if len(before) else 0
    last = int(after[0]) - 1 if len(after) else len(levels) - 1
    return float(times[first]), float(times[last])


def _hear(
    read: CueReader, track: np.ndarray, times: np.ndarray, there: dict[str, bool | None], spans: dict[str, Span]
) -> None:
    """Fill in the cues of the voice."""
    names = list(FEATURES)
    if track[0, names.index("clip_voiced")] < VOICED_AT_LEAST:
        return
    speaking = times[track[:, names.index("voiced")] > 0]
    spans["voice"] = (max(0.0, float(speaking[0]) - HALF_ROW), float(speaking[-1]) + HALF_ROW)
    shifts = read.voice_shifts(track)
    for cue in READ:
        if cue.modality == "voice":
            there[cue.name] = read.verdict(cue, shifts)
            if there[cue.name]:
                spans[cue.name] = spans["voice"]


def told(thought: str, evidence: Sequence[Evidence]) -> str:
    """A thought with its claims: each sentence, and below it what it claims, with verdict and time.

    >>> print(told("He smiles. So he is glad.", [Evidence("He smiles.", "face", "smile", 1, "supported", 0.5, 1.5)]))
    He smiles.
      ✓ smile 0.5–1.5 s
    So he is glad.
    """
    lines: list[str] = []
    for sentence in sentences(thought):
        lines.append(sentence)
        for one in evidence:
            if one.sentence == sentence:
                name = one.cue.replace("_", " ")
                when = "" if one.t0 is None else f" {one.t0:.1f}–{one.t1:.1f} s"
                lines.append(f"  {MARKS[one.verdict]} {name if one.polarity > 0 else f'no {name}'}{when}")
    return "\n".join(lines)
