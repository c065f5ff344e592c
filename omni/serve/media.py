"""The clip of a request: from a URL, from an upload or from the request itself to encoded streams.

    data:video/mp4;base64,…     decoded into a private file
    file-…                      an upload
    https://…                   fetched, from hosts of --allow-domain only (fetch.py)
    file:///…                   below --allow-path only, after links were resolved
    ─► read in a child process (`omni.clip_reader`) ─► the senses that were sent, as one clip ─► towers ─► ClipFeatures

A picture and a sound that are sent apart are one clip. Two pictures or two sounds are refused: the model takes one clip
at a time. Files that this makes are deleted as soon as they are read; what is kept of a clip are its streams, the last
few by their content.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from ..chat import watch
from ..clip import Clip, Limits, read_clip
from ..clip_reader import ClipReader
from ..errors import ClipError
from ..features import ClipFeatures
from .fetch import Fetcher
from .files import Files
from .metrics import Metrics
from .model_thread import Gone, Line
from .refusal import Refusal
from .settings import Settings

THREADS = 2  # one reads while the other encodes
KEPT = 256  # encoded clips; of the default model 50 kB each
BOTH = ("video", "audio")


class Source(NamedTuple):
    """Something of a clip in a request.

    Attributes:
        url: as in the request.
        senses: which it is sent for.
        upload: where it is, if `url` is the id of an upload.
    """

    url: str
    senses: tuple[str, ...] = BOTH
    upload: Path | None = None


class Media:
    """Reads and encodes the clips of all requests.

    Args:
        folder: private, exists.
        files: the uploads.
    """

    def __init__(self, model, processor, settings: Settings, metrics: Metrics, folder: Path, files: Files) -> None:
        self.model, self.processor, self.settings, self.metrics = model, processor, settings, metrics
        self.folder, self.files = folder, files
        self.fetch: Callable[[str, Path], None] = Fetcher(
            settings.allow_domains, settings.clip_bytes, settings.fetch_seconds
        )
        self.roots = [path.resolve() for path in settings.allow_paths]
        self.pool = ThreadPoolExecutor(THREADS, "omni-media")
        self.readers: SimpleQueue[ClipReader] = SimpleQueue()
        limits = Limits(file_bytes=settings.clip_bytes)
        for _ in range(THREADS):
            self.readers.put(ClipReader(frames=processor.frames, sampling=processor.sampling, limits=limits))
        self.encoding, self.remembering = Lock(), Lock()
        self.known: OrderedDict[str, ClipFeatures] = OrderedDict()

    def located(self, source: Source) -> Source:
        """The same source, with the place of its upload; in the event loop, to which the uploads belong."""
        return source._replace(upload=self.files.get(source.url).path) if source.url.startswith("file-") else source

    def features(self, sources: Sequence[Source], line: Line) -> ClipFeatures:
        """The streams of the clip that the sources make together; in a thread of `pool`.

        Raises:
            Refusal: a source is not allowed or not there, or there are too many.
            ClipError: it is no clip.
            Gone: the client has left.
        """
        if not sources:
            raise Refusal(
                400, "There is no clip. Send one, for example as video_url.", code="no_clip", param="messages"
            )
        if len({source.url for source in sources}) > len(BOTH):  # before anything is fetched
            raise _too_many()
        with self._files(sources, line) as found:
            name = " ".join(f"{_digest(path)}:{'+'.join(senses)}" for path, senses in found.items())
            known = self._recall(name)
            if known is None:
                clip = combined([self._read(path, senses) for path, senses in found.items()])
                with self.encoding:
                    known = self._recall(name) or watch(self.model, self.processor, clip)
                self._keep(name, known)
            return known

    def close(self) -> None:
        """End the threads and the children that read."""
        self.pool.shutdown(cancel_futures=True)
        while not self.readers.empty():
            self.readers.get().close()

    @contextmanager
    def _files(self, sources: Sequence[Source], line: Line) -> Iterator[dict[Path, tuple[str, ...]]]:
        """The files of the sources with the senses that are wanted of each; those made here are deleted afterwards."""
        made: list[Path] = []
        found: dict[Path, tuple[str, ...]] = {}
        try:
            for source in dict.fromkeys(sources):
                if line.gone:
                    raise Gone
                path = self._place(source, made)
                found[path] = tuple(sense for sense in BOTH if sense in (*found.get(path, ()), *source.senses))
            yield found
        finally:
            for path in made:
                path.unlink(missing_ok=True)

    def _place(self, source: Source, made: list[Path]) -> Path:
        if source.upload is not None:
            return source.upload
        scheme = source.url[:8].partition(":")[0].lower()
        if scheme == "file":
            return self._local(source.url)
        if scheme not in ("data", "http", "https"):
            raise _refused("must begin with data:, https:, http: or file:, or be the id of an upload", "invalid_url")
        path = self.folder / f"clip-{secrets.token_hex(8)}"
        made.append(path)
        if scheme == "data":
            path.write_bytes(decoded(source.url))
        else:
            self.fetch(source.url, path)
        return path

    def _local(self, url: str) -> Path:
        """A file below --allow-path. The same answer for what is missing and what is forbidden."""
        try:
            parts = urlsplit(url)
            file = Path(unquote(parts.path, errors="strict")).resolve(strict=True)
            inside = any(file.is_relative_to(root) for root in self.roots) and file.is_file()
        except (OSError, ValueError, RuntimeError):  # missing; a NUL or bad bytes in the name; a loop of links
            inside = False
        if not inside or parts.netloc not in ("", "localhost"):
            raise _refused("is no file that may be read here (--allow-path)", "url_not_allowed")
        return file

    def _read(self, path: Path, senses: tuple[str, ...]) -> Clip:
        reader = self.readers.get()
        try:
            clip = reader.read(path)
            return read_clip(clip, audio="audio" in senses, video="video" in senses)
        except ClipError as err:
            raise ClipError(str(err).replace(path.name, "The clip", 1), code=err.code) from err
        finally:
            self.readers.put(reader)

    def _recall(self, name: str) -> ClipFeatures | None:
        with self.remembering:
            if name in self.known:
                self.known.move_to_end(name)
            return self.known.get(name)

    def _keep(self, name: str, clip: ClipFeatures) -> None:
        self.metrics.clips.inc()
        with self.remembering:
            self.known[name] = clip
            if len(self.known) > KEPT:
                self.known.popitem(last=False)


def decoded(url: str) -> bytes:
    """The bytes of a data: URL.

    >>> decoded("data:audio/wav;base64,UklGRg==")
    b'RIFF'
    """
    head, comma, data = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise _refused("is a data: URL without ;base64,", "invalid_url")
    try:
        return base64.b64decode(data.encode("ascii"), validate=True)
    except (binascii.Error, ValueError) as err:
        raise _refused("is not base64", "invalid_base64") from err


def combined(clips: Sequence[Clip]) -> Clip:
    """One clip of a picture and a sound that were sent apart.

    Raises:
        Refusal: there are two pictures, or two sounds.
    """
    seen, heard = [c for c in clips if c.frames is not None], [c for c in clips if c.wave is not None]
    if len(seen) > 1 or len(heard) > 1:
        raise _too_many()
    if len(clips) == 1:
        return clips[0]
    picture, sound = seen[0], heard[0]
    warnings = [w for clip in clips for w in clip.warnings if w not in ("no_audio", "no_video")]
    return replace(
        picture,
        wave=sound.wave,
        duration=max(picture.duration, sound.duration),
        sha256=hashlib.sha256(f"{picture.sha256} {sound.sha256}".encode()).hexdigest(),
        warnings=tuple(warnings),
    )


def only(clip: ClipFeatures, senses: Sequence[str]) -> ClipFeatures:
    """An encoded clip as some senses have it.

    Raises:
        Refusal: they have nothing of it, and the other has.
    """
    if clip.modalities and not set(senses) & set(clip.modalities):
        message = f"The clip gives no {senses[0]} to judge from, only {clip.modalities[0]}."
        raise Refusal(400, message, code="no_such_sense", param="senses")
    seen = clip if "video" in senses else clip.blind()
    return seen if "audio" in senses else seen.mute()


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as err:
        raise _refused("is no file that can be read", "file_not_found") from err


def _too_many() -> Refusal:
    message = "There is more than one clip. Ask about one at a time, or begin another conversation."
    return Refusal(400, message, code="too_many_clips", param="messages")


def _refused(why: str, code: str) -> Refusal:
    return Refusal(400, f"The clip's URL {why}.", code=code, param="messages")
