"""The scripts of runs/, the configurations, and what the training scripts refuse before they start; nothing is trained.

Each script of runs/ runs with a stub in the place of python, omni and the launchers, which notes how it was called.
The notes then go through the parsers of what would have been started.
"""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from trl import GRPOConfig, SFTConfig, TrlParser
from typer.main import get_command

import train_grpo
import train_sft
from benchmarks import eval_default
from data.__main__ import app as data_app
from omni.cli import app as omni_app
from omni.emotions import label_space
from omni.errors import LabelError
from omni.manifest import Example, write_manifest

ROOT = Path(__file__).parent.parent
RUNS = sorted(path.name for path in (ROOT / "runs").glob("*.sh"))
TRAINING = {"train_sft.py": (train_sft.ColdStart, SFTConfig), "train_grpo.py": (train_grpo.Run, GRPOConfig)}
MACHINE = ["--use_cpu", "true", "--bf16", "false"]  # what a script finds out by itself
STUB = """#!/bin/sh
printf '%s\\0' "${0##*/}" "$@" >"$(mktemp "$CALLS/XXXXXX")"
"""
needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


def usage(run: str) -> str:
    """The line at the top of a script that says how it is called."""
    return re.search(r"^#   (bash .+)$", (ROOT / "runs" / run).read_text(), re.MULTILINE)[1]


def calls(run: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What a script starts, with its arguments."""
    for name in ("bin", "calls"):
        (folder / name).mkdir()
    for name in ("python", "omni", "torchrun", "accelerate"):
        (folder / "bin" / name).write_text(STUB)
        (folder / "bin" / name).chmod(0o755)
    monkeypatch.setenv("CALLS", str(folder / "calls"))
    monkeypatch.setenv("PATH", str(folder / "bin"), prepend=":")
    given = [str(folder / name.strip("[]")) for name in usage(run).split()[2:]]
    subprocess.run(["bash", f"runs/{run}", *given], cwd=ROOT, check=True, capture_output=True)
    return [path.read_text().split("\0")[:-1] for path in (folder / "calls").iterdir()]


def parse(call: list[str]) -> tuple | None:
    """Parse a call as what it starts would, which raises what it does not know; returns the settings of a training."""
    script = next((word for word in call if word in TRAINING), None)
    if script:
        given = call[call.index(script) + 1 :]
        return TrlParser(TRAINING[script]).parse_args_and_config([*given, *MACHINE])
    match call:
        case ["omni", name, *given]:
            command = get_command(omni_app).commands[name]
        case ["python", "-m", "data", name, *given]:
            command = get_command(data_app).commands[name]
        case ["python", "benchmarks/eval_default.py" as name, *given]:
            alone = typer.Typer()
            alone.command()(eval_default.main)
            command = get_command(alone)
        case ["python", "-", *_]:  # lines of Python in the script itself
            return None
        case _:
            raise AssertionError(f"No parser is known for {shlex.join(call)}")
    command.make_context(name, given)
    return None


@needs_bash
@pytest.mark.parametrize("run", RUNS)
def test_a_run_gives_no_option_that_does_not_exist(run, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    parsed = [parse(call) for call in calls(run, tmp_path, monkeypatch)]
    assert any(parsed)


def test_an_option_that_does_not_exist_is_found():
    with pytest.raises(ValueError, match="--warmup_ratio"):
        parse(["torchrun", "--nproc_per_node", "8", "train_sft.py", "--warmup_ratio", "0.03"])
    with pytest.raises(typer.TyperException, match="--modle"):
        parse(["omni", "report", "run", "--modle", "default"])


@pytest.mark.parametrize("config", sorted(path.name for path in (ROOT / "configs").glob("*.yaml")))
def test_a_configuration_is_known_to_its_script(config, monkeypatch):
    """By the command in its comment, else by the name of the script in its name, else as GRPO."""
    monkeypatch.chdir(ROOT)
    said = re.search(r"^# (.+train_\w+\.py .+)$", (ROOT / "configs" / config).read_text(), re.MULTILINE)
    script = "train_sft.py" if config.startswith("sft") else "train_grpo.py"
    assert parse(shlex.split(said[1]) if said else [script, "--config", f"configs/{config}"])


def test_the_papers_setting_has_the_labels_of_both_of_its_corpora():
    run, _ = parse(["train_grpo.py", "--config", str(ROOT / "configs" / "r1_omni.yaml")])
    both = {*label_space("mafw11").labels, *label_space("dfew7").labels}
    assert both == set(label_space(run.labels).labels)


@needs_bash
@pytest.mark.parametrize("run", RUNS)
def test_a_run_without_its_folders_says_how_it_is_called(run):
    done = subprocess.run(["bash", f"runs/{run}"], cwd=ROOT, capture_output=True, text=True)
    (line,) = done.stderr.splitlines()
    assert done.returncode and line.endswith(f"usage: {usage(run)}")


@pytest.mark.parametrize("script", [train_sft, train_grpo])
@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, r"No such file .+run\.yaml'\. Correct the file or its path\.$"),
        ("train: [a\nlabels: {", r"run\.yaml\", line 2, .+ Correct the file or its path\.$"),
        ("- train", r"run\.yaml must contain a YAML mapping"),
    ],
)
def test_a_configuration_that_cannot_be_read_is_one_line(script, text, says, tmp_path, monkeypatch):
    if text is not None:
        (tmp_path / "run.yaml").write_text(text)
    monkeypatch.setattr(sys, "argv", [script.__name__, "--config", str(tmp_path / "run.yaml")])
    with pytest.raises(SystemExit, match=rf"^{script.__name__}: .*{says}") as stopped:
        script.main()
    assert "\n" not in str(stopped.value)


@pytest.mark.parametrize("script", TRAINING)
def test_a_wrong_label_is_found_before_the_model_is_loaded_or_a_clip_is_read(script, tmp_path):
    manifest = tmp_path / "train.jsonl"
    write_manifest(manifest, [Example(tmp_path / "nowhere.mp4", label) for label in ("happy", "contempt")])
    given = ["--train", str(manifest), "--model", "nowhere", "--output_dir", str(tmp_path), "--report_to", "none"]
    with pytest.raises(LabelError, match=r"'contempt' .+ Correct the manifest"):
        (train_sft if script == "train_sft.py" else train_grpo).train(*parse([script, *given]))


@pytest.mark.parametrize("script", [train_sft, train_grpo])
def test_a_config_without_a_file_is_one_line(script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [script.__name__, "--config"])
    with pytest.raises(SystemExit, match=rf"^{script.__name__}: --config needs a file"):
        script.main()
