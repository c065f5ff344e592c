"""The command line, as whole transcripts: what is printed where, and the exit code.

The model is a fake at the edge (the modules that load and run it are replaced); clips are real.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from omni import __version__, doctor
from omni.answer import QUESTION, Answer, prompt
from omni.cli import main
from omni.errors import ModelError
from omni.evidence import Evidence
from omni.manifest import Example, read_manifest, write_manifest
from omni.tiny import tiny
from rewards.cues import cues_reward

ANSWER = Answer(
    label="happy",
    confidence=0.6,
    labels={"angry": 0.1, "happy": 0.6, "sad": 0.3},
    thought="The lip corners are raised and the voice is lively.",
    text="<think>The lip corners are raised and the voice is lively.</think>\n<answer>happy</answer>",
    well_formed=True,
    modalities=("video", "audio"),
    duration_s=1.0,
    transcript="What a day.",
)

HELP = """\
Usage: omni [OPTIONS] COMMAND [ARGS]...

  Which emotion does a person in a clip express, and why?

  `omni CLIP [QUESTION]` is short for `omni ask CLIP [QUESTION]`.

  An expression is not a feeling. Not for use at work, in education, or to
  decide anything about a person: docs/responsible_use.md.

Options:
  --version   Print the version.
  -h, --help  Show this message and exit.

Commands:
  ask                 Ask about one clip.
  chat                Talk about one clip.
  serve               Serve a web page and an OpenAI-style API about clips.
  label               Label many clips into a table, with reasons.
  cues                Measure face, head and voice without a language model.
  timeline            Read a long clip window by window.
  export              Export labels to the tools that people annotate in.
  import-corrections  Turn Label Studio corrections into training rows.
  calibrate           Fit how sure a model is on held-out clips.
  eval                Measure models on clips with known labels.
  import              Turn a released folder into a model of ours.
  doctor              Check the installation and run one clip end to end.
  probe               Measure fusion mechanisms without a language model.
  matrix              Train one model with every fusion mechanism; compare.
  adapt               Fit a model to a few labelled clips.
  report              Draw the curves of a training run.
  rewards             Run rewards over saved completions.
"""


class Model:
    """What stands in for the model: it remembers what it was asked."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.asked: list[tuple] = []
        self.answer = ANSWER
        self.device = SimpleNamespace(type="cpu")

    def load(self, name: str, **how):
        self.loaded.append(name)
        if name == "broken":
            raise ModelError("broken holds no weights. Save one with save_pretrained.", code="no_weights")
        if name == "bug":
            raise RuntimeError("shapes\ndo not match")
        return self, SimpleNamespace(frames=8, sampling="mid_bins", question=QUESTION, prompt=prompt)

    def reason(self, model, processor, clip, question, *, labels, think) -> Answer:
        self.asked.append((question, labels.labels, think, clip.modalities))
        return replace(self.answer, modalities=clip.modalities, warnings=clip.warnings)

    def as_features(self, model, processor, clip):
        return clip

    def reason_batch(self, model, processor, clips, *, question, labels, think, seed) -> list[Answer]:
        return [self.reason(model, processor, clip, question, labels=labels, think=think) for clip in clips]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    fake = Model()
    monkeypatch.setenv("COLUMNS", "80")
    for name, functions in (("loading", ["load"]), ("generate", ["as_features", "reason", "reason_batch"])):
        module = ModuleType(f"omni.{name}")
        for function in functions:
            setattr(module, function, getattr(fake, function))
        monkeypatch.setitem(sys.modules, f"omni.{name}", module)
    return fake


