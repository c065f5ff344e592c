"""Uploads: bounded in bytes, count and age, in a private folder that is emptied when the server ends.

A client's name for a file is kept as data and never used as a path: files are called by their random ids.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from .refusal import Refusal
from .settings import Settings

CHUNK = 2**20


@dataclass(frozen=True)
class Upload:
    """One file. Times are seconds since 1970."""

    id: str
    path: Path
    size: int
    filename: str
    purpose: str
    created: int
    expires: int


@dataclass
class Files:
    """The uploads of one server. All methods are called in the event loop.

    Args:
        folder: private, exists.
    """

    folder: Path
    settings: Settings
    clock: Callable[[], float] = time.time
    known: dict[str, Upload] = field(default_factory=dict)

    def add(self, stream: BinaryIO, size: int, filename: str, purpose: str) -> Upload:
        """Keep a file.

        Raises:
            Refusal: it is too large, or there are too many.
        """
        self.expire()
        limits = self.settings
        if size > limits.clip_bytes:
            message = f"The file has {size} bytes, the limit is {limits.clip_bytes}. Cut or re-encode it."
            raise Refusal(413, message, code="file_too_large", param="file")
        if len(self.known) >= limits.files or sum(u.size for u in self.known.values()) + size > limits.files_bytes:
            wait = min((u.expires for u in self.known.values()), default=0) - self.clock()
            message = f"No more files can be kept. Delete one (DELETE /v1/files/ID), or wait {wait:.0f} s."
            raise Refusal(429, message, code="too_many_files", headers={"Retry-After": f"{max(1, wait):.0f}"})
        name = f"file-{secrets.token_hex(12)}"
        path, now = self.folder / name, int(self.clock())
        with path.open("xb") as out:
            while chunk := stream.read(CHUNK):
                out.write(chunk)
        self.known[name] = Upload(name, path, size, filename, purpose, now, now + int(limits.files_seconds))
        return self.known[name]

    def get(self, name: str) -> Upload:
        """The file of an id.

        Raises:
            Refusal: there is none, or it is too old.
        """
        self.expire()
        if name not in self.known:
            raise Refusal(404, "There is no such file, or it is too old. Upload it again.", code="file_not_found")
        return self.known[name]

    def delete(self, name: str) -> None:
        """Forget a file.

        Raises:
            Refusal: there is none.
        """
        self.get(name).path.unlink(missing_ok=True)
        del self.known[name]

    def expire(self) -> None:
        """Delete what is too old."""
        for upload in [u for u in self.known.values() if u.expires <= self.clock()]:
            upload.path.unlink(missing_ok=True)
            del self.known[upload.id]
