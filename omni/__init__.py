"""omni: which emotion a person in a clip expresses, the reasons for it, and the evidence for the reasons."""

from __future__ import annotations

__version__ = "0.1.0"