@pytest.fixture
def run(model: Model, capsys: pytest.CaptureFixture[str]):
    """Run the command line; gives exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run


def test_help_is_printed_with_and_without_being_asked_for(run) -> None:
    assert run() == run("--help") == run("-h") == (0, HELP, "")


def test_help_of_ask_names_every_option(run) -> None:
    code, out, _ = run("ask", "--help")
    assert code == 0 and out.startswith("Usage: omni ask [OPTIONS] {CLIP} [QUESTION]\n")
    for option in (
        "--model",
        "--labels",
        "--think / --no-think",
        "--no-audio",
        "--no-video",
        "--evidence",
        "--abstain-below",
        "--max-risk",
        "--receipt",
        "--json",
        "--debug",
    ):
        assert option in out


def test_ask_prints_the_reasons_beside_the_answer(run, model: Model, talking_clip: Path) -> None:
    assert run("ask", talking_clip) == (
        0,
        "happy  0.60\n\n  happy  ██████████████ 0.60\n  sad    ███████ 0.30\n  angry  ██ 0.10\n",
        'The lip corners are raised and the voice is lively.\n(heard: "What a day.")\n',
    )
    assert model.asked[0][0] is None  # so that a model asks what it was taught to be asked
    assert len(model.asked[0][1]) == 7 and model.asked[0][2] is True


def test_evidence_marks_what_the_clip_says_to_each_reason(run, model: Model, talking_clip: Path) -> None:
    smile, lively = ANSWER.thought, "The voice is not lively."
    model.answer = replace(
        ANSWER,
        thought=f"{smile} {lively}",
        evidence=(
            Evidence(smile, "face", "smile", 1, "supported", 0.25, 1.5),
            Evidence(smile, "voice", "range_wide", 1, "uncheckable"),
            Evidence(lively, "voice", "range_wide", -1, "contradicted"),
        ),
    )
    code, out, err = run(talking_clip, "--evidence")
    assert (code, out) == run(talking_clip)[:2]
    assert err.splitlines()[:-1] == [smile, "  ✓ smile 0.2–1.5 s", "  · range wide", lively, "  ✗ no range wide"]
    claim = json.loads(run(talking_clip, "--json")[1])["evidence"][0]
    assert claim == {"sentence": smile, "modality": "face", "cue": "smile", "polarity": 1} | {
        "verdict": "supported",
        "t0": 0.25,
        "t1": 1.5,
    }


def test_cues_are_records_in_time_without_a_model(run, model: Model, voice_clip: Path, tmp_path: Path) -> None:
    code, out, err = run("cues", voice_clip, "--plot", tmp_path / "cues.png")
    assert (code, err, model.loaded) == (0, "", []) and (tmp_path / "cues.png").read_bytes().startswith(b"\x89PNG")
    assert out.splitlines()[:2] == [
        " 0.00– 0.50 s  voice     speech                   1.00 share voiced",
        " 0.00– 0.50 s  voice     pitch                  254.65 Hz",
    ]
    found = json.loads(run("cues", voice_clip, "--json")[1])
    assert (found["clip"], found["duration_s"], found["records"][0]["cue"]) == (str(voice_clip), 0.5, "speech")
    for command in ("cues", "timeline"):  # refused before anything is measured
        code, out, err = run(command, voice_clip, "--plot", tmp_path / "cues.txt")
        assert (code, out) == (2, "") and err.endswith("has no suffix of a picture. Name a .png.\n")
        assert run(command, voice_clip, "--plot", tmp_path / "no" / "cues.png")[0] == 2


def test_a_manifest_gets_the_cues_that_the_reward_takes(run, voice_clip: Path, tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.jsonl", [Example(voice_clip, "sad", extra={"take": 2})])
    assert run("cues", tmp_path / "m.jsonl", "--out", tmp_path / "measured.jsonl") == (0, "", "")
    (row,) = read_manifest(tmp_path / "measured.jsonl")
    assert (row.label, row.extra["take"]) == ("sad", 2)
    assert row.extra["cues"]["range_flat"] is True and row.extra["cues"]["loud"] is None
    assert "smile" not in row.extra["cues"]  # there is no picture
    claim = "<think>The voice is flat.</think><answer>sad</answer>"
    assert cues_reward([claim], [{"cues": row.extra["cues"]}])[0] > 0
    write_manifest(tmp_path / "m.jsonl", [Example(voice_clip, "sad"), Example(tmp_path / "gone.wav", "sad")])
    code, _, err = run("cues", tmp_path / "m.jsonl", "--out", tmp_path / "measured.jsonl")
    assert code == 3 and err.startswith("left out: ") and "gone.wav" in err and err.count("\n") == 1
    assert [one.clip for one in read_manifest(tmp_path / "measured.jsonl")] == [voice_clip]
    (tmp_path / "m.jsonl").write_text("")
    assert run("cues", tmp_path / "m.jsonl", "--out", tmp_path / "none.jsonl")[0] == 2
    assert not (tmp_path / "none.jsonl").exists()


def test_a_clip_alone_is_asked_about(run, model: Model, talking_clip: Path) -> None:
    short = run(talking_clip, "Is she glad?", "--labels", "angry,happy,sad", "--no-think")
    assert short == run("ask", talking_clip, "Is she glad?", "--labels", "angry,happy,sad", "--no-think")
    assert run("--no-think", "--labels", "angry,happy,sad", talking_clip, "Is she glad?") == short
    assert set(model.asked) == {("Is she glad?", ("angry", "happy", "sad"), False, ("video", "audio"))}


def test_json_is_one_object_and_nothing_else(run, talking_clip: Path) -> None:
    code, out, err = run(talking_clip, "--json")
    row = json.loads(out)
    assert code == 0 and err == "" and out.count("\n") == 1
    assert row.pop("seconds") >= 0
    assert all(len(row.pop(f"{part}sha256")) == 64 for part in ("", "model_", "prompt_"))
    assert row == {
        "clip": str(talking_clip),
        **ANSWER.to_dict(),
        "question": "Which emotion does the person express?",
        "think": True,
        "model": "default",
        "status": "ok",
        "error": None,
        "omni_version": __version__,
        "seed": 0,
        "leading": None,
    }


def test_a_missing_sense_is_told(run, model: Model, talking_clip: Path, voice_clip: Path) -> None:
    model.answer = replace(ANSWER, transcript=None, thought="")
    _, _, err = run(talking_clip, "--no-audio")
    assert err == "(judged from the picture alone)\n"
    _, _, err = run(voice_clip)
    assert err == "(judged from the sound alone)\n(warnings: no_video)\n"


def test_a_malformed_text_is_told(run, model: Model, talking_clip: Path) -> None:
    model.answer = replace(ANSWER, well_formed=False)
    assert "(the model's text was not well-formed; the label is the most probable one)\n" in run(talking_clip)[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.mp4"], "omni: none.mp4 does not exist. Check the spelling and the folder of the path.\n"),
        (
            ["ask", "none.mp4"],
            "omni: none.mp4 does not exist. Check the spelling and the folder of the path.\n",
        ),
        (["ask"], "omni: Missing argument 'CLIP'. See omni ask --help.\n"),
        (["CLIP", "--nonsense"], "omni: No such option: --nonsense. See omni ask --help.\n"),
        (["--nonsense"], "omni: No such option: --nonsense. See omni ask --help.\n"),
        (["label", "CLIP"], "omni: Missing option '--out'. See omni label --help.\n"),
        (
            ["label", "CLIP", "--out", "x.txt"],
            "omni: x.txt cannot be the table. Name a file that ends in .jsonl, .csv, .parquet.\n",
        ),
        (
            ["CLIP", "--no-audio", "--no-video"],
            "omni: --no-audio and --no-video leave nothing to judge from. Drop one.\n",
        ),
        (
            ["CLIP", "--labels", "ekman9"],
            "omni: Unknown label space 'ekman9'. Use one of ekman7, dfew7, mafw11, ravdess8, mer6, cremad6, meld7, "
            "words separated by commas (angry,happy), or a text file with one word per line.\n",
        ),
        (
            ["label", "CLIP", "--out", "x.jsonl", "--max-seconds", "inf"],
            "omni: Invalid value for '--max-seconds': Input should be less than or equal to 10000000. "
            "See omni label --help.\n",
        ),
        (["CLIP", "--model", "broken"], "omni: broken holds no weights. Save one with save_pretrained.\n"),
    ],
)
def test_what_the_user_can_put_right_is_one_line_and_exit_2(run, talking_clip, arguments, message) -> None:
    arguments = [str(talking_clip) if argument == "CLIP" else argument for argument in arguments]
    assert run(*arguments) == (2, "", message)


def test_arguments_and_clip_are_checked_before_the_model_is_loaded(run, model: Model, tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    for arguments in (["none.mp4"], [tmp_path], [tmp_path / "empty.mp4"], [tmp_path, "--labels", "x"]):
        assert run(*arguments)[0] == 2
    assert run("label", tmp_path / "none", "--out", tmp_path / "o.jsonl", "--labels", "x")[0] == 2
    assert model.loaded == []


def test_a_fault_of_ours_is_exit_1_and_has_a_traceback_only_on_request(run, talking_clip: Path) -> None:
    code, _, err = run(talking_clip, "--model", "bug")
    assert code == 1
    fault = "omni: a fault of ours (RuntimeError: shapes do not match)."
    assert err == f"{fault} Run again with --debug and report it.\n"
    code, _, err = run(talking_clip, "--model", "bug", "--debug")
    assert code == 1 and err.startswith("Traceback (most recent call last):\n")


def test_label_writes_a_table_and_says_what_it_did(run, talking_clip: Path, voice_clip: Path, tmp_path: Path) -> None:
    out, space = tmp_path / "out.jsonl", ("--labels", "angry,happy,sad")
    assert run("label", talking_clip, voice_clip, "--out", out, *space) == (
        0,
        "",
        f"2 labelled, 0 errors, 0 in the table already: {out}\n",
    )
    (tmp_path / "bad.mp4").write_text("no media")
    assert run("label", talking_clip, tmp_path / "bad.mp4", "--out", out, *space) == (
        3,
        "",
        "error: bad.mp4 is not a clip that can be read. Give mp4, mov, mkv, webm, avi, mpg, gif, wav, mp3, flac, ogg, "
        "png, jpg or webp, or convert it (ffmpeg -i INPUT clip.mp4).\n"
        f"0 labelled, 1 errors, 1 in the table already: {out}\n",
    )
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["status"] for row in rows] == ["ok", "error"]
    asked = json.loads(run("ask", talking_clip, "--json", *space)[1])
    assert list(asked) == list(rows[0])
    assert {**rows[0], "seconds": 0} == {**asked, "seconds": 0}


def test_a_model_that_cannot_be_loaded_ends_labelling_at_once(run, talking_clip: Path, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken").mkdir()
    code, _, err = run("label", talking_clip, "--out", tmp_path / "out.jsonl", "--model", "broken")
    assert (code, err) == (2, "omni: broken holds no weights. Save one with save_pretrained.\n")
    assert not (tmp_path / "out.jsonl").exists() and (tmp_path / "out.jsonl.journal").read_text() == ""


def test_an_interrupt_says_how_to_go_on(run, model: Model, talking_clip: Path, monkeypatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["omni.generate"], "reason", interrupted)
    code, out, err = run(talking_clip)
    assert (code, out) == (130, "") and "label goes on where it stopped" in err


def test_the_hub_is_offline_unless_a_remote_model_is_named(run, talking_clip: Path, monkeypatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    run(talking_clip, "--model", "hub:someone/model")
    assert "HF_HUB_OFFLINE" not in os.environ
    run(talking_clip)
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    run(talking_clip)
    assert os.environ["HF_HUB_OFFLINE"] == "0"  # what the user has set stays


def test_the_bars_are_ascii_where_stdout_is(talking_clip: Path) -> None:
    code = (
        "import io, sys; from omni.cli import _block\n"
        "print(_block(), end=' '); sys.stdout = io.TextIOWrapper(sys.stdout.buffer, 'ascii'); print(_block())"
    )
    environment = os.environ | {"PYTHONIOENCODING": "utf-8"}
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, capture_output=True)
    assert sorted(done.stdout.decode().split()) == ["#", "█"]


def test_the_real_process_exits_as_promised_and_imports_no_torch() -> None:
    code = "import sys; from omni.cli import main; code = main(); print('torch' in sys.modules); sys.exit(code)"
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code, "none.mp4"], cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "False\n")
    assert done.stderr.startswith("omni: none.mp4 does not exist.") and done.stderr.count("\n") == 1


def test_the_real_process_says_nothing_but_the_answer(tmp_path) -> None:
    """Warnings of libraries among themselves do not reach the user; a tiny random model answers a real clip."""
    model, processor = tiny()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    root = Path(__file__).parent.parent
    command = ["-c", "import sys; from omni.cli import main; sys.exit(main())", "ask", "examples/clips/happy.mp4"]
    command += ["--model", str(tmp_path / "model"), "--no-think", "--json"]
    done = subprocess.run([sys.executable, *command], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" and json.loads(done.stdout)["clip"] == "examples/clips/happy.mp4"


def test_the_doctor_names_versions_processor_and_formats():
    lines = [*doctor.versions(), *doctor.processor_features(), *doctor.clip_formats()]
    text = "\n".join(lines)
    assert "omni-emotion" in text and "torch 2." in text
    assert "matroska" in text and "h264" in text and "opus" in text and "language model in" in text


def test_rewards_and_report_are_called_with_what_follows(run, tmp_path) -> None:
    saved = tmp_path / "saved.jsonl"
    saved.write_text(json.dumps({"completion": "<answer>joy</answer>", "label": "happy"}) + "\n")
    code, out, _ = run("rewards", saved, "--rewards", "accuracy", "--json")
    assert code == 0 and json.loads(out)["rewards"]["accuracy"]["mean"] == 1.0
    assert "SAVED.jsonl" in run("rewards", "--help")[1]
    code, out, err = run("report", tmp_path)
    assert (code, out) == (2, "") and "output_dir" in err and "\n" not in err.strip()
