"""From examples to a taught adapter: rows, alignment, and the training script itself on a random model."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from trl import SFTConfig

import train_sft
from omni.align import Aligned, AlignOptions, WordScores, align, token_scores
from omni.answer import parse_answer
from omni.clip_writer import write_clip
from omni.collate import CHECKABLE, NOTHING, RowOptions, align_rows, expression_label, sft_rows, vocabulary
from omni.emotions import EKMAN7, label_space
from omni.errors import LabelError, TrainingError
from omni.features import encode_clip
from omni.manifest import Example, write_manifest
from omni.sft import ColdStartTrainer
from omni.tiny import tiny
from tests.clips import CLIPS, make_clip

FACTS = {
    "face": "happy",
    "voice": "angry",
    "rationale_mute": "The lips smile. There is no sound. This points to happiness.",
    "rationale_blind": "The voice is sharp. No face is visible. This points to anger.",
    "rationale_plain": "The face as a whole looks happy. The voice is sharp. This points to anger.",
    "action_units": {"AU12": {"intensity": 0.9, "onset": 0.1, "apex": 0.4, "offset": 2.0}},
    "prosody": {"pitch_st": 6.0, "range_log2": 0.0, "rate_log2": 0.0, "tilt_db": 8.0, "level_db": 0.0},
}
EXAMPLE = Example(Path("a.mp4"), "angry", "The lips smile. The voice is sharp. This points to anger.", extra=FACTS)
NOTHING_CHANGED = RowOptions(plain=0, misread=0, prosody_only=0, blind=0, mute=0, nothing=0)


def rows_of(options: RowOptions) -> list[dict]:
    clip = encode_clip(*tiny(), CLIPS[0])
    reading = torch.full((4, 7), -3.0)
    reading[:, EKMAN7.index("happy")] = -0.1  # right, as the face is
    clip = replace(clip, features=clip.features | {"expression": reading})
    clip = replace(clip, times=clip.times | {"expression": torch.arange(4.0)}, transcript="It is late.")
    return sft_rows([(EXAMPLE, clip, Path("a.safetensors"))] * 30, options)


def said(row: dict) -> tuple[str, str, list[str]]:
    user, assistant = row["messages"]
    return user["content"][1]["text"], assistant["content"][0]["text"], user["content"][0]["without"]


def test_a_clip_gives_a_reasoned_and_a_plain_answer():
    answers = [parse_answer(said(row)[1]) for row in rows_of(NOTHING_CHANGED)]
    assert len(answers) == 60 and all(a.well_formed and a.label == "angry" for a in answers)
    assert sum(bool(a.thought) for a in answers) == 30


@pytest.mark.parametrize(
    ("change", "label", "thought", "opening", "gone"),
    [
        ({"mute": 1.0}, "happy", FACTS["rationale_mute"], "The clip has picture only.", {"audio", "prosody"}),
        ({"blind": 1.0}, "angry", FACTS["rationale_blind"], "The clip has sound only.", {"video", "expression"}),
        (
            {"plain": 1.0, "misread": 1.0},
            "angry",
            FACTS["rationale_plain"],
            "The clip has picture and sound.",
            {"video"},
        ),
    ],
)
def test_what_is_taken_away_is_not_in_the_answer(change, label, thought, opening, gone):
    for row in rows_of(replace(NOTHING_CHANGED, **change)):
        text, answer, without = said(row)
        parsed = parse_answer(answer)
        assert parsed.label == label and parsed.thought in ("", thought)
        assert text.startswith(opening) and set(without) == gone
        assert "It is late." not in text or "audio" not in without


def test_rows_in_which_the_expression_net_is_wrong_keep_the_detail():
    clip = encode_clip(*tiny(), CLIPS[0])
    reading = torch.full((4, 7), -3.0)
    reading[:, EKMAN7.index("sad")] = -0.1
    clip = replace(clip, features={"expression": reading}, times={"expression": torch.arange(4.0)})
    assert expression_label(clip) == "sad"
    rows = sft_rows([(EXAMPLE, clip, Path("a"))] * 30, replace(NOTHING_CHANGED, plain=1.0))
    assert all(said(row)[2] == [] for row in rows)


def test_rows_of_prosody_alone_keep_the_words_and_the_answer():
    for row in rows_of(replace(NOTHING_CHANGED, prosody_only=1.0, words=1.0)):
        text, answer, without = said(row)
        assert without == ["audio"] and "It is late." in text and parse_answer(answer).label == "angry"


def test_labels_are_voted_on_and_cues_are_shown_by_one_token():
    phrases = torch.eye(2)
    tokens = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]])  # one token for the first phrase, two for the second
    best, votes = WordScores(phrases)(tokens)[0], WordScores(phrases, votes=True)(tokens)[0]
    assert best[0] == best[1] and votes[1] == 2 * votes[0]


def test_every_answer_weighs_the_same_however_long():
    """The loss that the trainer computes is the mean over answers of the mean over their tokens."""
    model, processor = tiny()
    clip = encode_clip(model, processor, CLIPS[0])
    inputs = processor.ask([clip, clip], ["What?", "And what is it?"])
    ids = inputs["input_ids"]
    labels = torch.full_like(ids, -100)
    labels[0, -2:], labels[1, -9:] = ids[0, -2:], ids[1, -9:]
    scores = model(**inputs).logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    expected = -(scores[0, -2:].mean() + scores[1, -9:].mean()) / 2
    loss = ColdStartTrainer.compute_loss(SimpleNamespace(), model, {**inputs, "labels": labels})
    assert torch.allclose(loss, expected, atol=1e-5)


def test_with_nothing_to_go_by_the_label_is_drawn_by_lot():
    answers = [parse_answer(said(row)[1]) for row in rows_of(replace(NOTHING_CHANGED, nothing=1.0))]
    assert len({a.label for a in answers}) > 4 and {a.thought for a in answers} == {"", NOTHING}


def test_alignment_learns_to_tell_what_clips_show():
    model, processor = tiny()
    cues, labels, length = vocabulary(model, processor)
    rng = np.random.default_rng(0)
    rows = []
    for i in range(24):
        clip = encode_clip(model, processor, make_clip(1.0, i))
        shown = int(rng.integers(2))
        clip.features["prosody"][:] = shown * 2.0
        rows.append(Aligned(clip, torch.full((len(CHECKABLE),), float(shown)), shown))
    fusion = model.model.fusion.requires_grad_(True)
    scores, _ = align(fusion, rows, cues, labels, length, AlignOptions(epochs=150, batch=12, rate=3e-3))
    told = token_scores(fusion, scores, [row.clip for row in rows]).mean(1) > 0
    assert told.tolist() == [bool(row.label) for row in rows]


def test_the_truth_of_a_manifest_row_becomes_cues_and_unknown_stays_unknown():
    clip = encode_clip(*tiny(), CLIPS[0])
    row = align_rows([(EXAMPLE, clip, Path("a"))])[0]
    truth = dict(zip(CHECKABLE, row.cues.tolist(), strict=True))
    assert truth["smile"] == 1.0 and truth["brow_down"] == 0.0 and truth["pitch_high"] == 1.0
    without = align_rows([(replace(EXAMPLE, extra={}), clip, Path("a"))])[0]
    assert without.cues.isnan().all() and without.label == row.label


def test_the_script_trains_saves_and_resumes(tmp_path, monkeypatch, capsys):
    """Real data files, the real script and TRL's own trainer; the model is random and tiny."""
    model, processor = tiny()
    model.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    rng = np.random.default_rng(0)
    examples = []
    for i, label in enumerate(("happy", "angry", "sad", "fear")):
        path = tmp_path / f"{i}.mp4"
        frames = rng.integers(0, 255, (4, 48, 48, 3), dtype=np.uint8)
        write_clip(path, frames=frames, fps=4.0, wave=rng.normal(0, 0.1, 16000).astype(np.float32))
        examples.append(Example(path, label, f"The lips move. This points to {label}."))
    write_manifest(tmp_path / "train.jsonl", examples)
    out = tmp_path / "out"
    command = [
        sys.executable, "train_sft.py", "--config", "configs/sft_default.yaml",
        "--train", str(tmp_path / "train.jsonl"),
        "--model", str(tmp_path / "base"), "--features", str(tmp_path / "features"), "--output_dir", str(out),
        "--align_epochs", "1", "--reasoned", "1", "--labelled", "1", "--per_device_train_batch_size", "2",
        "--save_steps", "2", "--bf16", "false", "--disable_tqdm", "true",
    ]  # fmt: skip
    done = subprocess.run([*command, "--max_steps", "2"], capture_output=True, text=True)
    assert done.returncode == 0 and "aligned" in done.stdout, done.stderr[-2000:]
    monkeypatch.setattr(sys, "argv", [*command[1:], "--max_steps", "4"])
    train_sft.main()  # in this process, which has imported everything already
    assert "aligned" not in capsys.readouterr().out  # the second run went on from the first one's checkpoint
    state = json.loads((out / "checkpoint-4" / "trainer_state.json").read_text())
    assert state["global_step"] == 4
    assert (out / "adapter_model.safetensors").exists()


def test_labels_of_another_space_are_asked_for_and_answered_in_it():
    clip = encode_clip(*tiny(), CLIPS[0])
    worried = replace(EXAMPLE, label="worried", extra={})
    rows = sft_rows([(worried, clip, Path("a.safetensors"))] * 3, NOTHING_CHANGED, labels="mer6")
    assert all("worried" in said(row)[0] and parse_answer(said(row)[1]).label == "worried" for row in rows)
    assert align_rows([(worried, clip, Path("a"))], "mer6")[0].label == label_space("mer6").labels.index("worried")
    with pytest.raises(LabelError, match="--labels"):
        sft_rows([(worried, clip, Path("a.safetensors"))], NOTHING_CHANGED)


@pytest.mark.parametrize("change", [{"loss_type": "dft"}, {"label_smoothing_factor": 0.1}])
def test_settings_of_another_loss_are_refused(tmp_path, change):
    args = SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", **change)
    with pytest.raises(TrainingError, match=next(iter(change))):
        ColdStartTrainer(tiny()[0], args)
