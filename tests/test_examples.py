"""The examples: each runs and prints what it promises, and the documents show it as it is."""

from __future__ import annotations

import ast
import csv
import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest
from scripted import THOUGHT, scripted
from served import served

from omni import loading

ROOT = Path(__file__).parent.parent
CLIPS = ROOT / "examples/clips"
SHOWN = {"ask": "docs/python.md", "chat": "docs/python.md", "label": "docs/python.md", "client": "docs/serve.md"}


@pytest.fixture(scope="module")
def actor():
    return scripted()


@pytest.fixture
def run(actor, monkeypatch, capsys):
    """Run an example with arguments; gives what it prints."""
    monkeypatch.setattr(loading, "load", lambda *_, **__: actor)

    def ran(name: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        runpy.run_path(str(ROOT / f"examples/{name}.py"))
        return capsys.readouterr().out

    return ran


def test_ask_prints_reasons_claims_and_label(run) -> None:
    lines = run("ask", CLIPS / "happy.mp4").splitlines()
    assert lines[0] == THOUGHT and lines[-1] == "happy 1.00"
    assert all(line.startswith(("  supported: ", "  contradicted: ", "  uncheckable: ")) for line in lines[1:-1])


def test_chat_prints_two_answers(run) -> None:
    assert run("chat", CLIPS / "happy.mp4").count(f"  {THOUGHT}\n  happy 1.00\n") == 2


def test_label_writes_a_table(run, tmp_path) -> None:
    (tmp_path / "clips").mkdir()
    for name in ("happy", "sad"):
        shutil.copy(CLIPS / f"{name}.mp4", tmp_path / "clips")
    (tmp_path / "clips/broken.mp4").write_bytes(b"no clip")
    told = run("label", tmp_path / "clips", tmp_path / "labels.csv")
    assert told.endswith(f"2 labelled, 1 errors: {tmp_path / 'labels.csv'}\n")
    with (tmp_path / "labels.csv").open(encoding="utf-8") as file:
        assert [row["label"] for row in csv.DictReader(file)] == ["", "happy", "happy"]


def test_the_picture_of_a_timeline_is_drawn_of_joined_clips(run, monkeypatch, capsys, tmp_path) -> None:
    clips = (CLIPS / "happy.mp4", CLIPS / "sad.mp4")
    arguments = ["timeline_picture.py", tmp_path / "joined.mp4", tmp_path / "drawn.png", *clips]
    monkeypatch.setattr(sys, "argv", [*map(str, arguments)])
    runpy.run_path(str(ROOT / "examples/timeline_picture.py"), run_name="__main__")
    assert "   4  0:04–0:05.2" in capsys.readouterr().out
    assert (tmp_path / "drawn.png").read_bytes().startswith(b"\x89PNG")


def test_the_client_prints_the_answer_as_it_comes_and_leaves_no_file(run, actor) -> None:
    with served(actor) as server:
        told = run("client", CLIPS / "happy.mp4", f"{server.url}/v1")
        assert told.startswith(f"{THOUGHT}happy\n") and "'happy': " in told
        assert server.http.get("/v1/files").json()["data"] == []


@pytest.mark.parametrize("name", SHOWN)
def test_the_documents_show_the_examples_as_they_are(name) -> None:
    source = (ROOT / f"examples/{name}.py").read_text(encoding="utf-8")
    body = source.split('"""', 2)[2].strip()
    assert ast.get_docstring(ast.parse(source))
    assert f"```python\n{body}\n```" in (ROOT / SHOWN[name]).read_text(encoding="utf-8")


def test_every_example_is_shown_or_draws_a_picture() -> None:
    names = {path.stem for path in (ROOT / "examples").glob("*.py")}
    assert names == {*SHOWN, "picture", "page_picture", "timeline_picture"}


def test_the_numbers_of_the_model_card_are_those_of_the_results() -> None:
    card = (ROOT / "docs/model_card.md").read_text(encoding="utf-8")
    results = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    numbers = re.findall(r"\b\d+\.\d+\b", card.partition("## Measured")[2])
    assert len(numbers) >= 12 and not [number for number in numbers if number not in results and number != "1.00"]
