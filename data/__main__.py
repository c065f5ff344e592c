"""`python -m data COMMAND`: make the corpora that the project trains and measures on.

actors   render synthetic actors with their truth
examples render the clips of examples/
facekit  turn the public ICT-FaceKit folder into the file that `actors` reads
emodb    write the manifest of a folder of EmoDB utterances
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)


@app.command()
def actors(
    facekit: Annotated[Path, typer.Option(help="folder or .npz of the head model")],
    out: Annotated[Path, typer.Option(help="folder for the clips and the manifest")],
    clips: Annotated[int, typer.Option(help="how many")] = 100,
    seed: int = 0,
    split: Annotated[
        str, typer.Option(help="train, validation or test: disjoint actors, voices and sentences")
    ] = "train",
    emodb: Annotated[
        Path | None, typer.Option(help="EmoDB folder: real voices for a quarter of the training clips")
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option(help="render every frame at this rate; default: just the 8 that are sampled"),
    ] = None,
    size: Annotated[int, typer.Option(help="pixels")] = 160,
    workers: int = 2,
) -> None:
    """Render synthetic actors; continues where an earlier run stopped."""
    from .actors import Sources, generate

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task(f"{split} clips", total=clips)
        for done in generate(Sources(facekit, emodb, fps, size), out, split, clips, seed, workers):
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
    from omni.manifest import write_manifest

    from .emodb import read_emodb

    write_manifest(out, read_emodb(folder))
    typer.echo(out)


if __name__ == "__main__":
    app()
