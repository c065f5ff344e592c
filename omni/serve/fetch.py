"""A remote clip into a file, from allowed hosts only, so that the server cannot be sent to places of its own network.

    allowed host and port? ─► its addresses, all public? ─► connect to the address that was checked ─► a redirect? again

The name is looked up once: the connection goes to the checked address, with the name in `Host` and in TLS, so that a
second answer of the name server (rebinding) changes nothing. Size and time are bounded for all steps together. Nothing
of what a client sent goes along but the URL, and proxies of the environment are not used.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Timer
from typing import NamedTuple
from urllib.parse import SplitResult, urljoin, urlsplit

from .refusal import Refusal

REDIRECTS = 3
CHUNK = 2**16
PORTS = {"http": 80, "https": 443}
MOVED = {301, 302, 303, 307, 308}


class Place(NamedTuple):
    """Where a URL points."""

    scheme: str
    host: str
    port: int
    target: str  # path and query


def resolve(host: str, port: int) -> list[str]:
    """All addresses of a host."""
    return sorted({str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)})


def is_public(address: str) -> bool:
    """Whether an address lies outside of all private, loopback, link-local and special ranges.

    >>> [is_public(a) for a in ("8.8.8.8", "10.1.2.3", "127.0.0.1", "169.254.169.254", "::1", "::ffff:10.0.0.1")]
    [True, False, False, False, False, False]
    >>> is_public("64:ff9b::7f00:1"), is_public("2002:7f00:1::"), is_public("fe80::1%eth0"), is_public("2606:4700::1")
    (False, False, False, True)
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is not None or ip in ipaddress.ip_network("64:ff9b::/96") or int(ip) < 2**32:
            return False  # a version 4 address in disguise: nobody serves clips there
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


class _Checked(http.client.HTTPConnection):
    """A connection to an address that was checked, in the name of a host."""

    def __init__(self, place: Place, address: str, timeout: float) -> None:
        super().__init__(place.host, place.port, timeout=timeout)
        self.place, self.address = place, address
        self.wire: socket.socket | None = None

    def connect(self) -> None:
        self.sock = socket.create_connection((self.address, self.place.port), self.timeout)
        if self.place.scheme == "https":
            self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.place.host)
        self.wire = self.sock  # which `sock` is no longer once a response that closes it has begun


def _cut(connection: _Checked) -> None:
    """End a connection from another thread."""
    if connection.wire is not None:
        with suppress(OSError):
            connection.wire.shutdown(socket.SHUT_RDWR)


class Fetcher:
    """Fetches from some hosts.

    Args:
        allowed: "example.org" (ports 80 and 443) or "example.org:8443".
        size: bytes at most.
        seconds: for everything.
        look_up: host and port to addresses; for tests.
        public: whether an address may be connected to; for tests.
    """

    def __init__(
        self,
        allowed: Sequence[str],
        size: int,
        seconds: float,
        look_up: Callable[[str, int], list[str]] = resolve,
        public: Callable[[str], bool] = is_public,
    ) -> None:
        self.allowed, self.size, self.seconds = {name.lower().rstrip(".") for name in allowed}, size, seconds
        self.look_up, self.public = look_up, public

    def __call__(self, url: str, out: Path) -> None:
        """Fetch a URL into a file.

        Raises:
            Refusal: it is not allowed, too large, too slow, or does not answer with a file.
        """
        deadline = time.monotonic() + self.seconds
        for _ in range(REDIRECTS + 1):
            place = self._place(url)
            address = self._address(place)
            moved = self._get(place, address, out, deadline)
            if moved is None:
                return
            url = urljoin(url, moved)
        raise _refused("has too many redirects", "fetch_failed")

    def _place(self, url: str) -> Place:
        """A URL taken apart, if its host is allowed."""
        try:
            parts: SplitResult = urlsplit(url)
            port = parts.port or PORTS.get(parts.scheme, 0)
            host = (parts.hostname or "").rstrip(".").encode("idna").decode("ascii").lower()
        except (ValueError, UnicodeError) as err:
            raise _refused("cannot be read", "invalid_url") from err
        if parts.username is not None or parts.password is not None or parts.scheme not in PORTS or not host:
            raise _refused("must be http(s), with a host and no password", "invalid_url")
        plain = port in PORTS.values() and host in self.allowed
        if not plain and f"{host}:{port}" not in self.allowed:
            raise _refused("is of a host that is not allowed here (--allow-domain)", "url_not_allowed")
        target = parts._replace(scheme="", netloc="", fragment="").geturl() or "/"
        if not target.isascii() or any(c <= " " or c == "\x7f" for c in target):
            raise _refused("has characters that must be percent-encoded", "invalid_url")
        return Place(parts.scheme, host, port, target if target.startswith("/") else f"/{target}")

    def _address(self, place: Place) -> str:
        """The address to connect to; every address of the host must be public."""
        try:
            found = self.look_up(place.host, place.port)
        except OSError as err:
            raise _refused("is of a host that has no address", "fetch_failed") from err
        if not found or not all(self.public(address) for address in found):
            raise _refused("is of a host inside a private network", "url_not_allowed")
        return found[0]

    def _get(self, place: Place, address: str, out: Path, deadline: float) -> str | None:
        """Write the body to a file; the new URL where there is a redirect."""
        left = max(0.1, deadline - time.monotonic())
        connection = _Checked(place, address, left)
        timer = Timer(left, _cut, [connection])  # a timeout of the socket starts again with every byte
        try:
            connection.connect()
            timer.start()
            connection.request("GET", place.target, headers={"Accept": "*/*", "Accept-Encoding": "identity"})
            answer = connection.getresponse()
            if answer.status in MOVED:
                return answer.getheader("Location") or ""
            if answer.status != 200:
                raise _refused(f"was answered with status {answer.status}", "fetch_failed")
            if int(answer.getheader("Content-Length") or 0) > self.size:
                raise _refused(f"is larger than {self.size} bytes", "file_too_large")
            self._save(answer, out, deadline)
            return None
        except (OSError, http.client.HTTPException, ValueError) as err:
            raise _refused("could not be fetched", "fetch_failed") from err
        finally:
            timer.cancel()
            connection.close()

    def _save(self, answer: http.client.HTTPResponse, out: Path, deadline: float) -> None:
        size = 0
        with out.open("xb") as file:
            while chunk := answer.read1(CHUNK):
                size += len(chunk)
                if size > self.size:
                    raise _refused(f"is larger than {self.size} bytes", "file_too_large")
                file.write(chunk)
        if time.monotonic() >= deadline:
            raise _refused(f"took longer than {self.seconds:.0f} s", "fetch_timeout")


def _refused(why: str, code: str) -> Refusal:
    return Refusal(
        400, f"The clip's URL {why}. Upload the clip, or send it as a data: URL.", code=code, param="messages"
    )
