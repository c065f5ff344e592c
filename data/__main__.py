"""`python -m data COMMAND`: make the corpora that the project trains and measures on.

actors   render synthetic actors with their truth
examples render the clips of examples/
facekit  turn the public ICT-FaceKit folder into the file that `actors` reads
emodb    write the manifest of a folder of EmoDB utterances

`python -m data NAME --root DIR --out manifest.jsonl` for a corpus as its owner distributes it: see `READERS`, the first
lines of each file that they are in, and `docs/data.md`.
"""

import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from inspect import Parameter, Signature, getdoc, signature
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from omni.errors import OmniError
from omni.manifest import Example, write_manifest

from .cremad import read_cremad
from .dfew import read_dfew
from .emer import read_emer
from .mafw import read_mafw
from .meld import read_meld
from .mer import read_mer2023, read_mer2024
from .r1omni import read_r1omni
from .ravdess import read_ravdess

Reader = Callable[..., list[Example]]  # (root, **options)
READERS: dict[str, Reader] = {
    "dfew": read_dfew,
    "mafw": read_mafw,
    "ravdess": read_ravdess,
    "cremad": read_cremad,
    "meld": read_meld,
    "emer": read_emer,
    "mer2023": read_mer2023,
    "mer2024": read_mer2024,
    "r1omni": read_r1omni,
}

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)


@app.command()
def actors(
    facekit: Annotated[Path, typer.Option(help="folder or .npz of the head model")],
    out: Annotated[Path, typer.Option(help="folder for the clips and the manifest")],
    clips: Annotated[int, typer.Option(min=1, help="how many")] = 100,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    split: Annotated[str, typer.Option(help="train, more, rl, validation, test: disjoint actors, voices")] = "train",
    emodb: Annotated[
        Path | None, typer.Option(help="EmoDB folder: real voices for a quarter of the training clips")
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option(help="render every frame at this rate; default: just the 8 that are sampled"),
    ] = None,
    size: Annotated[int, typer.Option(help="pixels")] = 160,
    workers: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Render synthetic actors; continues where an earlier run stopped."""
    from .actors import Sources, generate

    made = generate(Sources(facekit, emodb, fps, size), out, split, clips, seed, workers)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task(f"{split} clips", total=clips)
        for done in made:
            progress.update(task, completed=done)
    typer.echo(out / f"{split}.jsonl")


@app.command()
def examples(
    facekit: Annotated[Path, typer.Option(help="folder or .npz of the head model")],
    out: Annotated[Path, typer.Option(help="folder for the clips")] = Path("examples/clips"),
    seed: int = 1,
) -> None:
    """Render the example clips, every frame, with their truth beside them."""
    from .actors import Sources, showcase

    for clip in showcase(Sources(facekit, fps=25.0, size=224), out, seed):
        typer.echo(clip)


@app.command()
def facekit(source: Path, out: Path) -> None:
    """Convert the public ICT-FaceKit folder (OBJ files) into one .npz."""
    from .facekit import convert

    convert(source, out)
    typer.echo(out)


@app.command()
def emodb(folder: Path, out: Path) -> None:
    """Write a manifest of EmoDB utterances with their labels and speakers."""
    from .emodb import read_emodb

    write_manifest(out, read_emodb(folder))
    typer.echo(out)


def _command(read: Reader) -> Callable[..., None]:
    """The command of a reader: its arguments are the options, and what its docstring says of them is the help."""

    def command(root: Path, out: Path, **options: Any) -> None:
        examples = read(root, **options)
        write_manifest(out, examples)
        counts = Counter(example.label or "without a label" for example in examples).most_common()
        print(f"{len(examples)} clips:", ", ".join(f"{label} {count}" for label, count in counts), file=sys.stderr)
        typer.echo(out)

    says = dict(re.findall(r"^ {4}(\w+): (.+?)(?=\n {4}\w|\n\n)", getdoc(read) or "", re.DOTALL | re.MULTILINE))
    named = [*signature(read).parameters.values(), Parameter("out", Parameter.KEYWORD_ONLY, annotation=Path)]
    says["out"] = "the manifest to write: .jsonl, .csv or .parquet"
    command.__signature__ = Signature(  # type: ignore[attr-defined]
        [
            one.replace(
                kind=Parameter.KEYWORD_ONLY,
                annotation=Annotated[one.annotation, typer.Option(help=" ".join(says[one.name].split()))],
            )
            for one in named
        ]
    )
    return command


for _name, _reader in READERS.items():
    app.command(_name, help=(getdoc(sys.modules[_reader.__module__]) or "").split("\n")[0])(_command(_reader))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; what the user can put right is one line, and exit code 2."""
    try:
        app(arguments)
    except OmniError as err:
        print(f"data: {err}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
