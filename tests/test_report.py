"""The report of a run: its curves and samples, from what the trainer left."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from omni.errors import OmniError
from omni.report import read_history, report


def make_run(folder: Path, steps: int = 12) -> Path:
    history = [
        {"step": i, "reward": i / 10, "rewards/format_reward/mean": 0.5, "loss": float("nan")} for i in range(steps)
    ]
    checkpoint = folder / f"checkpoint-{steps}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    row = {"step": 3, "clip": "a/b.mp4", "label": "sad", "completion": "<think>A & B</think>", "advantage": 0.5}
    row["rewards"] = {"format_reward": 1.0, "cues_reward": None}
    (folder / "completions.jsonl").write_text(json.dumps(row) + "\n")
    return folder


class Tags(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append(tag)


def test_curves_and_samples(tmp_path):
    text = report(make_run(tmp_path / "run")).read_text()
    tags = Tags(text).found
    assert tags.count("svg") == 2  # reward and format; the loss is never finite
    assert "think" not in tags and "script" not in tags and "&lt;think&gt;A &amp; B&lt;/think&gt;" in text
    assert "format 1.00, cues not applicable" in text and "last step 11" in text
    raw = re.search(r'class="raw" d="M([^"]+)"', text)[1].split(" L")
    assert len(raw) == 12
    heights = [float(point.split(",")[1]) for point in raw]
    assert heights == sorted(heights, reverse=True)  # a growing reward rises


def test_the_last_checkpoint_counts(tmp_path):
    make_run(tmp_path, 9)
    make_run(tmp_path, 12)
    assert len(read_history(tmp_path)) == 12


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("trainer_state.json", '{"log_history": [{"st'),
        ("trainer_state.json", '{"epoch": 1}'),
        ("completions.jsonl", '{"step": 3, "clip"'),
        ("completions.jsonl", '{"step": 3}'),
    ],
)
def test_a_damaged_file_of_a_run_is_named(tmp_path, name, content):
    (make_run(tmp_path) / name).write_text(content)
    with pytest.raises(OmniError, match=rf"{name}.* is damaged"):
        report(tmp_path)


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(OmniError, match="output_dir"):
        report(tmp_path)
