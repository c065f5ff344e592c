"""The technical matrix: rows that a kill cannot lose or repeat, fair changes of clips, an honest verdict."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from omni.cli import main
from omni.clip_writer import write_clip
from omni.emotions import LabelSpace, label_space
from omni.errors import LabelError, ManifestError, ModelError, OmniError
from omni.features import encode_clip
from omni.fusion import MECHANISMS
from omni.manifest import Example, write_manifest
from omni.matrix import Matrix, MatrixOptions, held_out, matrix
from omni.matrix_measure import (
    even,
    first_tokens,
    kept_bytes,
    modality_gap,
    shifted,
    shuffled,
    swapped,
    without_steps,
)
from omni.matrix_report import as_json, markdown, svg
from omni.tiny import tiny
from tests.clips import make_clip
from tests.test_fusion import make, streams

LABELS = ("happy", "angry", "sad", "fear")
OPTIONS = MatrixOptions(
    steps=2, batch=4, align_epochs=1, parameters=20_000, bins=4, tokens=8, lora_rank=2, labels=",".join(LABELS)
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny model, and a manifest of twelve clips."""
    root = tmp_path_factory.mktemp("matrix")
    model, processor = tiny()
    model.save_pretrained(root / "base")
    processor.save_pretrained(root / "base")
    rng = np.random.default_rng(0)
    examples = []
    for i in range(12):
        frames, wave = rng.integers(0, 255, (4, 32, 32, 3), dtype=np.uint8), rng.normal(0, 0.1, 12_000)
        write_clip(root / f"{i}.mp4", frames=frames, fps=4.0, wave=wave.astype(np.float32))
        examples.append(Example(root / f"{i}.mp4", LABELS[i % 4]))
    write_manifest(root / "train.jsonl", examples)
    return root


def made(folder: Path, out: Path, *only: str, **options) -> Matrix:
    how = {"model": str(folder / "base"), "features": folder / "features", "options": OPTIONS}
    return matrix(folder / "train.jsonl", out, only=only, **(how | options))


@pytest.fixture(scope="module")
def found(folder: Path, tmp_path_factory) -> Matrix:
    return made(folder, tmp_path_factory.mktemp("out"), "dynamic_modality_attention")


