"""ShareGPT rows for training: one exchange for each row, with the clip in its place.

    {"messages": [{"role": "user", "content": "<video>The clip has picture and sound.\\n…"},
                  {"role": "assistant", "content": "<think>…</think>\\n<answer>…</answer>"}],
     "videos": ["/abs/clip.mp4"], "audios": []}

As LLaMA-Factory reads it: as many <video> and <audio> marks as there are files in `videos` and `audios`. A clip with a
picture is one <video>, whose sound lies in the same file; a clip with sound alone is one <audio>. A mark that someone
says in a clip loses its brackets. The user's turn is
`answer.prompt`; in an open vocabulary it lists no emotions. A row whose model gave no label, or abstained, is left out:
there is no answer to learn from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from ..answer import format_answer, prompt
from ..journal import Row
from ..predictions import OPEN
from .evidence import chosen, clip_path

MARK = re.compile(r"<(image|video|audio)>")


def sharegpt_file(rows: Sequence[Row], root: Path) -> bytes:
    """The rows as JSON lines."""
    lines = (json.dumps(_exchange(row, root), ensure_ascii=False) for row in rows if chosen(row))
    return "".join(line + "\n" for line in lines).encode(errors="replace")


def _exchange(row: Row, root: Path) -> Row:
    sound_only = row["modalities"] == ["audio"]
    space = list(row["labels"]) if row["labels"] else OPEN
    how = {"think": row["think"], "modalities": row["modalities"], "transcript": row["transcript"]}
    asked = MARK.sub(r"\1", prompt(row["question"], space, **how))
    answer = MARK.sub(r"\1", format_answer(row["label"], row["thought"] or ""))
    mark = "<audio>" if sound_only else "<video>"
    path = str(clip_path(row, root))
    return {
        "messages": [{"role": "user", "content": mark + asked}, {"role": "assistant", "content": answer}],
        "videos": [] if sound_only else [path],
        "audios": [path] if sound_only else [],
    }
