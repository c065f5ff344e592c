"""What a face does in a clip: action units drawn for an emotion, and the rig's shapes at a moment of time.

    emotion ─ sample_action_units ─► {"AU4": ActionUnit(intensity, onset, apex, offset), …}
            ─ shapes_at(…, t) ─► {"browDown_L": weight, …}

Recipes follow EMFACS (Friesen and Ekman 1983): which action units go with which emotion. They are a
convention for acted, prototypical expressions, not a law of felt emotion. `UNITS` says which rig shapes an
action unit moves; it follows the table in ICT-FaceKit's README, except that AU10 moves `mouthUpperUp`, which
looks the part.

A recipe alone would let a model write the right reasons without looking, since the label tells them. So each
clip loses some of its recipe (`dropout`) and gains action units that do not belong to it (`distractors`);
reference/actors.md has
the measurement: the gap between looking and guessing grows from 0.08 to 0.36 of the full reward.

Intensities: 0 absent, 1 full, up to `STRONGEST`. Times are seconds from the start of the clip.
Left out: asymmetry between left and right, and the order in which units set in.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .facekit import SHAPES

STRONGEST = 1.25
_FADE = 0.35  # seconds that an action unit takes to go


@dataclass(frozen=True)
class ActionUnit:
    """One muscle group at work: it rises from `onset`, is full at `apex` and relaxes from `offset`.

    >>> unit = ActionUnit(0.8, onset=0.0, apex=0.4, offset=9.0)
    >>> unit.strength(-0.1), round(unit.strength(0.2), 3), unit.strength(1.0)
    (0.0, 0.4, 0.8)
    """

    intensity: float
    onset: float = -1.0
    apex: float = 0.0
    offset: float = 1e9  # beyond the end of the clip: it stays

    def strength(self, t: float) -> float:
        """Intensity at `t` seconds."""
        rise = _ease((t - self.onset) / max(self.apex - self.onset, 1e-6))
        return self.intensity * rise * (1 - _ease((t - self.offset) / _FADE))


def _ease(x: float) -> float:
    """0 below 0, 1 above 1, smooth between."""
    x = min(max(x, 0.0), 1.0)
    return x * x * (3 - 2 * x)


# Action unit → the shapes it moves and how far; a name without side moves both sides.
UNITS: dict[str, dict[str, float]] = {
    "AU1": {"browInnerUp": 1.25},
    "AU2": {"browOuterUp": 1.0},
    "AU4": {"browDown": 1.9},
    "AU5": {"eyeWide": 1.25},
    "AU6": {"cheekSquint": 1.0, "eyeSquint": 0.55},
    "AU7": {"eyeSquint": 1.1, "eyeBlink": 0.12},
    "AU9": {"noseSneer": 1.05, "mouthUpperUp": 0.15},
    "AU10": {"mouthUpperUp": 0.85},
    "AU12": {"mouthSmile": 1.0},
    "AU15": {"mouthFrown": 1.45},
    "AU17": {"mouthShrugLower": 0.8},
    "AU20": {"mouthStretch": 1.1},
    "AU23": {"mouthPress": 0.9, "mouthRollUpper": 0.25, "mouthRollLower": 0.3, "mouthShrugLower": 0.2},
    "AU24": {"mouthPress": 1.2, "mouthRollUpper": 0.2, "mouthRollLower": 0.2, "mouthShrugLower": 0.3},
    "AU25": {"mouthLowerDown": 0.55, "mouthUpperUp": 0.2, "jawOpen": 0.05},
    "AU26": {"jawOpen": 0.5},
    "AU43": {"eyeBlink": 1.0},
    "AU64": {"eyeLookDown": 0.8, "eyeBlink": 0.12},
}
_CORRUGATOR_PULL = 0.8  # AU4 without AU1 also pulls the inner brow down, below what browDown reaches


class Part(NamedTuple):
    """An action unit of a recipe: its intensity at full emotion, and how often it belongs to it."""

    weight: float
    likely: float = 1.0
    signature: bool = False  # says the emotion alone


_ANGRY_BROW = {"AU4": Part(1.15, signature=True), "AU7": Part(0.95), "AU5": Part(0.5, 0.6)}
# One emotion may show in several ways; one is drawn.
RECIPES: dict[str, tuple[dict[str, Part], ...]] = {
    "angry": (
        {**_ANGRY_BROW, "AU23": Part(1.0), "AU17": Part(0.6, 0.7)},
        {**_ANGRY_BROW, "AU24": Part(1.0), "AU17": Part(0.6, 0.7)},
        {**_ANGRY_BROW, "AU10": Part(0.55), "AU25": Part(1.1), "AU26": Part(0.35, 0.5)},
        {**_ANGRY_BROW, "AU25": Part(1.0), "AU26": Part(0.5, 0.7)},
    ),
    "disgust": (
        {"AU9": Part(1.0, signature=True), "AU10": Part(0.8, 0.7), "AU7": Part(0.4, 0.4),
         "AU4": Part(0.35, 0.4)},
        {"AU10": Part(1.0, signature=True), "AU9": Part(0.7), "AU15": Part(0.45, 0.5),
         "AU17": Part(0.55, 0.6)},
        {"AU9": Part(0.9, signature=True), "AU10": Part(0.9), "AU25": Part(0.8), "AU26": Part(0.3, 0.5)},
    ),
    "fear": (
        {"AU1": Part(1.0), "AU2": Part(0.6, 0.8), "AU4": Part(0.5, 0.8), "AU5": Part(1.1),
         "AU7": Part(0.35, 0.3), "AU20": Part(1.0, signature=True), "AU25": Part(0.8, 0.9),
         "AU26": Part(0.45, 0.7)},
    ),
    "happy": (
        {"AU6": Part(0.85, 0.9), "AU12": Part(1.0, signature=True), "AU25": Part(0.8, 0.6)},
        {"AU6": Part(0.9, 0.9), "AU12": Part(1.1, signature=True), "AU25": Part(0.8), "AU26": Part(0.5, 0.6)},
    ),
    "sad": (
        {"AU1": Part(1.1), "AU4": Part(0.55, 0.8), "AU15": Part(1.05, signature=True), "AU17": Part(0.6, 0.7),
         "AU64": Part(0.55, 0.5), "AU43": Part(0.3, 0.25)},
    ),
    "surprise": (
        {"AU1": Part(1.0), "AU2": Part(1.0), "AU5": Part(0.8, 0.9), "AU26": Part(1.1, signature=True)},
        {"AU1": Part(1.1), "AU2": Part(1.1, signature=True), "AU5": Part(0.7), "AU25": Part(0.6),
         "AU26": Part(0.7)},
    ),
    "neutral": ({},),
}  # fmt: skip

# Two that a face cannot show together, or that would hide each other.
_OPPOSED = (
    {"AU12", "AU15"}, {"AU12", "AU20"}, {"AU23", "AU25"}, {"AU23", "AU26"}, {"AU24", "AU25"},
    {"AU24", "AU26"},
    {"AU5", "AU43"}, {"AU7", "AU43"}, {"AU64", "AU43"}, {"AU5", "AU64"}, {"AU12", "AU24"}, {"AU23", "AU24"},
    {"AU10", "AU24"}, {"AU10", "AU23"},
)  # fmt: skip


def sample_action_units(
    emotion: str,
    rng: np.random.Generator,
    intensity: float = 1.0,
    dropout: float = 0.35,
    distractors: int = 2,
    duration: float = 2.0,
) -> dict[str, ActionUnit]:
    """Draw the action units of one clip.

    Args:
        emotion: a key of `RECIPES`.
        intensity: of the emotion, about 0.4 to 1.15.
        dropout: the chance of each unit of the recipe to be left out. At least two units, or one signature
            unit, stay.
        distractors: at most so many units from outside the recipe are added, weaker than the recipe's
            strongest.
        duration: of the clip in seconds, for onsets and offsets.

    Returns:
        Action unit → what it does, strongest first. Empty only for "neutral".
    """
    recipe = RECIPES[emotion][rng.integers(len(RECIPES[emotion]))]
    kept = _drop(recipe, rng, dropout)
    drawn = {unit: recipe[unit].weight * intensity * rng.uniform(0.75, 1.15) for unit in kept}
    foreign = _distract(recipe, drawn, rng, int(rng.integers(distractors + 1)))
    levels = sorted((drawn | foreign).items(), key=lambda item: -item[1])
    beat = rng.uniform(0.0, 0.3) * duration  # the units of an expression set in nearly together
    return {unit: _timed(min(level, STRONGEST), beat, duration, unit in foreign, rng) for unit, level in levels}


def _drop(recipe: Mapping[str, Part], rng: np.random.Generator, dropout: float) -> list[str]:
    """Leave out units by their likelihood and by `dropout`, but keep enough to tell the emotion."""
    kept = [unit for unit, part in recipe.items() if rng.random() < part.likely * (1 - dropout)]
    if len(kept) >= 2 or any(recipe[unit].signature for unit in kept):
        return kept
    return kept + [unit for unit, part in recipe.items() if part.signature]


def _distract(
    recipe: Mapping[str, Part], drawn: Mapping[str, float], rng: np.random.Generator, count: int
) -> dict[str, float]:
    """Up to `count` units from outside the recipe that can be seen beside `drawn`, with their intensities."""
    ceiling = 0.7 * max(drawn.values(), default=0.55)
    foreign: dict[str, float] = {}
    for unit in rng.permutation([unit for unit in UNITS if unit not in recipe]).tolist():
        if len(foreign) == count:
            break
        present = [*drawn, *foreign]
        if not any({unit, other} in _OPPOSED for other in present):
            foreign[unit] = min(rng.uniform(0.25, 0.6), ceiling)
    return foreign


def _timed(level: float, beat: float, duration: float, foreign: bool, rng: np.random.Generator) -> ActionUnit:
    """Give a unit its time: a distractor comes when it likes, half of the others stay to the end."""
    onset = float(rng.uniform(0, 0.5) * duration if foreign else beat + rng.uniform(0, 0.08) * duration)
    apex = onset + float(rng.uniform(0.15, 0.45))
    leaves = rng.random() < (0.7 if foreign else 0.4)
    offset = max(apex + 0.3, float(rng.uniform(0.65, 1.0) * duration)) if leaves else float(duration)
    return ActionUnit(float(level), onset, apex, offset)


def shapes_at(action_units: Mapping[str, ActionUnit], t: float) -> dict[str, float]:
    """The rig's weights at `t` seconds: {"browDown_L": 0.8, …}."""
    return shapes({unit: action.strength(t) for unit, action in action_units.items()})


