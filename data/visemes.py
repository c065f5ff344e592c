"""Lip-sync: from the sounds of a sentence to the shapes of a mouth.

    ipa ─► one mouth per sound ─► spread over the voiced stretch of the recording ─► blended per frame

No alignment with the sound is computed: loudness says when the voice is on, and within that time each sound
takes a share by its kind (vowels longest). Good to about a tenth of a second, which is what the eye forgives.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from .expressions import both_sides

# fmt: off
MOUTHS: dict[str, dict[str, float]] = {  # IPA sign → shapes; a name without side moves both sides
    "p": {"mouthPress": 0.6}, "b": {"mouthPress": 0.6}, "m": {"mouthPress": 0.6},
    "f": {"mouthRollLower": 0.35, "jawOpen": 0.05}, "v": {"mouthRollLower": 0.35, "jawOpen": 0.05},
    "a": {"jawOpen": 0.5}, "æ": {"jawOpen": 0.45, "mouthStretch": 0.2}, "ɑ": {"jawOpen": 0.55},
    "ɒ": {"jawOpen": 0.5}, "ʌ": {"jawOpen": 0.36}, "ə": {"jawOpen": 0.22}, "ɐ": {"jawOpen": 0.28},
    "ɜ": {"jawOpen": 0.28}, "ɚ": {"jawOpen": 0.2}, "ɛ": {"jawOpen": 0.32, "mouthStretch": 0.2},
    "e": {"jawOpen": 0.28, "mouthStretch": 0.25}, "ɪ": {"jawOpen": 0.18, "mouthStretch": 0.2},
    "i": {"jawOpen": 0.13, "mouthStretch": 0.3}, "o": {"jawOpen": 0.32, "mouthFunnel": 0.5},
    "ɔ": {"jawOpen": 0.4, "mouthFunnel": 0.4}, "u": {"jawOpen": 0.13, "mouthPucker": 0.6},
    "ʊ": {"jawOpen": 0.18, "mouthPucker": 0.45}, "y": {"jawOpen": 0.13, "mouthPucker": 0.6},
    "ø": {"jawOpen": 0.25, "mouthPucker": 0.5}, "w": {"jawOpen": 0.1, "mouthPucker": 0.6},
    "ɹ": {"jawOpen": 0.13, "mouthFunnel": 0.25}, "r": {"jawOpen": 0.13},
    "ʃ": {"jawOpen": 0.1, "mouthFunnel": 0.45}, "ʒ": {"jawOpen": 0.1, "mouthFunnel": 0.45},
    "s": {"jawOpen": 0.05, "mouthStretch": 0.12}, "z": {"jawOpen": 0.05, "mouthStretch": 0.12},
    "θ": {"jawOpen": 0.12}, "ð": {"jawOpen": 0.12}, "t": {"jawOpen": 0.1}, "d": {"jawOpen": 0.1},
    "ɾ": {"jawOpen": 0.1}, "n": {"jawOpen": 0.1}, "ŋ": {"jawOpen": 0.15}, "l": {"jawOpen": 0.18},
    "j": {"jawOpen": 0.1}, "k": {"jawOpen": 0.18}, "ɡ": {"jawOpen": 0.18}, "g": {"jawOpen": 0.18},
    "x": {"jawOpen": 0.18}, "h": {"jawOpen": 0.22},
}
# fmt: on
_VOWELS = "aæɑɒʌəɐɜɚɛeɪioɔuʊyø"
_QUIET = 0.06  # of the loudest moment: below this the mouth rests
_BLEND = 0.05  # seconds over which neighbouring mouths melt into each other


def visemes(ipa: str, wave: np.ndarray, rate: int, times: Sequence[float]) -> list[dict[str, float]]:
    """The mouth at each of `times`.

    Args:
        ipa: the sentence in IPA; unknown signs (stress, spaces) are passed over, ː makes the sound before it
            longer.
        wave: (L,) mono at `rate` hertz.
        times: seconds, one per frame.

    Returns:
        Weights of the rig's shapes per time; {} while nobody speaks.
    """
    level, step = _loudness(wave, rate)
    speaking = level > _QUIET * level.max(initial=0.0)
    sounds, ends = _durations(ipa)
    if not sounds or not speaking.any():
        return [{} for _ in times]
    spoken = np.cumsum(speaking) / speaking.sum()  # (n,) share of the speech that is over at each step
    loud = 0.35 + 0.75 * np.clip(level / level.max(), 0, 1)
    frames = []
    for time in times:
        around = [time + shift for shift in (-_BLEND, 0.0, _BLEND)]
        mouths = [_mouth(int(at / step), speaking, spoken, loud, sounds, ends) for at in around]
        frames.append(both_sides(_blend(mouths, (0.25, 0.5, 0.25))))
    return frames


def mix(expression: Mapping[str, float], lips: Mapping[str, float]) -> dict[str, float]:
    """Speak with an expression on the face: weights add, the expression's mouth gives way a little.

    >>> mix({"browDown_L": 1.0, "mouthSmile_L": 1.0}, {"jawOpen": 0.4})
    {'browDown_L': 1.0, 'mouthSmile_L': 0.8, 'jawOpen': 0.4}
    """
    if not lips:
        return dict(expression)
    mixed = {name: weight * (0.8 if name.startswith("mouth") else 1.0) for name, weight in expression.items()}
    for name, weight in lips.items():
        mixed[name] = mixed.get(name, 0.0) + weight * (0.75 if name.startswith("mouth") else 1.0)
    return mixed


def _loudness(wave: np.ndarray, rate: int, step: float = 0.02) -> tuple[np.ndarray, float]:
    """Root mean square per `step` seconds, smoothed over three steps."""
    hop = int(rate * step)
    count = max(len(wave) // hop, 1)
    padded = np.pad(np.asarray(wave, np.float64), (0, max(0, count * hop - len(wave))))
    level = np.sqrt((padded[: count * hop].reshape(count, hop) ** 2).mean(1))
    return np.convolve(level, np.ones(3) / 3, "same"), step


def _durations(ipa: str) -> tuple[list[str], np.ndarray]:
    """The known sounds of a sentence and where each ends, as a share of the speech."""
    sounds: list[str] = []
    lengths: list[float] = []
    for sign in ipa:
        if sign in MOUTHS:
            sounds.append(sign)
            lengths.append(1.6 if sign in _VOWELS else 1.0)
        elif sign == "ː" and lengths:
            lengths[-1] *= 1.6
    return sounds, np.cumsum(lengths) / max(sum(lengths), 1e-9)


def _mouth(
    at: int,
    speaking: np.ndarray,
    spoken: np.ndarray,
    loud: np.ndarray,
    sounds: Sequence[str],
    ends: np.ndarray,
) -> dict[str, float]:
    """The mouth at step `at`: jaws open with loudness, lips move fully."""
    if not 0 <= at < len(speaking) or not speaking[at]:
        return {}
    sound = sounds[min(int(np.searchsorted(ends, spoken[at])), len(sounds) - 1)]
    return {name: weight * (loud[at] if name == "jawOpen" else 1.0) for name, weight in MOUTHS[sound].items()}


def _blend(mouths: Sequence[Mapping[str, float]], shares: Sequence[float]) -> dict[str, float]:
    """Weighted sum of mouths."""
    total: dict[str, float] = {}
    for mouth, share in zip(mouths, shares, strict=True):
        for name, weight in mouth.items():
            total[name] = total.get(name, 0.0) + share * weight
    return total
