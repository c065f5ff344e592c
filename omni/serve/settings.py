"""What `omni serve` is told on the command line, checked before anything heavy is loaded."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from pathlib import Path

from ..errors import OmniError

MB = 2**20


@dataclass(frozen=True)
class Settings:
    """Where the server listens, who may ask, and what a request may cost. Every number has a reason.

    Attributes:
        name: of the model, as clients name it.
        api_key: needed to listen anywhere but on this machine.
        allow_domains: hosts of which clips may be fetched, "example.org" or "example.org:8443"; none by default.
        allow_paths: folders below which `file://` clips may lie; none by default.
        cors: origins of web pages that may call the server; none by default.

    >>> Settings(host="0.0.0.0").checked()
    Traceback (most recent call last):
    omni.errors.OmniError: --host 0.0.0.0 can be reached from other machines. Set --api-key, or OMNI_API_KEY.
    """

    name: str = "default"
    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str = ""
    allow_domains: tuple[str, ...] = ()
    allow_paths: tuple[Path, ...] = ()
    cors: tuple[str, ...] = ()
    rows: int = 16  # answers written together; beyond, a token of a row costs no less on a processor
    waiting: int = 32  # requests that wait for a row; more are answered 429
    connections: int = 256  # open sockets; more are answered 503
    body_bytes: int = 48 * MB  # of JSON: a clip of 32 MB as base64 in a data URL, and the words around it
    clip_bytes: int = 256 * MB  # of one clip by upload or address, as `Limits.file_bytes`
    body_seconds: float = 60.0  # for a request's body to arrive
    head_seconds: float = 10.0  # for its head
    send_seconds: float = 60.0  # for a client to take what it is sent, after which it is given up
    files: int = 64  # uploads kept
    files_bytes: int = 1024 * MB  # of all uploads together
    files_seconds: float = 3600.0  # after which an upload is deleted
    fetch_seconds: float = 30.0  # for a remote clip, redirects included
    tokens: int = 1024  # max_tokens at most
    drain_seconds: float = 30.0  # for answers under way when the server is told to stop

    def checked(self) -> Settings:
        """These settings, if they can be used together.

        Raises:
            OmniError: they cannot; says what to do.
        """
        if not self.api_key and not is_loopback(self.host):
            raise OmniError(
                f"--host {self.host} can be reached from other machines. Set --api-key, or OMNI_API_KEY.",
                code="bad_argument",
            )
        if self.api_key and (len(self.api_key) < 16 or not self.api_key.isascii() or not self.api_key.isprintable()):
            raise OmniError(
                "The API key is too easy to guess or cannot be sent. Give 16 or more ASCII characters.",
                code="bad_argument",
            )
        for folder in self.allow_paths:
            if not folder.is_dir():
                raise OmniError(f"--allow-path {folder} is no folder. Name one that exists.", code="bad_argument")
        for domain in self.allow_domains:
            if "/" in domain or "*" in domain or not domain:
                raise OmniError(
                    f"--allow-domain {domain} is no host. Give a whole name such as media.example.org.",
                    code="bad_argument",
                )
        return self


def is_loopback(host: str) -> bool:
    """Whether a host to listen on can be reached from this machine alone.

    >>> [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::", "example.org")]
    [True, True, True, False, False, False]
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(settings: Settings) -> socket.socket:
    """The socket to serve on; connections wait until the model is loaded.

    Raises:
        OmniError: the port is taken, or the host is not of this machine.
    """
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((settings.host, settings.port), family=family)
    except OSError as err:
        why = (err.strerror or "no such host").partition(" (")[0]
        raise OmniError(
            f"Cannot listen on {settings.host} port {settings.port} ({why}). Give another --port.", code="port"
        ) from err
