"""What a face does besides feeling: blinks, glances and small movements of the head.

A `Motion` is drawn once per clip, without a look at the emotion, so that it gives nothing away. Glances stay
below what counts as looking down (AU64). Angles are radians, times seconds.
"""

from dataclasses import dataclass

import numpy as np

from .expressions import both_sides

_BLINK = 0.12  # seconds from open to closed


@dataclass(frozen=True)
class Motion:
    """Idle movement of one clip."""

    base: tuple[float, float, float]  # yaw, pitch, roll about which the head sways
    sway: tuple[float, float, float]  # amplitudes
    speed: tuple[float, float, float]  # hertz
    phase: tuple[float, float, float]
    blinks: tuple[float, ...]  # times of closed lids
    glances: tuple[tuple[float, float, float], ...]  # from this time on: sideways (left positive), up, both −1 to 1


def sample_motion(rng: np.random.Generator, duration: float = 2.0) -> Motion:
    """Draw the idle movement of a clip of `duration` seconds: a blink every three seconds or so."""
    blinks = np.cumsum(rng.exponential(3.0, 16) + 0.3)
    starts = [0.0, *np.cumsum(rng.uniform(0.5, 1.6, int(duration) + 1)).tolist()]
    return Motion(
        base=(float(rng.normal(0, 0.13)), float(rng.normal(0, 0.06)), float(rng.normal(0, 0.04))),
        sway=tuple((rng.uniform(0.4, 1.3) * np.array([0.05, 0.035, 0.02])).tolist()),
        speed=tuple(rng.uniform(0.3, 0.9, 3).tolist()),
        phase=tuple(rng.uniform(0, 2 * np.pi, 3).tolist()),
        blinks=tuple((blinks[blinks < duration] - 0.2).tolist()),
        glances=tuple((t, float(rng.normal(0, 0.12)), float(rng.normal(0, 0.05))) for t in starts),
    )


def pose_at(motion: Motion, t: float) -> tuple[float, float, float]:
    """Yaw, pitch and roll of the head at `t` seconds."""
    angles = np.array(motion.base) + np.array(motion.sway) * np.sin(
        2 * np.pi * np.array(motion.speed) * t + np.array(motion.phase)
    )
    return tuple(angles.tolist())


def idle_at(motion: Motion, t: float) -> dict[str, float]:
    """Weights of lids and eyes at `t` seconds, to be added to the expression's."""
    weights: dict[str, float] = {}
    closed = max((1 - abs(t - blink) / _BLINK for blink in motion.blinks), default=0.0)
    if closed > 0:
        weights |= both_sides({"eyeBlink": closed})
    _, side, up = [glance for glance in motion.glances if glance[0] <= max(t, 0.0)][-1]
    for name, turned in (("Out_L", side), ("In_R", side), ("In_L", -side), ("Out_R", -side)):
        if turned > 0:
            weights[f"eyeLook{name}"] = turned
    return weights | both_sides({"eyeLookUp": up} if up > 0 else {"eyeLookDown": -up})
