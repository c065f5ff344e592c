"""Random clips for tests: any length, with or without picture and sound."""

import numpy as np

from omni.clip import Clip


def make_clip(seconds: float, seed: int, *, picture: bool = True, sound: bool = True) -> Clip:
    rng = np.random.default_rng(seed)
    times = (np.arange(4) + 0.5) * seconds / 4
    return Clip(
        frames=rng.integers(0, 255, (4, 40, 30, 3), dtype=np.uint8) if picture else None,
        times=times if picture else np.zeros(0),
        wave=rng.normal(0, 0.1, int(16000 * seconds)).astype(np.float32) if sound else None,
        duration=seconds,
        sha256=f"{seed:064x}",
        warnings=(),
    )


CLIPS = [
    make_clip(1.2, 0),
    make_clip(0.7, 1, sound=False),
    make_clip(2.6, 2, picture=False),
    make_clip(1.9, 3),
]
