"""What is true of a clip, cue by cue, and how much of a text is true of it.

A measure x (an action unit's intensity, or how far the voice is from the speaker's neutral) has two limits:

    x >= present  the cue is there (True)      x <= absent  it is not (False)      between  unknown (None)

The unknown band is neither right nor wrong: people and detectors disagree there, so no text is graded on it.

    precision = supported / (supported + contradicted)

A claim about a sense that the clip does not have is contradicted: it was made up. A claim about a cue that
nobody can check (loudness without a baseline), or one in the unknown band, is uncheckable. Gamed by denying
rare cues, which are mostly absent: look at a blind text's score too.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..errors import ManifestError
from .lexicon import CUES, Claim, Cue, claims


class Limits(NamedTuple):
    absent: float
    present: float


# Of a full prototype expression (1.0): below .12 a viewer sees nothing, from .35 most viewers see it.
FACE_LIMITS = Limits(0.12, 0.35)
# Against the speaker's own neutral voice. Neutral sentences differ among themselves too, in EmoDB by a
# deviation of 1.2 semitones, 0.42, 0.18 and 3.2 dB (63 sentences, 8 speakers): `present` begins about there.
VOICE_LIMITS = {
    "pitch_st": Limits(0.75, 2.0),  # semitones; the median angry or happy sentence is at 8
    "range_log2": Limits(0.15, 0.4),  # octaves of the F0 range, 0.4 is 32 % wider; happy 0.4, sad -0.4
    "rate_log2": Limits(0.07, 0.18),  # 0.18 is 13 % faster; sad and disgusted -0.35
    "tilt_db": Limits(1.5, 3.5),  # high over low band; angry 11, sad -3.5
}


@dataclass(frozen=True)
class ClaimScore:
    """Counts of a text's claims; scores add up over a corpus with `sum(scores, ClaimScore())`."""

    supported: int = 0
    contradicted: int = 0
    uncheckable: int = 0

    @property
    def total(self) -> int:
        return self.supported + self.contradicted + self.uncheckable

    @property
    def precision(self) -> float | None:
        """Supported share of the checkable claims, in [0, 1]; None where nothing could be checked."""
        checked = self.supported + self.contradicted
        return self.supported / checked if checked else None

    def __add__(self, other: "ClaimScore") -> "ClaimScore":
        return ClaimScore(
            self.supported + other.supported,
            self.contradicted + other.contradicted,
            self.uncheckable + other.uncheckable,
        )


Measures = Mapping[str, Any] | str | None  # of a sense, as a manifest of any format holds them


def cue_truth(action_units: Measures, prosody: Measures) -> dict[str, bool | None]:
    """Says of each checkable cue whether it is there. What is known may also be JSON text, see `facts`.

    Args:
        action_units: intensity by name ("AU4": 0.8), or objects with `.intensity`; a missing unit is absent
            (0), NaN is unknown (a unit no detector reads). None: no face, so no face cue in the result.
        prosody: deltas as `omni.cues.voice.deltas` gives them; missing or NaN is unknown. None: no sound.

    Returns:
        True (there), False (not there) or None (unknown) by cue, only for the senses of the clip.

    >>> truth = cue_truth({"AU4": 0.8, "AU12": 0.2}, None)
    >>> truth["brow_down"], truth["smile"], truth["eye_wide"], "fast" in truth
    (True, None, False, False)
    """
    return {cue.name: _truth(cue, measured) for cue, measured in _checkable(action_units, prosody)}


def facts(value: Measures) -> dict[str, Any] | None:
    """An object of a manifest: of its JSON text, as .csv holds it, and without the nulls that Parquet fills in.

    Raises:
        ManifestError: it is something else.

    >>> facts('{"AU4": 0.8}'), facts({"AU4": 0.8, "AU9": None}), facts(""), facts({})
    ({'AU4': 0.8}, {'AU4': 0.8}, None, {})
    """
    found = decoded(value)
    return found and {name: measure for name, measure in found.items() if measure is not None}


