"""`python -m rewards SAVED.jsonl`: a dry run of rewards over saved completions.

    python -m rewards SAVED.jsonl                                all rewards whose columns are there, as tables
    python -m rewards SAVED.jsonl --rewards format cues --json   these two, as one JSON object

Exit codes as those of `omni`: 0 done; 1 a fault of ours; 2 something that the user can put right, said in one line.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from omni.errors import OmniError

from .dryrun import Distribution, DryRun, Signs, dry_run, read_saved

WIDTH = 100  # where stdout is no terminal
PREVIEW = 70  # characters of a repeated completion
SHARES = ("malformed", "no_answer", "empty_thought", "unknown_words", "distinct")

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDTH},
)


@app.command()
def run(
    saved: Annotated[Path, typer.Argument(metavar="SAVED.jsonl", help="One object with 'completion' a line.")],
    rewards: Annotated[
        list[str] | None, typer.Option(help="Names; default: all whose columns are there.", metavar="NAME…")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Run rewards over saved completions: distributions, correlations and signs of gaming."""
    found = dry_run(read_saved(saved), rewards or None)
    if as_json:
        typer.echo(json.dumps(found.to_dict()))
    else:
        _print(found)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code. An error is one line, unless --debug is given."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return int(app(spread(arguments), prog_name="rewards", standalone_mode=False) or 0)
    except Exception as err:  # the last line of the command line: what went wrong, without a traceback
        if "--debug" in arguments:
            traceback.print_exc()
        if isinstance(err, OmniError):
            return _fail(str(err), 2)
        if isinstance(err, typer.TyperException):
            return _fail(f"{err.format_message().rstrip('.')}. See --help.", 2)
        return _fail(f"a fault of ours ({type(err).__name__}: {err}). Run again with --debug and report it.", 1)


def spread(arguments: Sequence[str]) -> list[str]:
    """Repeats `--rewards` before each of its names, since an option of typer takes one value at a time.

    >>> spread(["a.jsonl", "--rewards", "format", "cues", "--json"])
    ['a.jsonl', '--rewards', 'format', '--rewards', 'cues', '--json']
    >>> spread(["--rewards", "format", "cues", "a.jsonl"])
    ['--rewards', 'format', '--rewards', 'cues', 'a.jsonl']
    """
    given: list[str] = []
    inside = False
    for argument in arguments:
        ends = argument.startswith("-") or argument.endswith(".jsonl")
        inside = argument == "--rewards" or (inside and not ends)
        repeat = inside and argument != "--rewards" and given[-1] != "--rewards"
        given += ["--rewards", argument] if repeat else [argument]
    return given


def _print(found: DryRun) -> None:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    console.print(_distributions(found.rewards))
    console.print(_correlations(found))
    console.print(_signs(found.signs))
    for count, text in found.signs.repeated:
        line = " ".join(text.encode("utf-8", "replace").decode().split())
        console.print(Text(f"{count} times: {line[:PREVIEW]}{'…' * (len(line) > PREVIEW)}"))
    for name, columns in found.left_out.items():
        console.print(Text(f"left out: {name}, which needs {', '.join(columns)}", style="dim"))


def _distributions(rewards: dict[str, Distribution]) -> Table:
    table = _table("rewards", "rows", "None", "mean", "std", "min", "25 %", "median", "75 %", "max")
    for name, own in rewards.items():
        quantiles = own.quantiles or (None,) * 5
        table.add_row(name, str(own.rows), f"{own.none:.0%}", *map(_number, (own.mean, own.std, *quantiles)))
    return table


def _correlations(found: DryRun) -> Table:
    """The matrix, with the length of the completion as its last column."""
    names = list(found.rewards)
    table = _table("correlation", *(str(place) for place in range(1, len(names) + 1)), "length")
    for place, name in enumerate(names, start=1):
        row = [found.correlation[name][other] for other in names]
        table.add_row(f"{place} {name}", *map(_number, (*row, found.signs.length_correlation[name])))
    return table


def _signs(signs: Signs) -> Table:
    table = _table("signs of gaming", "value")
    table.add_row("length, pieces", _number(signs.length))
    table.add_row("words in the answer, mean", _number(signs.list_length))
    table.add_row("words in the answer, most", str(signs.longest_list))
    for name in SHARES:
        table.add_row(name.replace("_", " "), f"{getattr(signs, name):.1%}")
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _fail(message: str, code: int) -> int:
    print(f"rewards: {' '.join(message.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
