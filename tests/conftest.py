"""What all tests share: no network, quiet libraries, few threads, and small clips made on the spot."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

# Before any test imports torch or transformers.
os.environ.update({"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"})
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np
import pytest

LOCAL = ("127.0.0.1", "::1", "localhost")


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """A test that would need the network fails at once, and says so."""
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: object) -> None:
        if isinstance(address, tuple) and address[0] not in LOCAL:
            raise AssertionError(f"A test tried to reach {address[0]}; tests are offline.")
        connect(self, address)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        yield


@pytest.fixture(scope="session")
def talking_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One second of moving noise with a tone, as mp4: picture and sound, no face."""
    from omni.clip_writer import write_clip

    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("clips") / "talking.mp4"
    frames = rng.integers(0, 255, (25, 64, 64, 3), dtype=np.uint8)
    wave = (0.3 * np.sin(2 * np.pi * 220 * np.arange(16000) / 16000)).astype(np.float32)
    write_clip(path, frames=frames, fps=25.0, wave=wave)
    return path


@pytest.fixture(scope="session")
def voice_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a second of a tone, as wav."""
    from omni.clip_writer import write_clip

    path = tmp_path_factory.mktemp("clips") / "voice.wav"
    write_clip(path, wave=(0.3 * np.sin(np.arange(8000) / 10)).astype(np.float32))
    return path


@pytest.fixture(scope="module")
def tower():
    """The default's face tower, where its wheels are."""
    from omni.cues.face import face_tower
    from omni.errors import ModelError

    try:
        return face_tower()
    except ModelError as err:
        pytest.skip(str(err))
