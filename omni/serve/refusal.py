"""What a client is told when it cannot have what it asked for: OpenAI's error object, with the right status.

    {"error": {"message": "…", "type": "invalid_request_error", "param": "messages", "code": "no_clip"}}

`message` says what to do; `code` is a short stable word, of a clip those of `omni/clip.py`. A fault of ours is a 500
that says nothing of its insides.
"""

from __future__ import annotations

from typing import Any

from ..errors import OmniError

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}


class Refusal(Exception):
    """A request that is not answered.

    >>> Refusal(404, "There is no file x. Upload it again.", code="file_not_found").body()["error"]["type"]
    'not_found_error'
    """

    def __init__(
        self, status: int, message: str, *, code: str, param: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.headers = status, code, param, headers or {}

    def body(self) -> dict[str, Any]:
        """The error object."""
        kind = TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def refusal(err: Exception, param: str | None = None) -> Refusal:
    """An error of ours as a refusal: what the client can put right is a 400, anything else a 500."""
    if isinstance(err, Refusal):
        return err
    if isinstance(err, OmniError) and err.code not in ("nan", "internal"):
        return Refusal(400, str(err), code=err.code, param=param)
    return Refusal(500, "A fault of the server. Its log says more.", code="internal_error")


def busy(seconds: int) -> Refusal:
    """Too many requests at once."""
    message = f"The server is busy. Try again in {seconds} s."
    return Refusal(429, message, code="queue_full", headers={"Retry-After": str(seconds)})