def test_a_killed_run_goes_on_and_repeats_no_row(folder: Path, tmp_path: Path, capsys) -> None:
    out, rows = tmp_path / "out", tmp_path / "out" / "rows.jsonl"
    command = [
        "matrix", str(folder / "train.jsonl"), "--out", str(out), "--model", str(folder / "base"), "--features",
        str(folder / "features"), "--only", "neuro_fuzzy", "--steps", "2", "--parameters", "20000", "--labels",
        OPTIONS.labels, "--json",
    ]  # fmt: skip
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": Path(__file__).parent.parent}
    process = subprocess.Popen([sys.executable, "-m", "omni.cli", *command], **quiet)
    while process.poll() is None and not (rows.exists() and rows.read_bytes().count(b"\n")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = rows.read_bytes()
    assert main(command) == 0
    assert rows.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    kinds = [(row["mechanism"], row["language_model"]) for row in map(json.loads, rows.read_text().splitlines())]
    assert sorted(kinds) == [(m, d) for m in ("concat", "neuro_fuzzy") for d in ("frozen", "lora")]
    told = json.loads(capsys.readouterr().out)
    assert len(told["rows"]) == 4 and "neuro_fuzzy (LoRA)" not in told["missing"]
    assert all((out / f"matrix.{suffix}").exists() for suffix in ("md", "json", "svg"))


def test_a_row_is_the_same_whether_made_alone_or_after_others(folder: Path, found: Matrix, tmp_path: Path) -> None:
    alone = made(folder, tmp_path, "neuro_fuzzy", "dynamic_modality_attention")
    rows = [r for r in alone.rows if r["mechanism"] != "neuro_fuzzy"]
    timed = {"cpu_seconds", "ms_a_clip"}
    assert [{k: v for k, v in r.items() if k not in timed} for r in rows] == [
        {k: v for k, v in r.items() if k not in timed} for r in found.rows
    ]


def test_other_options_are_another_run_and_keep_the_rows_of_the_first(folder: Path, tmp_path: Path) -> None:
    first = made(folder, tmp_path, "concat")
    other = made(folder, tmp_path, "concat", options=MatrixOptions(**(OPTIONS.__dict__ | {"seed": 1})))
    assert other.facts["run"] != first.facts["run"]
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 4
    assert made(folder, tmp_path, "concat").rows == first.rows


def test_rows_have_what_their_mechanism_can_be_asked(found: Matrix) -> None:
    rows = {(r["mechanism"], r["language_model"]): r for r in found.rows}
    gated, control = rows["dynamic_modality_attention", "lora"], rows["concat", "lora"]
    assert {"even gates", "shuffled gates"} <= gated["changes"].keys() and gated["deletion"] is not None
    assert control["deletion"] is None and control["agreement"] is None and "even gates" not in control["changes"]
    assert control["own_parameters"] == 0 < gated["own_parameters"] < gated["parameters"]
    assert "changes" not in rows["concat", "frozen"]
    assert abs(gated["parameters"] / OPTIONS.parameters - 1) <= 0.1 >= abs(control["parameters"] / 20_000 - 1)


def test_the_report_groups_by_stage_and_names_what_is_missing(found: Matrix) -> None:
    text = markdown(found)
    assert text.index("| control |") < text.index("| cross fusion |")
    assert "Rows that are missing: temporal_attention (LoRA)" in text
    drawing, told = svg(found), as_json(found)
    assert drawing.count("<circle") == 4 and drawing.startswith("<svg") and drawing.endswith("</svg>")
    assert len(told["missing"]) == 2 * len(MECHANISMS) - 4 and "predicted" not in told["rows"][0]


def test_the_verdict_says_whether_anything_beats_concat() -> None:
    truth = list(LABELS) * 20

    def told(*right: bool) -> str:
        guesses = [t if ok else "happy" for t in truth for ok in right[:1]]
        better = [t if ok else "happy" for t in truth for ok in right[1:]]
        row = {"run": "r", "language_model": "lora", "changes": {}, "deletion": None, "agreement": None}
        rows = [
            row | {"mechanism": m, "predicted": p, "uar": 0.0}
            for m, p in (("concat", guesses), ("neuro_fuzzy", better))
        ]
        for one in rows:
            one["uar"] = float(np.mean([a == b for a, b in zip(one["predicted"], truth, strict=True)]))
        return as_json(Matrix({"labels": ",".join(LABELS), "seed": 0}, rows, truth))["verdict"]

    assert "nothing beats `concat`" in told(True, True)
    assert "`neuro_fuzzy` beats `concat`" in told(False, True)
    assert "`neuro_fuzzy` falls behind it" in told(True, False)


def test_changed_clips_change_in_what_they_say() -> None:
    model, processor = tiny()
    clips = [encode_clip(model, processor, make_clip(1.0, i)) for i in range(3)]
    late = shifted(clips[0], 0.5)
    assert torch.equal(late.times["video"], clips[0].times["video"])
    torch.testing.assert_close(late.times["audio"], clips[0].times["audio"] + 0.5)
    for clip, other in zip(clips, swapped(clips, seed=0), strict=True):
        assert torch.equal(other.features["video"], clip.features["video"])
        assert any(torch.equal(other.features["audio"], c.features["audio"]) for c in clips if c is not clip)
    steps = len(clips[0].times["audio"])
    weights = {"audio": torch.arange(steps).float()}
    gone = without_steps(clips[0], weights).times["audio"].isnan()
    assert gone[-1] and not gone[0] and int(gone.sum()) == int(0.3 * steps)


def test_controls_of_the_gate_keep_it_a_gate() -> None:
    gates = torch.tensor([[0.7, 0.3, 0.0], [0.1, 0.2, 0.7]])
    for control in (even, shuffled):
        changed = control(gates)
        torch.testing.assert_close(changed.sum(1), torch.ones(2))
        assert changed[0, 2] == 0.0 and not torch.allclose(changed, gates)
    fusion = make("dynamic_modality_attention")
    plain = fusion(*streams()).tokens
    fusion.regate = even
    assert not torch.allclose(fusion(*streams()).tokens, plain, atol=1e-5)


def test_memory_counts_what_the_gradients_need() -> None:
    small, large = (kept_bytes(make("concat"), *streams(batch=b)) for b in (2, 64))
    assert large > small > 3 * 4 * sum(p.numel() for p in make("concat").parameters())


def test_tokens_that_tell_the_senses_apart_have_a_gap() -> None:
    model, processor = tiny()
    clips = [encode_clip(model, processor, make_clip(1.0, i)) for i in range(4)]
    assert modality_gap(model.model.fusion, clips) > 0


def test_the_clips_of_a_person_are_all_for_training_or_all_for_testing(folder: Path, tmp_path: Path) -> None:
    rows = [(Example(Path(f"{i}.mp4"), "sad", extra={"speaker": f"s{i % 5}"}), None) for i in range(20)]
    train, tested = ({row[0].extra["speaker"] for row in part} for part in held_out(rows))
    assert tested == {"s0", "s4"} and train == {"s1", "s2", "s3"}
    rows = [(Example(Path(f"{i}.mp4"), "sad"), None) for i in range(8)]
    assert [row[0].clip.name for row in held_out(rows)[1]] == ["0.mp4", "4.mp4"]
    with pytest.raises(OmniError, match="12 clips are to train and to test on"):
        made(folder, tmp_path, "concat", test=folder / "train.jsonl")


def test_labels_that_begin_alike_are_refused_with_advice() -> None:
    tokenizer = tiny()[1].tokenizer
    assert len(set(first_tokens(tokenizer, label_space(LABELS)).tolist())) == 4
    with pytest.raises(LabelError, match="--labels"):
        first_tokens(tokenizer, LabelSpace("two", ("sad", "sad girl")))


def test_what_the_user_can_put_right_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(OmniError, match="Choose of: concat"):
        made(folder, tmp_path, "attention")
    with pytest.raises(ManifestError, match="longer manifest"):
        made(folder, tmp_path, "concat", limit=3)
    with pytest.raises(ModelError, match="temporal_attention has"):  # which cannot have so few parameters
        made(folder, tmp_path)
    assert not (tmp_path / "rows.jsonl").exists()  # said before the first row is made
