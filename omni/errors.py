"""The errors that a user can do something about.

Each carries two things: a message of one or two sentences that says what was found, what was wanted and what
to do, and a `code`, a short stable word for programs (the `error.code` of a row of `omni label`). The command
line prints the message and exits with 2; the batch labeller writes both into the row of that clip.

A fault of ours stays what it is (`AssertionError`, `TypeError` …): wrapping it here would hide it.
"""

from __future__ import annotations


class OmniError(Exception):
    """An error whose message says what to do.

    >>> error = OmniError("talk.mp4 is empty. Record the clip again.", code="empty_file")
    >>> str(error), error.code
    ('talk.mp4 is empty. Record the clip again.', 'empty_file')
    >>> ClipError("talk.mp4 has no picture.").code
    'clip'
    """

    default_code = "error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code or self.default_code


class ClipError(OmniError):
    """A clip that cannot be read. Codes: see `omni/clip.py`."""

    default_code = "clip"


class ModelError(OmniError):
    """A model that cannot be loaded, or that was asked for what it cannot do."""

    default_code = "model"


class ServerError(ModelError):
    """A server that cannot be reached or refuses whatever it is asked; no fault of a clip, so it ends a run."""

    default_code = "server"


class LabelError(OmniError):
    """A label space or a label that is unknown."""

    default_code = "label"


class TrainingError(OmniError):
    """A run of training that cannot start or go on; the message says what to do."""

    default_code = "training"


class ManifestError(OmniError):
    """A manifest, or a table of results, that cannot be read or written."""

    default_code = "manifest"
