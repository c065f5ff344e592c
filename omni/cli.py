"""The command line: parse, call one function, print.

    omni ask CLIP [QUESTION]          reasons to stderr, the answer to stdout, or one JSON object with --json
    omni CLIP [QUESTION]              the same
    omni chat [CLIP]                  many questions about one clip, from the keyboard or a pipe
    omni serve                        a web page and OpenAI's API about clips over HTTP
    omni label SOURCE… --out FILE     many clips → a table
    omni timeline CLIP                a long clip window by window: probabilities over time, changes, a summary
    omni cues CLIP                    what can be measured of a clip without a language model
    omni export TABLE --to FORMAT     such a table → Label Studio, ELAN, a flat .csv, ShareGPT
    omni import-corrections EXPORT    what people corrected in Label Studio → a manifest and preference pairs
    omni calibrate MANIFEST           how sure the answers of a model may be, from held-out clips
    omni eval MANIFEST --out DIR      models against known labels: predictions, metrics, a report
    omni probe                        what the fusion mechanisms compute by themselves, without a language model
    omni matrix MANIFEST --out DIR    the same model trained with every fusion mechanism, as one table
    omni adapt MANIFEST --out FILE    fit a model to a few clips of a new label set, corpus or annotator
    omni report RUN                   the curves of a training run, as one HTML file
    omni rewards SAVED.jsonl          rewards over saved completions
    omni import SRC OUT               a released R1-Omni or HumanOmni folder → a model folder of ours
    omni doctor                       what is installed, and whether it works

Exit codes: 0 done; 1 a fault of ours; 2 something that the user can put right, said in one line; 3 a table
with some rows of errors; 130 interrupted. Everything that can be wrong with the arguments or the clip is
found before the model is loaded, and torch is imported only then.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from .errors import OmniError
from .journal import encodable, file_sha256

if TYPE_CHECKING:
    from .answer import Answer

BAR = 24  # characters of a probability of 1
FRAMES, SAMPLING = 8, "mid_bins"  # of read_clip; for a model that wants others the clip is read again
ALONE = {("video",): "picture", ("audio",): "sound"}
QUIET = {"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "TRANSFORMERS_VERBOSITY": "error"}
REMOTE = "hub:"
INTERRUPTED = 130  # what typer makes of Ctrl-C: 128 + SIGINT
ASKED = "Default: Which emotion does the person express?"


class _AskByDefault(TyperGroup):
    """`omni clip.mp4` means `omni ask clip.mp4`: what is no command is the first argument of ask."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        own = {name for parameter in self.get_params(ctx) for name in parameter.opts}
        if args and args[0] not in own and args[0] not in self.commands:
            args = ["ask", *args]
        return super().parse_args(ctx, args or ["--help"])


