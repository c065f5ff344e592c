"""How far labelling is: a bar on a terminal, a plain line every half minute elsewhere (a log file, a cluster).

    labelling, 2 errors ━━━━━━━━━━━━━━━━━━━ 120/5000 12.3 a minute, 6 h 36 min left
    labelling: 120 of 5000 clips, 2 errors, 12.3 a minute, 6 h 36 min left

Rate and time left count the clips that were labelled in this run, not those that a resumed run finds in its journal.
Everything goes to stderr.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

INTERVAL = 30.0  # s between two lines


@dataclass
class Count:
    """Clips passed so far, of which `new` were labelled in this run."""

    total: int
    passed: int = 0
    new: int = 0
    errors: int = 0

    def pace(self, seconds: float) -> str:
        """Clips a minute and time left, after so many seconds of work.

        >>> Count(total=200, passed=80, new=20).pace(60), Count(total=200, passed=80).pace(60)
        ('20.0 a minute, 6 min left', '')
        """
        if not self.new or seconds <= 0:
            return ""
        rate = self.new / seconds
        return f"{60 * rate:.1f} a minute, {duration((self.total - self.passed) / rate)} left"

    def line(self, seconds: float) -> str:
        """
        >>> Count(total=200, passed=80, new=20, errors=1).line(60)
        'labelling: 80 of 200 clips, 1 error, 20.0 a minute, 6 min left'
        """
        parts = [f"labelling: {self.passed} of {self.total} clips", errors(self.errors), self.pace(seconds)]
        return ", ".join(part for part in parts if part)


def errors(count: int) -> str:
    """
    >>> errors(0), errors(1), errors(2)
    ('', '1 error', '2 errors')
    """
    return f"{count} error{'s' * (count > 1)}" if count else ""


def duration(seconds: float) -> str:
    """
    >>> duration(8), duration(170), duration(4000), duration(200000)
    ('8 s', '3 min', '1 h 7 min', '55 h 33 min')
    """
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def progress(
    total: int, show: bool, *, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[int, int, int], None]]:
    """A function of (clips passed, of these labelled now, of these with an error) that shows how far it is.

    Args:
        total: clips in all.
        show: False shows nothing.
        clock: seconds; a test gives its own.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console, count, started = Console(stderr=True), Count(total), clock()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[pace]}"))
    said = started
    with Progress(*columns, console=console, disable=not (show and console.is_terminal)) as bar:
        line = bar.add_task("labelling", total=total, pace="")

        def advance(passed: int, new: int, wrong: int) -> None:
            nonlocal said
            count.passed, count.new, count.errors = count.passed + passed, count.new + new, count.errors + wrong
            spent = clock() - started
            text = ", ".join(part for part in ("labelling", errors(count.errors)) if part)
            bar.update(line, completed=count.passed, description=text, pace=count.pace(spent))
            if show and not console.is_terminal and clock() - said >= INTERVAL:
                said = clock()
                print(count.line(spent), file=sys.stderr, flush=True)

        yield advance
