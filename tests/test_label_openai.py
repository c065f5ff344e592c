"""Labelling through a server: the same rows, no clip lost or asked twice, and no other address.

Our own server runs whole, with the tiny scripted model; others are a few lines of http.server that say what they are
told to.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from fake_labeller import journal_of, lines_of, table_of
from media import make_clip
from PIL import Image
from scripted import TEXT, THOUGHT, scripted
from served import count, served

from omni import label_openai
from omni.cli import main
from omni.errors import ServerError
from omni.generate import reason
from omni.label import LabelSummary, label
from omni.label_openai import remote

ROOT = Path(__file__).parent.parent
CLIPS = sorted((ROOT / "examples/clips").glob("*.mp4"))


@pytest.fixture(scope="module")
def actor():
    return scripted()


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    monkeypatch.setattr(label_openai, "FIRST", 0.02)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six clips of different content: bytes behind the end of an mp4 change nothing but its hash."""
    clips = tmp_path / "clips"
    clips.mkdir()
    for number in range(6):
        (clips / f"{number}.mp4").write_bytes(CLIPS[0].read_bytes() + bytes([number]))
    return clips


def run(folder: Path, out: Path, url: str, **how) -> LabelSummary:
    names = ("api_key_env", "concurrency")
    engine = remote(f"{url}/v1", **{name: how.pop(name) for name in names if name in how})
    return label([folder], out, engine=engine, progress=False, **how)


