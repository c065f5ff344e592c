"""`omni chat`: a conversation about a clip in the terminal, or through pipes.

    question   ─► reasons, dim, to stderr; the answer to stdout, token by token; with --json a row: what
                  `omni ask --json` says of an answer, and the number of the turn
    /clip PATH    another clip; the conversation begins anew
    /labels [L]   the probabilities of the last answer; with a label space, what may be answered from now on
    /evidence, /receipt, /save PATH, /help, /quit

Lines come from the keyboard or from a pipe, one question or command each; the end of the input ends the conversation.
What a clip says or a model writes is shown without control characters, so that it cannot steer the terminal.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from .clip import read_clip
from .emotions import LABEL_LENGTH, LabelSpace, canonical, emotion_words, head_of, label_space
from .errors import OmniError
from .evidence import told
from .journal import encodable

if TYPE_CHECKING:
    from .answer import Answer
    from .chat import Chat

HELP = """\
/clip PATH       talk about another clip
/labels [SPACE]  probabilities of the last answer; with SPACE, such as mafw11 or calm,angry, what may be answered
/evidence        which reasons of the last answer are true of the clip, and when
/receipt         what picture and sound each contributed to it
/save PATH       write the conversation as JSON
/quit            end (or Ctrl-D)"""
NO_CLIP = "There is no clip yet. Name one: /clip PATH"
NO_REASONS = "The last answer gave no reasons."
NO_ANSWER = "There is no answer yet. Ask something first."


class Terminal:
    """One conversation.

    Args:
        open_clip: a path to a `Chat` about it.
        bars: the label of an answer and all probabilities as text.
        facts: print rows of JSON, which hold these too; None prints text.
    """

    def __init__(
        self,
        open_clip: Callable[[Path], Chat],
        bars: Callable[[Answer], str],
        facts: dict[str, Any] | None = None,
    ) -> None:
        from rich.console import Console

        self.open_clip, self.bars, self.facts = open_clip, bars, facts
        self.notes = Console(stderr=True, highlight=False, soft_wrap=True)
        self.chat: Chat | None = None
        self.path = Path()
        self.commands: dict[str, Callable[[str], None]] = {
            "/clip": self.clip,
            "/labels": self.labels,
            "/evidence": self.evidence,
            "/receipt": self.receipt,
            "/save": self.save,
            "/help": lambda _: self.say(HELP),
        }

    def run(self, lines: Iterable[str]) -> int:
        """Answer lines until there are no more. 0, or 2 if one of them could not be answered."""
        failed = 0
        for line in lines:
            if line.strip() in ("/quit", "/exit"):
                break
            try:
                self.answer(line.strip())
            except OmniError as err:  # a boundary: the conversation goes on
                print(f"omni: {' '.join(str(err).split())}", file=sys.stderr)
                failed = 2
        return failed

    def answer(self, line: str) -> None:
        """One line: a question, or a command."""
        if not line:
            return
        name, _, rest = line.partition(" ")
        if name in self.commands:
            self.commands[name](rest.strip())
        elif name.startswith("/") and "/" not in name[1:]:
            raise OmniError(f"There is no command {name}. Type /help.", code="bad_argument")
        else:
            self.ask(line)

    def clip(self, path: str) -> None:
        """Open a clip, and begin anew."""
        if not path:
            raise OmniError("Name the clip: /clip PATH", code="bad_argument")
        if not sys.stdin.isatty():
            self.chat = None  # if this one cannot be read, the questions that follow in a pipe are not about the last
        self.chat, self.path = self.open_clip(Path(path).expanduser()), Path(path)
        heard = self.chat.clip.transcript
        for note in (f'heard: "{heard}"' if heard else "", ", ".join(self.chat.clip.warnings)):
            if note and self.facts is None:
                self.say(f"({note})")

    def ask(self, question: str) -> None:
        """Ask, and show the answer as it is written; bytes that are no UTF-8 become question marks."""
        question = encodable(question)
        chat = self._open()
        before = chat.dropped
        if self.facts is None:
            self._show(chat, question)
        else:
            started = time.perf_counter()
            answer = chat.ask(question)
            row = {"clip": str(self.path), "turn": len(chat.turns), "question": question, **answer.to_dict()}
            print(json.dumps(row | self.facts | {"seconds": round(time.perf_counter() - started, 3)}), flush=True)
        if chat.dropped > before:
            self.say(f"(the oldest {chat.dropped} turns no longer fit into the model's context and are left out)")

    def labels(self, space: str) -> None:
        """Print the probabilities, or choose what may be answered."""
        if space:
            self._open().space = found = label_space(space)
            self.say(f"(from now on: {', '.join(found.labels)})")
        else:
            bars = self.bars(self._last())
            print(bars) if self.facts is None else self.say(bars)  # stdout has a JSON object a line then

    def evidence(self, _: str) -> None:
        """The reasons of the last answer, each checked against the clip."""
        answer = self._last()
        self.say(shown(told(answer.thought, answer.evidence)) or NO_REASONS)

    def receipt(self, _: str) -> None:
        """What the last answer rests on, its question asked by itself, without the turns before it."""
        from . import faithfulness

        answer, chat = self._last(), self._open()
        asked, of = chat.turns[-1].question, (chat.model, chat.processor, chat.clip)
        self.say(shown(faithfulness.told(faithfulness.receipt_of(*of, answer, asked, labels=list(answer.labels)))))

    def save(self, path: str) -> None:
        """Write the conversation."""
        self._last()
        if not path:
            raise OmniError("Name the file: /save PATH", code="bad_argument")
        try:
            self._open().save(Path(path).expanduser())
        except OSError as err:
            raise OmniError(
                f"{path} cannot be written ({err.strerror}). Name another file.", code="not_writable"
            ) from err
        self.say(f"(saved: {path})")

    def say(self, text: str) -> None:
        """A note, dim, to stderr."""
        self._dim(f"{text}\n")

    def _show(self, chat: Chat, question: str) -> None:
        """Thought to stderr and answer to stdout, piece by piece; Ctrl-C at a keyboard ends this answer alone.

        An answer that may be a label is held back: in place of an emotion that may not be answered stands the label.
        """
        last = held = ""
        try:
            for piece in chat.stream(question):
                if last == "thought" != piece.kind:
                    self._dim("\n")
                if piece.kind == "thought":
                    self._dim(shown(piece.text))
                elif len(held) > LABEL_LENGTH:
                    print(shown(piece.text), end="", flush=True)
                else:
                    held += piece.text
                    if len(held) > LABEL_LENGTH:
                        print(shown(held), end="", flush=True)
                last = piece.kind
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
            self.say("\n(stopped)")
            return
        if last == "thought":
            self._dim("\n")
        answer = chat.turns[-1].answer
        if len(held) <= LABEL_LENGTH:
            words = emotion_words(held)
            barred = bool(words) and all(head_of(word) and canonical(word, chat.space) is None for word in words)
            print(answer.label if barred else shown(held), end="")
        print(flush=True)
        formed = "" if answer.well_formed else "; the text was not well-formed"
        self.say(f"({answer.label} {answer.confidence:.2f}{formed})")

    def _dim(self, text: str) -> None:
        from rich.text import Text

        self.notes.print(Text(text, style="dim"), end="")

    def _open(self) -> Chat:
        if self.chat is None:
            raise OmniError(NO_CLIP, code="no_clip")
        return self.chat

    def _last(self) -> Answer:
        turns = self._open().turns
        if not turns:
            raise OmniError(NO_ANSWER, code="no_answer")
        return turns[-1].answer


def opener(
    load: Callable[[], tuple[Any, Any]], space: LabelSpace, think: bool, status: Callable[[str], Any]
) -> Callable[[Path], Chat]:
    """What opens clips for a `Terminal`; the model is loaded for the first one, if it can be read.

    Args:
        load: gives the model and its processor.
        status: a context that shows what is going on.
    """
    parts: list[Any] = []

    def open_clip(path: Path) -> Chat:
        if not parts:
            read_clip(path)
        with status("Loading the model…") as say:
            if not parts:
                parts.extend(load())
            from .chat import Chat

            say("Watching and listening…")
            loaded, processor = parts
            return Chat(loaded, processor, processor.read(path), labels=space, think=think)

    return open_clip


def shown(text: str) -> str:
    """Text without control characters but line ends and tabs.

    >>> shown("a\\x1b[2Jb\\n")
    'a?[2Jb\\n'
    """
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)


def typed(stdin: TextIO) -> Iterator[str]:
    """The lines of a keyboard, with a prompt and a history, or those of a pipe."""
    if not stdin.isatty():
        if isinstance(stdin, TextIOWrapper):
            stdin.reconfigure(errors="surrogateescape")  # a byte that is no UTF-8 costs a letter, not the conversation
        yield from stdin
        return
    with suppress(ImportError):  # it is not everywhere
        import readline  # noqa: F401  (gives `input` arrow keys)
    aside = not sys.stdout.isatty()  # it is a file of answers then
    while True:
        try:
            if aside:
                print("> ", end="", file=sys.stderr, flush=True)
            yield input("" if aside else "> ")
        except EOFError:
            print(file=sys.stderr)
            return