def decoded(value: Measures) -> dict[str, Any] | None:
    """An object, or that of a JSON text; None where there is none.

    Raises:
        ManifestError: it is something else.
    """
    try:
        found = json.loads(value) if isinstance(value, str) and value else value
    except ValueError:
        found = value
    if found in (None, ""):
        return None
    if not isinstance(found, Mapping):
        raise ManifestError(
            f'What is known of a clip is an object by name, as {{"AU4": 0.8}}; got {value!r:.60}.', code="bad_row"
        )
    return dict(found)


def cue_strength(action_units: Measures, prosody: Measures) -> dict[str, float]:
    """How strong each cue is that is there, in multiples of its `present` limit (>= 1), for `lexicon.degree`.

    >>> cue_strength({"AU4": 0.7}, {"pitch_st": -4.0})
    {'brow_down': 2.0, 'pitch_low': 2.0}
    """
    return {
        cue.name: _strength(cue, measured)
        for cue, measured in _checkable(action_units, prosody)
        if cue.direction and _truth(cue, measured) is True
    }


def claim_precision(text: str, truth: Mapping[str, bool | None]) -> ClaimScore:
    """Counts the cue claims of a text that the clip supports and contradicts.

    >>> truth = cue_truth({"AU4": 0.8}, None)
    >>> claim_precision("The brows are furrowed, there is no smile, and the voice is loud.", truth)
    ClaimScore(supported=2, contradicted=1, uncheckable=0)
    """
    senses = {CUES[name].modality for name in truth if name in CUES}
    verdicts = [supports(claim, truth) if claim.modality in senses else False for claim in claims(text)]
    return ClaimScore(verdicts.count(True), verdicts.count(False), verdicts.count(None))


def supports(claim: Claim, truth: Mapping[str, bool | None]) -> bool | None:
    """Whether the clip bears a claim out; None where that cannot be said."""
    there = truth.get(claim.cue)
    return None if there is None else there == (claim.polarity > 0)


def _checkable(action_units: Measures, prosody: Measures) -> Iterator[tuple[Cue, Mapping[str, float]]]:
    senses = {"face": _intensities(facts(action_units)), "voice": facts(prosody)}
    for cue in CUES.values():
        measured = senses[cue.modality]
        if cue.measures and measured is not None:
            yield cue, measured


def _intensities(action_units: Mapping[str, Any] | None) -> dict[str, float] | None:
    if action_units is None:
        return None
    return {name: _intensity(unit) for name, unit in action_units.items()}


def _intensity(unit: Any) -> float:
    """Of a number, of an object with `.intensity`, or of the same as a manifest holds it."""
    return float(unit["intensity"] if isinstance(unit, Mapping) else getattr(unit, "intensity", unit))


def _truth(cue: Cue, measured: Mapping[str, float]) -> bool | None:
    moved = _any(_band(_signed(cue, name, measured), _limits(cue, name)) for name in cue.measures)
    there = moved if cue.direction or moved is None else not moved
    return None if there is False and not cue.provable_absence else there


def _strength(cue: Cue, measured: Mapping[str, float]) -> float:
    ratios = [_signed(cue, name, measured) / _limits(cue, name).present for name in cue.measures]
    return max(ratio for ratio in ratios if not math.isnan(ratio))


def _signed(cue: Cue, name: str, measured: Mapping[str, float]) -> float:
    """The measure in the cue's direction; a cue of rest (direction 0) looks at its size alone."""
    value = measured.get(name, 0.0 if cue.modality == "face" else math.nan)
    return value * cue.direction if cue.direction else abs(value)


def _limits(cue: Cue, name: str) -> Limits:
    return FACE_LIMITS if cue.modality == "face" else VOICE_LIMITS[name]


def _band(value: float, limits: Limits) -> bool | None:
    if value >= limits.present:
        return True
    return False if value <= limits.absent else None  # NaN is in no band: unknown


def _any(verdicts: Iterable[bool | None]) -> bool | None:
    verdicts = list(verdicts)
    return True if True in verdicts else None if None in verdicts else False