app = typer.Typer(
    cls=_AskByDefault,
    add_completion=False,
    rich_markup_mode=None,  # plain help: half the start-up time, and the same text in every terminal
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

Model = Annotated[str, typer.Option(help="default, a folder, or hub:owner/name (the only one that uses the network).")]
Labels = Annotated[
    str, typer.Option(help="A space (ekman7, dfew7, mafw11, ravdess8, mer6, cremad6, meld7), words a,b,c, or a file.")
]
Think = Annotated[bool, typer.Option("--think/--no-think", help="Give reasons before the answer.")]
Dtype = Annotated[str, typer.Option(help="Of the weights: auto, float32 or bfloat16.")]
FourBit = Annotated[bool, typer.Option("--load-in-4bit", help="Hold the language model in 4 bits (bitsandbytes).")]
AbstainBelow = Annotated[
    float | None, typer.Option(min=0, max=1, help="Answer uncertain where the best label is less probable than this.")
]
MaxRisk = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="The same, from where at most this share of the held-out clips was wrong."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def _version(wanted: bool) -> None:
    if wanted:
        from . import __version__

        typer.echo(f"omni {__version__}")
        raise typer.Exit()


@app.callback()
def _omni(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Which emotion does a person in a clip express, and why?

    `omni CLIP [QUESTION]` is short for `omni ask CLIP [QUESTION]`.

    An expression is not a feeling. Not for use at work, in education, or to decide anything
    about a person: docs/responsible_use.md.
    """


@app.command()
def ask(
    clip: Annotated[Path, typer.Argument(metavar="CLIP", help="A video, sound or image file.")],
    question: Annotated[str | None, typer.Argument(metavar="QUESTION", help=ASKED)] = None,
    model: Model = "default",
    labels: Labels = "ekman7",
    think: Think = True,
    no_audio: Annotated[bool, typer.Option("--no-audio", help="Judge from the picture alone.")] = False,
    no_video: Annotated[bool, typer.Option("--no-video", help="Judge from the sound alone.")] = False,
    delta: Annotated[Path | None, typer.Option(help="What omni adapt learned, added to the model.")] = None,
    dtype: Dtype = "auto",
    load_in_4bit: FourBit = False,
    evidence: Annotated[
        bool, typer.Option("--evidence", help="Check the reasons against what can be measured of the clip.")
    ] = False,
    abstain_below: AbstainBelow = None,
    max_risk: MaxRisk = None,
    receipt: Annotated[
        bool, typer.Option("--receipt", help="Find out what of picture and sound the answer rests on.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    debug: Debug = False,
) -> None:
    """Ask about one clip.

    Reasons go to stderr, the answer to stdout.
    """
    from .calibration import UNCERTAIN, abstained, leading
    from .clip import read_clip
    from .emotions import label_space
    from .label_row import Job, Task, asked_text, clip_row
    from .predictions import fingerprint

    started, question = time.perf_counter(), question and encodable(question)
    _one_sense_left(no_audio, no_video)
    space, below = label_space(labels), _least_sure(model, think, abstain_below, max_risk, delta)
    media = read_clip(clip, audio=not no_audio, video=not no_video)
    with _status("Loading the model…") as say:
        loaded, processor = _load(model, dtype, load_in_4bit)
        from .generate import as_features, reason

        if delta is not None:
            from .adapt import put_on

            space = put_on(loaded, delta, space)
        if media.frames is not None and (processor.frames, processor.sampling) != (FRAMES, SAMPLING):
            media = processor.read(clip, audio=not no_audio, video=not no_video)
        say("Watching and listening…")
        features = as_features(loaded, processor, [media])[0]
        answer = reason(loaded, processor, features, question, labels=space, think=think)
        proof = None
        if receipt:
            from . import faithfulness

            proof = faithfulness.receipt_of(loaded, processor, features, answer, question, labels=space)
    answer = abstained(answer, below)
    if as_json:
        task, job = Task(space, fingerprint(model), think), Job(clip, question or processor.question, media.sha256)
        asked = asked_text(processor, question, task, answer)
        row = clip_row(job, task, answer, time.perf_counter() - started, asked)
        row |= {"leading": leading(answer.labels)} if answer.label == UNCERTAIN else {}
        row |= ({"receipt": proof.to_dict()} if proof else {}) | ({"delta": file_sha256(delta)} if delta else {})
        typer.echo(json.dumps(row, ensure_ascii=_block() == "#"))
    else:
        _print_reasons(answer, evidence)
        if answer.label == UNCERTAIN:
            typer.echo(f"{UNCERTAIN}: {' or '.join(leading(answer.labels))}\n")
        typer.echo(bars(answer.labels, _block(), None if answer.label == UNCERTAIN else answer.label))
        if proof:
            typer.echo(f"\n{faithfulness.told(proof)}")


@app.command()
def chat(
    clip: Annotated[Path | None, typer.Argument(metavar="CLIP", help="A video, sound or image file.")] = None,
    model: Model = "default",
    labels: Labels = "ekman7",
    think: Think = True,
    dtype: Dtype = "auto",
    load_in_4bit: FourBit = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each question.")] = False,
    debug: Debug = False,
) -> None:
    """Talk about one clip.

    Reasons go to stderr, answers to stdout. Questions and commands (/help) come from the keyboard or a pipe, one a
    line.
    """
    from .emotions import label_space
    from .terminal import Terminal, opener, typed

    open_clip = opener(lambda: _load(model, dtype, load_in_4bit), label_space(labels), think, _status)
    facts = {"model": model, "think": think} if as_json else None
    terminal = Terminal(open_clip, lambda found: bars(found.labels, _block(), found.label), facts)
    if clip is not None:
        terminal.clip(str(clip))
    raise typer.Exit(terminal.run(typed(sys.stdin)))


@app.command()
def serve(
    model: Model = "default",
    host: Annotated[str, typer.Option(help="Anything but this machine's own needs an API key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    api_key: Annotated[
        str, typer.Option(envvar="OMNI_API_KEY", help="Asked of every request but /health.", show_default=False)
    ] = "",
    allow_domain: Annotated[
        list[str] | None, typer.Option(help="Fetch clips from this host; again for more. Default: from none.")
    ] = None,
    allow_path: Annotated[
        list[Path] | None, typer.Option(help="Read file:// clips below this folder. Default: none.")
    ] = None,
    cors: Annotated[list[str] | None, typer.Option(help="Let pages of this origin ask. Default: none.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, max=256, help="Answers written together.")] = 16,
    queue: Annotated[int, typer.Option(min=0, max=4096, help="Requests that wait; more are answered 429.")] = 32,
    dtype: Dtype = "auto",
    load_in_4bit: FourBit = False,
    debug: Debug = False,
) -> None:
    """Serve a web page and an OpenAI-style API about clips."""
    if find_spec("fastapi") is None or find_spec("uvicorn") is None:
        raise OmniError("omni serve needs more packages: pip install 'omni-emotion[serve]'", code="no_extra")
    from .serve.settings import Settings, listen

    settings = Settings(
        name=model if model.startswith(REMOTE) else Path(model).name,
        host=host,
        port=port,
        api_key=api_key,
        allow_domains=tuple(allow_domain or ()),
        allow_paths=tuple(allow_path or ()),
        cors=tuple(cors or ()),
        rows=batch_size,
        waiting=queue,
    ).checked()
    with listen(settings) as listening:
        with _status("Loading the model…"):
            loaded, processor = _load(model, dtype, load_in_4bit)
            from .serve.server import serve as run
        bound = listening.getsockname()[1]
        root = f"http://{host}:{bound}"
        told = f"{root}/v1 answers about clips, model {settings.name}; {root} is the page. Ctrl-C ends it."
        typer.echo(told, err=True)
        run(settings, loaded, processor, listening)


@app.command()
def label(
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE", help="Files, folders, globs, manifests, or - for paths on stdin.")
    ],
    out: Annotated[
        Path, typer.Option(help="The table: .jsonl, .csv or .parquet; run again to resume.", show_default=False)
    ],
    model: Model = "default",
    labels: Labels = "ekman7",
    open_vocabulary: Annotated[bool, typer.Option("--open", help="No list of labels: the model's own words.")] = False,
    think: Think = True,
    question: Annotated[str | None, typer.Option(help=ASKED)] = None,
    batch_size: Annotated[str, typer.Option(metavar="auto|N", help="Clips that the model takes together.")] = "auto",
    shard: Annotated[str | None, typer.Option(metavar="I/N", help="Only part I of N, from 1/N to N/N.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many clips.")] = None,
    retry_errors: Annotated[bool, typer.Option("--retry-errors", help="Try clips with an error again.")] = False,
    seed: Annotated[int, typer.Option(help="Written into the table; decoding is greedy.")] = 0,
    report: Annotated[Path | None, typer.Option(help="Also write a page of HTML about the table.")] = None,
    clip_timeout: Annotated[float, typer.Option(min=1, help="Seconds for reading one clip.")] = 90,
    max_seconds: Annotated[float, typer.Option(min=0, max=1e7, help="Longer clips are refused.")] = 600,
    max_pixels: Annotated[
        int | None,
        typer.Option(min=1, help="Larger pictures are refused. Default: 9.4 million in a video, 89 in a still."),
    ] = None,
    max_bytes: Annotated[int, typer.Option(min=1, help="Larger files are refused.")] = 256 * 2**20,
    abstain_below: AbstainBelow = None,
    max_risk: MaxRisk = None,
    engine: Annotated[
        str, typer.Option(metavar="local|openai|ray", help="The model here, behind a server, or in actors of Ray.")
    ] = "local",
    base_url: Annotated[str | None, typer.Option(help="Of the server, with /v1; --model is its name there.")] = None,
    api_key_env: Annotated[str | None, typer.Option(help="The variable that holds the server's API key.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Requests to the server at once.")] = 8,
    ray_address: Annotated[
        str | None, typer.Option(help="Of a cluster: ray://host:port or host:port. Default: one of this machine.")
    ] = None,
    actors: Annotated[
        int | None, typer.Option(min=1, help="Of Ray, each with a model. Default: one for each GPU, else 2.")
    ] = None,
    gpus_per_actor: Annotated[
        float | None, typer.Option(min=0, help="Of Ray; also a part. Default: 1 where there are GPUs.")
    ] = None,
    dtype: Dtype = "auto",
    debug: Debug = False,
) -> None:
    """Label many clips into a table, with reasons.

    Run again to resume. A clip that cannot be read becomes a row with its error, and the exit code is then 3.
    """
    from . import label as table
    from .label_sources import parse_shard

    _offline(model)
    summary = table.label(
        sources,
        out,
        model=model,
        labels=labels,
        open_vocabulary=open_vocabulary,
        think=think,
        question=question,
        batch_size=table.parse_batch_size(batch_size),
        shard=parse_shard(shard) if shard else None,
        limit=limit,
        retry_errors=retry_errors,
        seed=seed,
        dtype=dtype,
        limits=table.clip_limits(max_seconds, max_pixels, max_bytes, clip_timeout),
        clip_timeout=clip_timeout,
        report=report,
        abstain_below=_least_sure(model, think, abstain_below, max_risk),
        engine=_engine(engine, base_url, api_key_env, concurrency, dtype),
        spread=_spread(engine, ray_address, actors, gpus_per_actor),
    )
    typer.echo("\n".join(table.told(summary, out)), err=True)
    if summary.left:
        raise typer.Exit(INTERRUPTED)
    if summary.errors:
        raise typer.Exit(3)


@app.command()
def cues(
    clip: Annotated[Path, typer.Argument(metavar="CLIP|MANIFEST", help="A clip; or, with --out, a manifest of clips.")],
    plot: Annotated[Path | None, typer.Option(help="Draw the records over time into this picture.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the manifest with a column of cues.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    debug: Debug = False,
) -> None:
    """Measure face, head and voice without a language model.

    With a manifest: measure every clip, for the reward `cues`.
    """
    from .cues import timeline

    _offline("default")
    if out is not None:
        with _status("Measuring…"):
            left_out = timeline.measure_manifest(clip, out)
        sys.stderr.write("".join(f"left out: {message}\n" for message in left_out))
        raise typer.Exit(3 if left_out else 0)
    timeline.drawable(plot)
    media = timeline.read_closely(clip)
    with _status("Measuring…"):
        records = timeline.cue_timeline(media)
    if plot is not None:
        timeline.draw(media, records, plot)
    if as_json:
        found = {"clip": str(clip), "duration_s": media.duration, "records": [record.to_dict() for record in records]}
        typer.echo(json.dumps(found, ensure_ascii=_block() == "#"))
    else:
        typer.echo(timeline.told(records))


@app.command()
def timeline(
    clip: Annotated[Path, typer.Argument(metavar="CLIP", help="A video, sound or image file, of any length.")],
    window: Annotated[float, typer.Option(help="Seconds of a window.")] = 4.0,
    hop: Annotated[float, typer.Option(help="Seconds from one window to the next, at most WINDOW.")] = 2.0,
    plot: Annotated[Path | None, typer.Option(help="Draw the probabilities over time into this picture.")] = None,
    model: Model = "default",
    labels: Labels = "ekman7",
    think: Annotated[
        bool, typer.Option("--think/--no-think", help="Give reasons, for the surest window between two changes.")
    ] = False,
    no_audio: Annotated[bool, typer.Option("--no-audio", help="Judge from the picture alone.")] = False,
    no_video: Annotated[bool, typer.Option("--no-video", help="Judge from the sound alone.")] = False,
    max_seconds: Annotated[float, typer.Option(min=0, max=1e7, help="Longer clips are refused.")] = 4 * 3600,
    max_bytes: Annotated[int, typer.Option(min=1, help="Larger files are refused.")] = 8 * 2**30,
    dtype: Dtype = "auto",
    load_in_4bit: FourBit = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    debug: Debug = False,
) -> None:
    """Read a long clip window by window.

    Probabilities over time, where they change, and a summary that points at windows; of each person, if there are
    several.
    """
    from . import __version__
    from .cues.timeline import drawable
    from .emotions import label_space
    from .predictions import fingerprint
    from .timeline import windows as stream

    _one_sense_left(no_audio, no_video)
    space, started = label_space(labels), time.perf_counter()
    drawable(plot)
    limits = stream.limits_of(max_seconds, max_bytes)
    media = stream.Windows(clip, window=window, hop=hop, audio=not no_audio, video=not no_video, limits=limits)
    with _status("Loading the model…"):
        loaded, processor = _load(model, dtype, load_in_4bit)
    from .timeline import timeline as reading

    with _bar("reading", media.duration * (2 if think else 1)) as done:
        found = reading.read_timeline(loaded, processor, media, labels=space, think=think, progress=done)
    if as_json:
        facts: dict[str, Any] = {"model": model, "model_sha256": fingerprint(model).sha256, "omni_version": __version__}
        facts |= {"think": think, "seconds": round(time.perf_counter() - started, 3)}
        typer.echo(json.dumps(found.to_dict() | {"clip": str(clip)} | facts, ensure_ascii=_block() == "#"))
    else:
        typer.echo(reading.told(found))
    if plot is not None:
        reading.draw(found, plot)


@app.command()
def export(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="What omni label wrote to --out.")],
    to: Annotated[str, typer.Option(help="label-studio, elan, csv or sharegpt.", show_default=False)],
    out: Annotated[Path, typer.Option(help="A folder for label-studio and elan, else a file.", show_default=False)],
    root: Annotated[
        Path, typer.Option(help="Relative clips start here; for label-studio the folder that it serves.")
    ] = Path("."),
    debug: Debug = False,
) -> None:
    """Export labels to the tools that people annotate in.

    Rows with errors are left out.
    """
    from .export import export_table

    done = export_table(table, to, out, root)
    left_out = f"; {done.errors} left out, their status is error" if done.errors else ""
    typer.echo(f"{done.rows} rows written to {out}{left_out}", err=True)


@app.command()
def import_corrections(
    export: Annotated[Path, typer.Argument(metavar="EXPORT", help="Label Studio's export as JSON.")],
    out: Annotated[Path, typer.Option(help="A manifest for train_sft.py.", show_default=False)],
    pairs: Annotated[
        Path | None, typer.Option(help="Preference pairs as JSON lines. Default: OUT with .pairs.jsonl at its end.")
    ] = None,
    root: Annotated[Path, typer.Option(help="Relative clips start here, as in omni export.")] = Path("."),
    debug: Debug = False,
) -> None:
    """Turn Label Studio corrections into training rows.

    Where people and model differ, also into preference pairs.
    """
    from .corrections import import_corrections as run

    typer.echo("\n".join(run(export, out, pairs or out.with_suffix(".pairs.jsonl"), root).lines()), err=True)


@app.command()
def calibrate(
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="Held-out clips with their true labels.")],
    run: Annotated[
        Path, typer.Option(help="Folder of answers, as of omni eval; run again to resume.", show_default=False)
    ],
    model: Model = "default",
    out: Annotated[Path | None, typer.Option(help="Default: calibration.json in the model's folder.")] = None,
    labels: Annotated[str | None, typer.Option(help="A label space. Default: that of the manifest.")] = None,
    features: Annotated[Path | None, typer.Option(help="Keep encoded clips here, as in training.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips that go through the model together.")] = 4,
    debug: Debug = False,
) -> None:
    """Fit how sure a model is on held-out clips.

    What was fitted is kept with the model.
    """
    from . import calibration

    if out is None and model.startswith(REMOTE):
        raise OmniError("A remote model has no folder. Say where to write: --out FILE", code="bad_argument")
    _offline(model)
    found = calibration.calibrate(manifest, model, run, labels=labels, features=features, batch_size=batch_size)
    place = out or calibration.folder_of(model) / calibration.FILE
    calibration.write_calibration(found, place)
    warmth = ", ".join(f"{mode} {value:.2f}" for mode, value in found.temperature.items())
    typer.echo(f"temperature: {warmth}, from {found.clips} clips: {place}")


@app.command("eval")
def evaluate(
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="Clips with their true labels.")],
    out: Annotated[
        Path,
        typer.Option(
            help="Folder of predictions.jsonl, metrics.json, report.html; run again to resume.", show_default=False
        ),
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(help="default, a folder, or hub:owner/name; again for more models. Default: default."),
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="A label space, words a,b,c, or a file. Default: that of the manifest.")
    ] = None,
    protocol: Annotated[str, typer.Option(help="omni, or r1-omni for the released one (verbatim).")] = "omni",
    mode: Annotated[list[str] | None, typer.Option(help="think or no-think. Default: both.")] = None,
    question: Annotated[str | None, typer.Option(help="In place of the model's own question.")] = None,
    no_audio: Annotated[bool, typer.Option("--no-audio", help="Leave the sound out of every clip.")] = False,
    no_video: Annotated[bool, typer.Option("--no-video", help="Leave the picture out of every clip.")] = False,
    wheels: Annotated[Path | None, typer.Option(help="Emotion wheels as JSON, in place of ours.")] = None,
    features: Annotated[Path | None, typer.Option(help="Keep encoded clips here, as in training.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips that go through the model together.")] = 4,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many rows.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as one JSON object.")] = False,
    debug: Debug = False,
) -> None:
    """Measure models on clips with known labels.

    Run again to resume. A clip that cannot be read counts as wrong and is listed with its error.
    """
    models = model or ["default"]
    _one_sense_left(no_audio, no_video)
    _offline(max(models, key=lambda name: name.startswith(REMOTE)))
    from . import evaluation

    found = evaluation.evaluate(
        manifest,
        models,
        out=out,
        labels=labels,
        protocol=protocol,
        modes=mode,
        question=question and encodable(question),
        without="audio" if no_audio else "video" if no_video else "",
        wheels=wheels,
        features=features,
        batch_size=batch_size,
        limit=limit,
    )
    typer.echo(json.dumps(found.metrics, ensure_ascii=_block() == "#") if as_json else evaluation.table(found.metrics))
    typer.echo(
        f"{found.done} answered, {found.errors} errors, {found.known} there already: {out / 'report.html'}", err=True
    )
    if found.metrics["failed"]:
        raise typer.Exit(3)


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="A released R1-Omni or HumanOmni folder.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")],
    towers: Annotated[str, typer.Option(help="checkpoint, or upstream: from --vision and --audio.")] = "checkpoint",
    vision: Annotated[Path | None, typer.Option(help="The folder of SigLIP.")] = None,
    audio: Annotated[Path | None, typer.Option(help="The folder of Whisper.")] = None,
    bert: Annotated[Path | None, typer.Option(help="The folder of BERT: its word list (vocab.txt).")] = None,
    layout: Annotated[str, typer.Option(help="The prompt: inference, cold_start or rl.")] = "inference",
    fit: Annotated[str, typer.Option(help="How frames become square: squeeze, or pad as in its training.")] = "squeeze",
    debug: Debug = False,
) -> None:
    """Turn a released folder into a model of ours.

    Of R1-Omni or HumanOmni.
    """
    _offline("default")
    with _status("Importing…"):
        from .import_weights import import_weights

        report = import_weights(
            source, out, towers=towers, vision=vision, audio=audio, bert=bert, layout=layout, fit=fit
        )
    typer.echo("\n".join([*report.lines(), f"written to {out}"]))


@app.command()
def doctor(debug: Debug = False) -> None:
    """Check the installation and run one clip end to end."""
    _offline("default")
    from .doctor import run

    run()


@app.command()
def probe(
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each mechanism on each task.")] = 3,
    only: Annotated[list[str] | None, typer.Option(help="A mechanism; again for more. Default: all.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes. Default: one for each core.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object; the table goes to stderr.")] = False,
    debug: Debug = False,
) -> None:
    """Measure fusion mechanisms without a language model."""
    from . import probe as battery

    found = []
    with _status("Training…") as say:
        for done in battery.outcomes(only or (), seeds, jobs=jobs):
            found.append(done)
            say(f"{done.mechanism}, {done.task}, seed {done.seed}: done")
    rows = battery.rows(found)
    typer.echo(battery.table(rows), err=as_json)
    if as_json:
        typer.echo(json.dumps({"rows": rows}))


@app.command()
def matrix(
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="Clips with their true labels, to train on.")],
    out: Annotated[
        Path, typer.Option(help="Folder of rows.jsonl and matrix.md, .json, .svg; run again to resume.")
    ] = Path("matrix"),
    test: Annotated[
        Path | None, typer.Option(help="Clips to measure on. Default: every fourth clip of MANIFEST is kept for that.")
    ] = None,
    model: Model = "default",
    only: Annotated[list[str] | None, typer.Option(help="A mechanism; again for more. Default: all.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of every row, 8 clips each.")] = 60,
    parameters: Annotated[int, typer.Option(min=1, help="Of every adapter, within a tenth.")] = 1_000_000,
    seed: Annotated[int, typer.Option(help="Of weights, order and draws.")] = 0,
    labels: Labels = "ekman7",
    features: Annotated[
        Path | None, typer.Option(help="Keep encoded clips here. Default: in the folder --out.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many rows of MANIFEST.")] = None,
    test_limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many rows of --test.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object; the tables go to stderr.")] = False,
    debug: Debug = False,
) -> None:
    """Train one model with every fusion mechanism; compare.

    Each is trained with LoRA and with a frozen language model. Run again to resume.
    """
    _offline(model)
    from .matrix import MatrixOptions
    from .matrix import matrix as run
    from .matrix_report import as_json as told
    from .matrix_report import markdown, write

    options = MatrixOptions(steps=steps, parameters=parameters, seed=seed, labels=labels)
    with _status("Loading the model…") as say:
        found = run(
            manifest,
            out,
            test=test,
            model=model,
            only=only or (),
            features=features,
            limit=limit,
            test_limit=test_limit,
            options=options,
            say=say,
        )
    write(found, out)
    typer.echo(markdown(found), err=as_json)
    if as_json:
        typer.echo(json.dumps(told(found), ensure_ascii=_block() == "#"))


@app.command()
def adapt(
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="The few clips with their labels.")],
    out: Annotated[Path, typer.Option(help="The delta, as safetensors: for omni ask --delta.", show_default=False)],
    model: Model = "default",
    labels: Labels = "ekman7",
    start: Annotated[Path | None, typer.Option(help="A start that --tasks-by has learned.")] = None,
    tasks_by: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Learn a start (Reptile): a task for each value of COLUMN.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps on the clips of a task, 8 clips each.")] = 8,
    seed: Annotated[int, typer.Option(help="Of order and draws.")] = 0,
    features: Annotated[Path | None, typer.Option(help="Keep encoded clips here, as in training.")] = None,
    debug: Debug = False,
) -> None:
    """Fit a model to a few labelled clips.

    What was learned is one small file, which can be taken off again.
    """
    if tasks_by and start:
        raise OmniError("--tasks-by learns a start and --start takes one. Drop one.", code="bad_argument")
    with _status("Loading the model…") as say:
        from . import adapt as fast

        fast.writable(out)
        loaded, processor = _load(model, "auto", False)
        options = fast.AdaptOptions(steps=steps, seed=seed)
        tasks = fast.read_tasks(manifest, loaded, processor, labels=labels, column=tasks_by, features=features)
        say("Learning…")
        if tasks_by:
            found = fast.reptile(loaded, processor, tasks, options)
        else:
            found = fast.adapt(loaded, processor, tasks[0], options, fast.read_delta(start) if start else None)
    fast.write_delta(out, found)
    learned = f"a start from {len(tasks)} tasks" if tasks_by else f"{len(tasks[0].clips)} clips"
    typer.echo(f"{out}: {learned}, {out.stat().st_size / 1e6:.1f} MB")


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The output_dir of a training run.")],
    debug: Debug = False,
) -> None:
    """Draw the curves of a training run.

    Into RUN/report.html.
    """
    from .report import report as write

    typer.echo(write(run))


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []})
def rewards(ctx: typer.Context) -> None:
    """Run rewards over saved completions.

    To see how they can be gamed.
    """
    # The rewards stand beside omni in a checkout and below it in the wheel; omni itself uses none of them.
    place = "omni.rewards" if find_spec("omni.rewards") else "rewards"
    raise typer.Exit(import_module(f"{place}.__main__").main(ctx.args))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code. An error is one line, unless --debug is given."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    warnings.simplefilter("ignore", FutureWarning)  # between libraries: what they will rename
    try:
        code = int(app(arguments, prog_name="omni", standalone_mode=False) or 0)
    except Exception as err:  # the last line of the command line: what went wrong, without a traceback
        if "--debug" in arguments:
            traceback.print_exc()
        if isinstance(err, OmniError):
            return _fail(str(err), 2)
        if isinstance(err, typer.TyperException):
            command = getattr(getattr(err, "ctx", None), "command_path", "omni")
            return _fail(f"{err.format_message().rstrip('.')}. See {command} --help.", 2)
        return _fail(f"a fault of ours ({type(err).__name__}: {err}). Run again with --debug and report it.", 1)
    if code == INTERRUPTED:
        _fail("interrupted. Run the same command again; omni eval, matrix or label goes on where it stopped.", code)
    return code


def bars(labels: dict[str, float], block: str = "█", label: str | None = None) -> str:
    """The answer as text: its label (if not given, the most probable) and probability, then a bar for each label.

    >>> print(bars({"sad": 0.25, "happy": 0.75}, "#"))
    happy  0.75
    <BLANKLINE>
      happy  ################## 0.75
      sad    ###### 0.25
    """
    ranked = sorted(labels.items(), key=lambda item: -item[1])
    width = max(map(len, labels))
    lines = [f"  {name:{width}}  {block * round(p * BAR)}{' ' * (round(p * BAR) > 0)}{p:.2f}" for name, p in ranked]
    label = label or ranked[0][0]
    return "\n".join([f"{label}  {labels[label]:.2f}", "", *lines])


def _print_reasons(answer: Answer, evidence: bool) -> None:
    """The thought, with the verdicts on its claims if wanted, and what the answer rests on; dim, to stderr."""
    from rich.console import Console
    from rich.text import Text

    from .calibration import UNCERTAIN, leading
    from .evidence import told

    thought = told(answer.thought, answer.evidence) if evidence else answer.thought
    first = leading(answer.labels)[0]
    notes = [
        f"at once the answer is {first}" if answer.label not in (first, UNCERTAIN) else "",
        f'heard: "{answer.transcript}"' if answer.transcript else "",
        f"judged from the {ALONE[answer.modalities]} alone" if answer.modalities in ALONE else "",
        f"warnings: {', '.join(answer.warnings)}" if answer.warnings else "",
        "" if answer.well_formed else "the model's text was not well-formed; the label is the most probable one",
    ]
    console = Console(stderr=True, highlight=False)
    for line in (thought, *(f"({note})" for note in notes if note)):
        if line:
            console.print(Text(line, style="dim"), soft_wrap=True)


def _one_sense_left(no_audio: bool, no_video: bool) -> None:
    if no_audio and no_video:
        raise OmniError("--no-audio and --no-video leave nothing to judge from. Drop one.", code="bad_argument")


def _least_sure(model: str, think: bool, below: float | None, risk: float | None, delta: Path | None = None) -> float:
    """The confidence below which an answer is uncertain; 0 for never."""
    from .calibration import folder_of, read_calibration

    if below is not None and risk is not None:
        raise OmniError("--abstain-below and --max-risk are two ways of one limit. Give one.", code="bad_argument")
    if risk is None:
        return below or 0.0
    if delta is not None:
        raise OmniError("--max-risk was fitted without the delta. Give --abstain-below.", code="bad_argument")
    return read_calibration(folder_of(model)).threshold("think" if think else "no-think", risk)


def _load(model: str, dtype: str, four_bit: bool) -> tuple[Any, Any]:
    _offline(model)
    from .loading import load

    loaded, processor = load(model, dtype=dtype, four_bit=four_bit)
    return loaded, processor


def _offline(model: str) -> None:
    """Forbid the hub client any request, unless a remote model is named. It reads this as it is imported."""
    if not model.startswith(REMOTE):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")


def _engine(engine: str, base_url: str | None, api_key_env: str | None, concurrency: int, dtype: str) -> Any:
    """What labels in place of a model in this process; None for that.

    Raises:
        OmniError: options that do not go together.
    """
    if engine not in ("local", "openai", "ray"):
        raise OmniError(f"There is no engine '{engine}'. Give local, openai or ray.", code="bad_argument")
    if (engine == "openai") != (base_url is not None):
        raise OmniError("--engine openai and --base-url go together. Give both or neither.", code="bad_argument")
    if base_url is None:
        if api_key_env:
            raise OmniError("--api-key-env is for --engine openai. Give that, or leave it out.", code="bad_argument")
        return None
    if dtype != "auto":
        raise OmniError("--dtype is chosen where the model is. Leave it out with --engine openai.", code="bad_argument")
    from .label_openai import remote

    return remote(base_url, api_key_env=api_key_env, concurrency=concurrency)


def _spread(engine: str, address: str | None, number: int | None, gpus: float | None) -> Any:
    """What has the clips labelled by actors of Ray; None for the other engines.

    Raises:
        OmniError: options that do not go together, or the extra is missing.
    """
    if engine == "ray":
        from .label_ray import actors

        return actors(address, number, gpus)
    if (address, number, gpus) != (None, None, None):
        what = "--ray-address, --actors and --gpus-per-actor are"
        raise OmniError(f"{what} for --engine ray. Give that, or leave them out.", code="bad_argument")
    return None


@contextmanager
def _status(message: str) -> Iterator[Any]:
    """A spinner while the body runs, if stderr is a terminal; yields what changes its text."""
    from rich.console import Console

    with Console(stderr=True).status(message) as status:
        yield status.update


@contextmanager
def _bar(message: str, seconds: float) -> Iterator[Any]:
    """A bar with the time left while the body runs, if stderr is a terminal; yields what tells it the seconds done."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(message, total=max(seconds, 1e-3))
        yield lambda done: progress.update(task, completed=done)


def _block() -> str:
    """The character of the bars: a full block where stdout can print it."""
    try:
        "█".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return "#"
    return "█"


def _fail(message: str, code: int) -> int:
    print(f"omni: {' '.join(message.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