def shapes(levels: Mapping[str, float]) -> dict[str, float]:
    """The rig's weights for intensities of action units.

    >>> shapes({"AU26": 1.0})
    {'jawOpen': 0.5}
    >>> sorted(shapes({"AU12": 0.5}).items())
    [('mouthSmile_L', 0.5), ('mouthSmile_R', 0.5)]
    """
    weights: dict[str, float] = {}
    for unit, level in levels.items():
        for shape, far in UNITS[unit].items():
            weights[shape] = weights.get(shape, 0.0) + far * level
    pull = _CORRUGATOR_PULL * max(0.0, levels.get("AU4", 0.0) - levels.get("AU1", 0.0))
    if pull > 0 and levels.get("AU2", 0.0) < 0.2:
        weights["browInnerUp"] = weights.get("browInnerUp", 0.0) - pull
    return both_sides(weights)


def both_sides(weights: Mapping[str, float]) -> dict[str, float]:
    """Names without a side become _L and _R where the rig has two.

    >>> both_sides({"jawOpen": 0.1, "eyeWide": 0.2})
    {'jawOpen': 0.1, 'eyeWide_L': 0.2, 'eyeWide_R': 0.2}
    """
    sided: dict[str, float] = {}
    for name, weight in weights.items():
        for shape in (name,) if name in SHAPES else (f"{name}_L", f"{name}_R"):
            sided[shape] = weight
    return sided