class Other:
    """A server that is not ours. `replies`: what it says to one question after the other, the last one for ever."""

    def __init__(self, *replies: tuple[int, object, dict]) -> None:
        self.replies, self.asked, self.times = list(replies), [], []

    def reply(self, handler: BaseHTTPRequestHandler) -> tuple[int, object, dict]:
        if handler.command == "GET":
            return 200, {"data": [{"id": "omni-vllm", "owned_by": "vllm"}]}, {}
        self.asked.append(json.loads(handler.rfile.read(int(handler.headers["content-length"]))))
        self.times.append(time.monotonic())
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]

    @contextmanager
    def running(self) -> Iterator[str]:
        other = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body, headers = other.reply(self)
                content = json.dumps(body).encode()
                self.send_response(status)
                for name, value in {"content-length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_GET

            def log_message(self, *args) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.server_close()


def said(text: str) -> tuple[int, object, dict]:
    return 200, {"choices": [{"message": {"content": text}}]}, {}


def refused(status: int, **headers: str) -> tuple[int, object, dict]:
    return status, {"error": {"message": "Not now."}}, {name.replace("_", "-"): to for name, to in headers.items()}


# ---- our server ----


def test_our_server_gives_the_rows_of_a_model_on_this_machine(actor, folder, tmp_path) -> None:
    out = tmp_path / "t.jsonl"
    with served(actor) as server:
        assert run(folder, out, server.url) == LabelSummary(6, 0, 0)
        assert run(folder, out, server.url) == LabelSummary(0, 0, 6)
        assert count(server, "omni_clips_encoded_total") == 6
    here = reason(*actor, CLIPS[0]).to_dict()
    for row in table_of(out):
        assert row["status"] == "ok" and row["model"] == "default" and row["model_sha256"] == ""
        assert row["labels"] == pytest.approx(here["labels"], abs=1e-3)
        assert row["thought"] == THOUGHT and row["text"].replace("\n", "") == TEXT
        for name in ("label", "modalities", "warnings", "evidence", "duration_s", "transcript", "well_formed"):
            assert row[name] == here[name], name


def test_a_server_that_is_full_is_asked_again_until_every_clip_has_its_row(actor, folder, tmp_path) -> None:
    out = tmp_path / "t.jsonl"
    with served(actor, rows=1, waiting=0) as server:
        assert run(folder, out, server.url, concurrency=3) == LabelSummary(6, 0, 0)
        assert count(server, "omni_errors_total") > 0  # 429
    assert len(lines_of(out)) == 6


def test_after_a_server_died_the_same_command_goes_on_without_duplicates(actor, folder, tmp_path) -> None:
    out = tmp_path / "t.jsonl"
    with served(actor) as server:

        def end_after_the_first_row() -> None:
            while not journal_of(out).exists() or not journal_of(out).stat().st_size:
                time.sleep(0.005)
            server.server.should_exit = True

        threading.Thread(target=end_after_the_first_row, daemon=True).start()
        with pytest.raises(ServerError, match="run the same command again"):
            run(folder, out, server.url, concurrency=1, batch_size=1)
    before = len(lines_of(out))
    assert 0 < before < 6 and not out.exists()
    with served(actor) as server:
        assert run(folder, out, server.url) == LabelSummary(6 - before, 0, before)
    assert len({row["sha256"] for row in lines_of(out)}) == len(lines_of(out)) == len(table_of(out)) == 6


def test_a_bad_clip_is_a_row_as_without_a_server_and_is_never_sent(actor, folder, tmp_path) -> None:
    (folder / "bad.mp4").write_text("no clip")
    other = Other(said("<answer>sad</answer>"))
    with other.running() as url:
        assert run(folder, tmp_path / "t.jsonl", url, model="omni-vllm")[:2] == (6, 1)
    assert len(other.asked) == 6
    bad = next(row for row in table_of(tmp_path / "t.jsonl") if row["status"] == "error")
    assert "bad.mp4" in bad["error"]["message"] and bad["error"]["code"] not in ("internal", "bad_reply")


def test_the_key_is_taken_from_the_environment_and_a_wrong_one_ends_the_run(
    actor, folder, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("THE_KEY", "x" * 20)
    with served(actor, api_key="x" * 20) as server:
        with pytest.raises(ServerError, match="API key"):
            run(folder, tmp_path / "a.jsonl", server.url)
        assert run(folder, tmp_path / "b.jsonl", server.url, api_key_env="THE_KEY", limit=1).ok == 1


# ---- others ----


def test_the_label_of_another_server_is_read_from_its_text_and_has_no_probability(folder, tmp_path) -> None:
    other = Other(said("<think>A frown.</think><answer>Anger</answer>"))
    with other.running() as url:
        assert run(folder, tmp_path / "t.jsonl", url, model="omni-vllm", limit=1).ok == 1
    [row] = table_of(tmp_path / "t.jsonl")
    assert (row["label"], row["thought"], row["well_formed"]) == ("angry", "A frown.", True)
    assert row["labels"] is None and row["confidence"] is None and row["modalities"] == ["video", "audio"]
    video, text = other.asked[0]["messages"][0]["content"]
    assert video["video_url"]["url"].startswith("data:video/mp4;base64,")
    assert "Emotions: angry, disgust" in text["text"] and "labels" not in other.asked[0]


def test_a_table_without_probabilities_is_written_as_parquet_with_its_page(folder, tmp_path) -> None:
    out, page = tmp_path / "t.parquet", tmp_path / "report.html"
    with Other(said("<answer>sad</answer>")).running() as url:
        assert run(folder, out, url, model="omni-vllm", limit=2, report=page).ok == 2
    assert [row["label"] for row in table_of(out)] == ["sad"] * 2 and table_of(out)[0]["confidence"] is None
    assert "sad" in page.read_text(encoding="utf-8")


def test_text_without_a_label_of_the_list_is_an_error_not_a_guess(folder, tmp_path) -> None:
    with Other(said("<answer>hungry</answer>")).running() as url:
        assert run(folder, tmp_path / "t.jsonl", url, model="omni-vllm", limit=1).errors == 1
    assert table_of(tmp_path / "t.jsonl")[0]["error"]["code"] == "bad_reply"


def test_retry_after_is_waited_for(folder, tmp_path) -> None:
    other = Other(refused(429, retry_after="1"), said("<answer>sad</answer>"))
    with other.running() as url:
        assert run(folder, tmp_path / "t.jsonl", url, model="omni-vllm", limit=1).ok == 1
    assert other.times[1] - other.times[0] >= 1


def test_a_server_that_fails_for_one_clip_costs_that_clip_alone(folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(label_openai, "TRIES", 3)
    out = tmp_path / "t.jsonl"
    other = Other(*[refused(500)] * 3, said("<answer>sad</answer>"))
    with other.running() as url:
        assert run(folder, out, url, model="omni-vllm", concurrency=1)[:2] == (5, 1)
        assert len(other.asked) == 3 + 5  # none was asked again because another failed
        assert run(folder, out, url, model="omni-vllm", retry_errors=True) == LabelSummary(1, 0, 5)
    assert [row["status"] for row in table_of(out)] == ["ok"] * 6


def test_a_redirect_is_not_followed_and_no_proxy_is_used(folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    elsewhere = Other(said("<answer>sad</answer>"))
    with elsewhere.running() as there, Other(refused(307, location=f"{there}/v1/elsewhere")).running() as url:
        with pytest.raises(ServerError, match="not followed"):
            run(folder, tmp_path / "t.jsonl", url, model="omni-vllm", limit=1)
        assert not elsewhere.asked


def test_a_model_that_the_server_does_not_have_is_named_before_any_clip_is_sent(folder, tmp_path) -> None:
    other = Other(said(""))
    with other.running() as url, pytest.raises(ServerError, match="one of: omni-vllm"):
        run(folder, tmp_path / "t.jsonl", url)
    assert not other.asked


def test_stills_and_sounds_are_sent_as_what_they_are(folder, tmp_path) -> None:
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    make_clip(mixed / "a.wav", codec=None, sounds=("pcm_s16le",))
    Image.new("RGB", (64, 48), "red").save(mixed / "b.png")
    other = Other(said("<answer>sad</answer>"))
    with other.running() as url:
        assert run(mixed, tmp_path / "t.jsonl", url, model="omni-vllm", concurrency=1).ok == 2
    sound, still = (asked["messages"][0]["content"][0] for asked in other.asked)
    assert sound["type"] == "input_audio" and sound["input_audio"]["format"] == "wav"
    assert still["type"] == "image_url" and still["image_url"]["url"].startswith("data:image/png;base64,")


# ---- the command ----


def test_the_command_needs_a_base_url_and_refuses_options_that_change_nothing(folder, tmp_path) -> None:
    out = str(tmp_path / "t.jsonl")
    for options in (["--engine", "openai"], ["--base-url", "http://x/v1"], ["--engine", "none"]):
        assert main(["label", str(folder), "--out", out, *options]) == 2
    assert main(["label", str(folder), "--out", out, "--engine", "openai", "--base-url", "ftp://x"]) == 2
    assert not Path(out).exists()
    with Other(said("<answer>sad</answer>")).running() as url:
        asked = ["--engine", "openai", "--base-url", f"{url}/v1", "--model", "omni-vllm"]
        assert main(["label", str(folder), "--out", out, *asked, "--dtype", "float32"]) == 2
        assert main(["label", str(folder), "--out", out, *asked]) == 0
