"""omni: which emotion a person in a clip expresses, the reasons for it, and the evidence for the reasons.

    from omni import load, reason, Chat

`import omni` is cheap: what needs torch is imported when it is first asked for.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .chat import Chat
    from .generate import reason
    from .loading import load

__version__ = "0.1.0"
__all__ = ["Chat", "load", "reason"]

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # advice about kernels, at its import, that nobody can act on

PLACES = {"Chat": ".chat", "load": ".loading", "reason": ".generate"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    if name not in PLACES:
        raise AttributeError(f"module 'omni' has no attribute {name!r}")
    return getattr(import_module(PLACES[name], __name__), name)
