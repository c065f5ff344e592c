"""`omni serve` over real HTTP: what OpenAI's own client gets, batching, limits, and how it ends."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Literal

import httpx
import jsonschema
import openai
import pydantic
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance
from scripted import TEXT, THOUGHT, scripted
from served import about, count, data_url, served

from omni import loading
from omni.answer import format_answer
from omni.chat import Said, prompt_inputs, watch
from omni.cli import main
from omni.decoding import Rows
from omni.emotions import label_space
from omni.errors import OmniError
from omni.generate import reason, score_labels
from omni.serve.settings import Settings
from omni.tiny import tiny

ROOT = Path(__file__).parent.parent
CLIP = ROOT / "examples/clips/angry.mp4"


@pytest.fixture(scope="module")
def actor():
    return scripted()


@pytest.fixture(scope="module")
def server(actor):
    with served(actor) as running:
        yield running


@pytest.fixture(scope="module")
def chance():
    """A server of a random model, whose text and scores depend on all that it is given."""
    with served(tiny(seed=8)) as running:
        yield running


@pytest.fixture(scope="module")
def clip() -> str:
    return data_url(CLIP)


def ask(server, messages, **how):
    return server.openai.chat.completions.create(model="default", messages=messages, **how)


# ---- what OpenAI's client gets ----


def test_the_openai_client_gets_answer_reasons_and_probabilities(server, clip) -> None:
    done = ask(server, about(clip))
    choice = done.choices[0]
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "happy", "stop")
    assert choice.message.reasoning_content == THOUGHT and done.model == "default" and choice.logprobs is None
    emotion = choice.message.emotion
    assert emotion["label"] == "happy" and len(emotion["labels"]) == 7 and emotion["modalities"] == ["video", "audio"]
    assert abs(sum(emotion["labels"].values()) - 1) < 1e-5 and "text" not in emotion
    assert done.usage.completion_tokens == 11 and done.usage.completion_tokens_details.reasoning_tokens == 6
    assert done.usage.total_tokens == done.usage.prompt_tokens + 11


def test_a_streamed_answer_is_the_same_answer(server, clip) -> None:
    chunks = list(ask(server, about(clip), stream=True, stream_options={"include_usage": True}))
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert deltas[0].role == "assistant" and len({chunk.id for chunk in chunks}) == 1
    thoughts = [getattr(delta, "reasoning_content", None) for delta in deltas]
    assert "".join(text or "" for text in thoughts) == THOUGHT and len([t for t in thoughts if t]) == 5
    assert "".join(delta.content or "" for delta in deltas) == "happy"
    assert deltas[-1].emotion == ask(server, about(clip)).choices[0].message.emotion
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 11
    asked = {"model": "default", "messages": about(clip), "stream": True}
    raw = server.http.post("/v1/chat/completions", json=asked)
    assert raw.headers["content-type"].startswith("text/event-stream") and raw.text.endswith("\n\ndata: [DONE]\n\n")


def test_every_kind_of_part_is_a_clip(server, clip, voice_clip, tmp_path) -> None:
    from PIL import Image

    Image.effect_noise((64, 64), 90).convert("RGB").save(tmp_path / "face.png")
    picture, sound = data_url(tmp_path / "face.png", "image/png"), data_url(voice_clip, "audio/wav")
    heard = {"type": "input_audio", "input_audio": {"data": sound.partition(",")[2], "format": "wav"}}
    upload = server.openai.files.create(file=CLIP.open("rb"), purpose="user_data")
    parts = {
        "video": (about(clip), ["video", "audio"]),
        "only its sound": (about(clip, kind="audio_url"), ["audio"]),
        "only its picture": (about(clip, kind="image_url"), ["video"]),
        "sound": (about(sound, kind="audio_url"), ["audio"]),
        "picture": (about(picture, kind="image_url"), ["video"]),
        "input_audio": ([{"role": "user", "content": [heard]}], ["audio"]),
        "picture and sound": (
            [{"role": "user", "content": [*about(picture)[0]["content"], heard]}],
            ["video", "audio"],
        ),
        "upload": (about(upload.id), ["video", "audio"]),
        "upload in two parts": (
            [
                {
                    "role": "user",
                    "content": [about(upload.id, kind=k)[0]["content"][0] for k in ("image_url", "audio_url")],
                }
            ],
            ["video", "audio"],
        ),
        "file": ([{"role": "user", "content": [{"type": "file", "file": {"file_id": upload.id}}]}], ["video", "audio"]),
        "file_data": (
            [{"role": "user", "content": [{"type": "file", "file": {"file_data": clip}}]}],
            ["video", "audio"],
        ),
    }
    for name, (messages, senses) in parts.items():
        assert ask(server, messages, max_tokens=1).choices[0].message.emotion["modalities"] == senses, name


def test_the_answer_is_that_of_reason(chance) -> None:
    clips = chance.clips
    asked = reason(clips.thread.model, clips.processor, CLIP, "Why?", temperature=1.0, seed=3, max_new_tokens=16)
    done = ask(chance, about(data_url(CLIP)), temperature=1.0, seed=3, max_tokens=16)
    emotion = done.choices[0].message.emotion
    assert all(abs(emotion["labels"][name] - p) < 1e-4 for name, p in asked.labels.items())
    assert done.choices[0].finish_reason == "length" and emotion["thought"] == asked.thought


def test_the_same_seed_gives_the_same_text(chance, clip) -> None:
    def text(seed: int) -> str:
        return ask(chance, about(clip), temperature=1.0, seed=seed, max_tokens=24).choices[0].message.content

    assert text(1) == text(1) != text(2)


def test_a_conversation_that_goes_on_runs_its_new_words_alone(server, clip) -> None:
    messages = about(clip, "How does she feel today?")
    first = ask(server, messages)
    reply = first.choices[0].message
    messages += [reply.model_dump(), {"role": "user", "content": "And why?"}]
    second = ask(server, messages)
    cached = second.usage.prompt_tokens_details.cached_tokens
    assert first.usage.prompt_tokens < cached < second.usage.prompt_tokens
    assert server.clips.metrics.reused_tokens._value.get() >= cached


def test_stop_and_length_end_the_answer(server, clip) -> None:
    stopped = ask(server, about(clip), stop=["ppy"])
    assert (stopped.choices[0].message.content, stopped.choices[0].finish_reason) == ("ha", "stop")
    short = ask(server, about(clip), max_tokens=3)
    assert (short.choices[0].message.content, short.choices[0].finish_reason) == ("", "length")
    assert short.choices[0].message.reasoning_content == "The lips" and short.usage.completion_tokens == 3


def test_logprobs_are_those_of_the_tokens_of_the_answer(server, clip) -> None:
    for stream in (False, True):
        done = ask(server, about(clip), logprobs=True, top_logprobs=2, stream=stream)
        logs = [chunk.choices[0].logprobs for chunk in done] if stream else [done.choices[0].logprobs]
        found = [token for part in logs if part for token in part.content]
        assert [token.token for token in found] == ["happy"] and bytes(found[0].bytes) == b"happy"
        assert found[0].logprob <= 0 and len(found[0].top_logprobs) == 2
        assert found[0].top_logprobs[0].token == "happy"
        assert math.isclose(found[0].top_logprobs[0].logprob, found[0].logprob)


def test_think_can_be_switched_off(chance, clip) -> None:
    prompts = [
        ask(chance, about(clip), max_tokens=1, **how).usage.prompt_tokens
        for how in ({}, {"extra_body": {"think": False}}, {"reasoning_effort": "none"}, {"reasoning_effort": "high"})
    ]
    assert prompts[0] == prompts[3] > prompts[1] == prompts[2]


# ---- structured answers ----


class Feeling(pydantic.BaseModel):
    label: Literal["calm", "happy", "angry"]
    confidence: float
    thought: str


def test_a_pydantic_model_is_filled(server, clip) -> None:
    done = server.openai.chat.completions.parse(model="default", messages=about(clip), response_format=Feeling)
    assert done.choices[0].message.parsed == Feeling(label="happy", confidence=1.0, thought=THOUGHT)
    assert set(done.choices[0].message.emotion["labels"]) == {"calm", "happy", "angry"}


def test_records_keep_to_their_schema(chance, clip) -> None:
    numbers = {"calm": {"type": "number"}, "angry": {"type": "number"}}
    kept = [
        {"type": "object", "properties": {"label": {"enum": ["calm", "angry"]}}, "required": ["label"]},
        {
            "type": "object",
            "properties": {"labels": {"type": "object", "properties": numbers, "additionalProperties": False}},
        },
        {"type": "object", "properties": {"confidence": {"type": "number", "minimum": 0, "maximum": 1}}},
        {"type": "object", "properties": {"transcript": {"anyOf": [{"type": "string"}, {"type": "null"}]}}},
        {"type": "object", "properties": {"warnings": {"type": "array", "items": {"type": "string"}}}},
    ]
    for schema in kept:
        wanted = {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": schema | {"additionalProperties": False}},
        }
        done = ask(chance, about(clip), response_format=wanted, max_tokens=2)
        jsonschema.validate(json.loads(done.choices[0].message.content), wanted["json_schema"]["schema"])
    streamed = list(ask(chance, about(clip), response_format={"type": "json_object"}, max_tokens=2, stream=True))
    record = json.loads("".join(chunk.choices[0].delta.content or "" for chunk in streamed))
    assert record == streamed[-1].choices[0].delta.emotion


class Spelled(pydantic.BaseModel):
    label: Literal["Calm", "Happy"] | None
    labels: dict[str, float]
    confidence: Annotated[float, pydantic.Field(ge=0, le=1)] | None = None


def test_labels_are_answered_as_the_schema_spells_them(server, clip) -> None:
    found = server.openai.chat.completions.parse(model="default", messages=about(clip), response_format=Spelled)
    message = found.choices[0].message
    assert message.parsed.label == "Happy" and set(message.parsed.labels) == {"Calm", "Happy"}
    assert message.emotion["label"] == "happy" and set(message.emotion["labels"]) == {"calm", "happy"}


def numbers(**of_one) -> dict:
    """A schema with a property for each of two labels, of which one has more to say."""
    one, other = {"type": "number"} | of_one, {"type": "number"}
    return {"type": "object", "properties": {"labels": {"type": "object", "properties": {"a": one, "b": other}}}}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array"},
        {"type": "object", "properties": {}},
        {"type": "object", "properties": {"age": {"type": "integer"}}},
        {"type": "object", "properties": {"label": {"type": "number"}}},
        {"type": "object", "properties": {"label": {"enum": ["one"]}}},
        {"type": "object", "properties": {"label": {"enum": [1, 2]}}},
        {"type": "object", "properties": {"label": {"pattern": "^x$"}}},
        {"type": "object", "properties": {"confidence": {"maximum": 0.5}}},
        {"type": "object", "properties": {"confidence": {"type": "string"}}},
        {"type": "object", "properties": {"thought": {"enum": ["a", "b"]}}},
        {"type": "object", "properties": {"transcript": {"type": "string"}}},
        {"type": "object", "properties": {"label": {}}, "required": ["age"]},
        {"type": "object", "properties": {"label": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"$ref": "#/$defs/a"}}},
        {"type": "object", "properties": {"label": {}}, "minProperties": 3},
        {"type": "object", "properties": {"label": {}}, "enum": [{}]},
        {"type": "object", "properties": {"label": {"enum": []}}},
        {"type": "object", "properties": {"label": {"anyOf": [{"enum": ["calm", "sad"]}], "const": "calm"}}},
        {"type": "object", "properties": {"label": {"anyOf": [{"type": "string", "minLength": 9}, {"type": "null"}]}}},
        {"type": "object", "properties": {"label": {"anyOf": [{"anyOf": [{"type": "string"}]}]}}},
        {"type": "object", "properties": {"label": {"$ref": "#/$defs/a", "minLength": 9}}, "$defs": {"a": {}}},
        {"type": "object", "properties": {"confidence": {"anyOf": [{"type": "number", "minimum": 0.9}]}}},
        {"type": "object", "properties": {"modalities": {"items": {"type": "string", "enum": ["video"]}}}},
        {"type": "object", "properties": {"warnings": {"items": {"type": "string", "maxLength": 2}}}},
        {"type": "object", "properties": {"labels": {"additionalProperties": {"maximum": 0.1}}}},
        {"type": "object", "properties": {"labels": {"required": ["calm"]}}},
        numbers(maximum=0.1),
        numbers(multipleOf=0.5),
    ],
)
def test_a_schema_that_cannot_be_kept_is_refused_before_anything_is_run(server, clip, schema) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    before = count(server, "omni_prompt_tokens_total")
    with pytest.raises(openai.BadRequestError):
        ask(server, about(clip), response_format=wanted)
    assert count(server, "omni_prompt_tokens_total") == before


# ---- labels, files, models ----


def test_labels_gives_a_probability_for_every_allowed_label(chance, clip) -> None:
    words = ["calm", "angry", "bored"]
    asked = {"model": "default", "clip": {"url": clip}, "question": "Hm?", "labels": words}
    found = chance.http.post("/v1/labels", json=asked).json()
    model, processor = chance.clips.thread.model, chance.clips.processor
    features, space = watch(model, processor, processor.read(CLIP)), label_space(words)
    inputs = prompt_inputs(model, processor, features, [Said("user", "Hm?")], space, False)
    head = format_answer("x").removesuffix("x</answer>")
    right = score_labels(model, processor, inputs, [head], space)[0]
    assert list(found["labels"]) == words and found["label"] == max(right, key=right.get)
    assert all(abs(found["labels"][word] - right[word]) < 1e-4 for word in words)
    assert found["confidence"] == max(found["labels"].values()) and found["thought"] == ""


def test_labels_of_any_alphabet_are_labels(chance, clip) -> None:
    for words in (["glücklich", "traurig"], ["悲しい", "嬉しい"], ["angry (cold)", "angry (hot)"]):
        found = chance.http.post("/v1/labels", json={"model": "default", "clip": {"url": clip}, "labels": words})
        assert list(found.json()["labels"]) == words
    asked = {"model": "default", "clip": {"url": clip}, "labels": ["a<b", "sad"]}
    assert chance.http.post("/v1/labels", json=asked).json()["error"]["code"] == "bad_label"


def test_labels_after_reasons_are_those_of_the_chat(server, clip) -> None:
    asked = {"model": "default", "clip": {"url": clip}, "question": "Why?", "labels": "mer6", "think": True}
    found = server.http.post("/v1/labels", json=asked).json()
    chatted = ask(server, about(clip), extra_body={"labels": "mer6"}).choices[0].message.emotion
    assert found["thought"] == THOUGHT and found["labels"] == chatted["labels"]


def test_labels_from_one_sense_are_those_of_the_clip_without_the_other(chance, clip, voice_clip) -> None:
    def found(url: str, senses: list[str]) -> dict:
        return chance.http.post("/v1/labels", json={"model": "default", "clip": {"url": url}, "senses": senses}).json()

    encoded = chance.clips.metrics.clips._value.get()
    both, seen, heard = (found(clip, senses) for senses in (["audio", "video"], ["video"], ["audio"]))
    assert [one["modalities"] for one in (both, seen, heard)] == [["video", "audio"], ["video"], ["audio"]]
    assert len({tuple(one["labels"].values()) for one in (both, seen, heard)}) == 3
    assert chance.clips.metrics.clips._value.get() <= encoded + 1  # the towers run once
    sound = found(data_url(voice_clip, "audio/wav"), ["video"])
    assert sound["error"]["message"] == "The clip gives no video to judge from, only audio."
    assert sound["error"]["code"] == "no_such_sense"


def test_files_can_be_kept_listed_and_deleted(server) -> None:
    client = server.openai
    kept = client.files.create(file=("../sad\x85.mp4", CLIP.read_bytes()), purpose="user_data")
    assert (kept.bytes, kept.filename, kept.purpose) == (CLIP.stat().st_size, "../sad?.mp4", "user_data")
    assert kept.id in [file.id for file in client.files.list()] and client.files.retrieve(kept.id) == kept
    assert client.files.delete(kept.id).deleted
    for gone in (client.files.retrieve, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            gone(kept.id)
    with pytest.raises(openai.NotFoundError):
        ask(server, about(kept.id))


def test_uploads_are_bounded_in_bytes_count_and_age(actor) -> None:
    with served(actor, clip_bytes=1000, files=2, files_seconds=100.0) as small:
        client, files = small.openai, small.clips.files
        with pytest.raises(openai.APIStatusError) as err:
            client.files.create(file=b"x" * 1001, purpose="user_data")
        assert err.value.status_code == 413 and not files.known
        kept = [client.files.create(file=b"x" * 1000, purpose="user_data") for _ in range(2)]
        with pytest.raises(openai.RateLimitError) as err:
            client.files.create(file=b"x", purpose="user_data")
        assert int(err.value.response.headers["retry-after"]) <= 100 and err.value.code == "too_many_files"
        place = files.known[kept[0].id].path
        assert place.stat().st_size == 1000 and place.parent.stat().st_mode & 0o077 == 0
        files.clock = lambda: time.time() + 101
        assert client.files.list().data == [] and not place.exists()
        client.files.create(file=b"x", purpose="user_data")
        folder = place.parent
        assert len(list(folder.iterdir())) == 1
    assert not folder.exists()  # emptied at exit


def test_the_model_and_the_state_can_be_asked_for(server) -> None:
    assert [model.id for model in server.openai.models.list()] == ["default"]
    assert server.openai.models.retrieve("default").owned_by == "omni"
    with pytest.raises(openai.NotFoundError):
        server.openai.models.retrieve("gpt-4o")
    assert server.http.get("/health").json() == {"status": "ok"}
    metrics = server.http.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert "omni_requests_total" in metrics.text and "omni_time_to_first_token_seconds_bucket" in metrics.text
    assert server.http.get("/nothing").status_code == 404


@pytest.mark.parametrize(
    ("change", "status", "code", "param"),
    [
        ({"model": "gpt-4o"}, 404, "model_not_found", "model"),
        ({"messages": []}, 400, "invalid_value", "messages"),
        ({"messages": None}, 400, "invalid_value", "messages"),
        ({"messages": [{"role": "user", "content": "Hello?"}]}, 400, "no_clip", "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, 400, "invalid_value", "messages.0"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, 400, "missing_parameter", None),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "no_question", "messages"),
        ({"temperature": "hot"}, 400, "invalid_value", "temperature"),
        ({"temperature": 3}, 400, "invalid_value", "temperature"),
        ({"n": 2}, 400, "invalid_value", "n"),
        ({"tools": []}, 400, "unknown_parameter", "tools"),
        ({"frequency_penalty": 1}, 400, "invalid_value", "frequency_penalty"),
        ({"max_tokens": 0}, 400, "invalid_value", "max_tokens"),
        ({"max_tokens": 5000}, 400, "max_tokens_too_large", "max_tokens"),
        ({"labels": "ekman9"}, 400, "invalid_value", None),
        ({"labels": ["happy"]}, 400, "invalid_value", None),
        ({"top_logprobs": 2}, 400, "needs_logprobs", "top_logprobs"),
    ],
)
def test_an_error_is_an_error_object_with_the_right_status(server, clip, change, status, code, param) -> None:
    asked = {"model": "default", "messages": about(clip)} | change
    reply = server.http.post("/v1/chat/completions", json=asked)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (status, code), error
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    assert param is None or error["param"] == param


def test_a_broken_clip_is_named_with_what_to_do_and_not_by_our_paths(server, tmp_path) -> None:
    (tmp_path / "clip.mp4").write_bytes(CLIP.read_bytes()[:300])
    with pytest.raises(openai.BadRequestError) as err:
        ask(server, about(data_url(tmp_path / "clip.mp4")), stream=True)
    assert err.value.code == "corrupt_media"
    assert "The clip is damaged" in str(err.value) and "/" not in err.value.body["message"].partition("(")[0]
    assert not [path for path in server.clips.media.folder.iterdir() if path.name.startswith("clip-")]


def test_a_conversation_that_is_too_long_is_refused(server, clip) -> None:
    with pytest.raises(openai.BadRequestError) as err:
        ask(server, about(clip, "why " * 600))
    assert err.value.code == "context_length_exceeded"


def test_a_fault_of_ours_is_a_500_without_its_insides_and_the_next_request_is_answered(
    server, clip, monkeypatch
) -> None:
    def broken(self):
        raise RuntimeError("secret /path")

    with monkeypatch.context() as patch:
        patch.setattr(Rows, "step", broken)
        with pytest.raises(openai.InternalServerError) as err:
            ask(server, about(clip))
        assert "secret" not in str(err.value) and err.value.code == "internal_error"
        pieces = server.http.post(
            "/v1/chat/completions", json={"model": "default", "messages": about(clip), "stream": True}
        )
        assert "internal_error" in pieces.text and "[DONE]" not in pieces.text
    assert ask(server, about(clip)).choices[0].message.content == "happy"


# ---- many clients ----


@pytest.fixture
def slow(monkeypatch):
    """Every step takes at least 10 ms, as of a model of some size."""
    step = Rows.step

    def slowed(self) -> None:
        time.sleep(0.01)
        step(self)

    monkeypatch.setattr(Rows, "step", slowed)


def test_clients_are_answered_together_and_as_if_alone(chance, slow, clip) -> None:
    def one(index: int) -> str:
        done = ask(chance, about(clip, f"Question {index}?"), temperature=1.0, seed=index, max_tokens=20 + index)
        return done.choices[0].message.content

    alone = [one(index) for index in range(8)]
    steps, tokens = (count(chance, f"omni_{name}_total") for name in ("steps", "generation_tokens"))
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(one, range(8)))
    steps, tokens = (
        count(chance, f"omni_{name}_total") - before
        for name, before in (("steps", steps), ("generation_tokens", tokens))
    )
    assert together == alone and len(set(alone)) == 8
    assert tokens / steps > 3  # tokens of a step


def test_a_full_queue_answers_429_and_when_to_try_again(slow, clip) -> None:
    with served(scripted(endless=True), rows=1, waiting=1) as small, ThreadPoolExecutor(6) as pool:

        def one(_: int) -> httpx.Response:
            asked = {"model": "default", "messages": about(clip), "max_tokens": 60}
            return httpx.post(f"{small.url}/v1/chat/completions", json=asked, timeout=60)

        replies = list(pool.map(one, range(6)))
        assert sorted(reply.status_code for reply in replies) == [200, 200, 429, 429, 429, 429]
        full = next(reply for reply in replies if reply.status_code == 429)
        assert full.json()["error"]["code"] == "queue_full" and 1 <= int(full.headers["retry-after"]) <= 60
        assert one(0).status_code == 200


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_stops_costing(slow, clip, stream) -> None:
    with served(scripted(endless=True)) as running:
        asked = {"model": "default", "messages": about(clip), "max_tokens": 1000, "stream": stream}
        if stream:
            with running.http.stream("POST", "/v1/chat/completions", json=asked) as reply:
                next(reply.iter_text())
        else:
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{running.url}/v1/chat/completions", json=asked, timeout=1.0)
        deadline = time.monotonic() + 5
        while count(running, "omni_cancelled_total") < 1 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert count(running, "omni_cancelled_total") == 1
        written = count(running, "omni_generation_tokens_total")
        time.sleep(0.2)
        assert count(running, "omni_generation_tokens_total") == written < 500
        assert not running.clips.thread.active


def test_sigterm_writes_out_what_was_begun_and_ends(tmp_path, clip) -> None:
    model, processor = scripted(endless=True)
    model.config.text_config.tie_word_embeddings = model.config.tie_word_embeddings = False
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    command = ["-c", "import sys; from omni.cli import main; sys.exit(main())", "serve", "--port", "0"]
    environment = os.environ | {"TMPDIR": str(tmp_path), "OMNI_API_KEY": "k" * 20}
    process = subprocess.Popen(
        [sys.executable, *command, "--model", str(tmp_path / "model")],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
    )
    try:
        url = process.stderr.readline().decode().split()[0].removesuffix("/v1")
        asked = {"model": "model", "messages": about(clip), "max_tokens": 300, "stream": True}
        keyed = {"authorization": f"Bearer {'k' * 20}"}
        assert httpx.get(f"{url}/v1/models").status_code == 401
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=asked, headers=keyed, timeout=60) as reply:
            assert reply.status_code == 200
            lines = reply.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            rest = list(lines)
        assert rest[-2] == "data: [DONE]" and sum("reasoning_content" in line for line in rest) > 200
        assert process.wait(20) == 0
        assert not list(tmp_path.glob("omni-serve-*"))
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/health")
    finally:
        process.kill()


# ---- the description ----


@pytest.fixture(scope="module")
def described():
    """The API of a server with little patience for uploads, from its own description."""
    with served(tiny(), tokens=4, clip_bytes=10_000, body_bytes=100_000) as running:
        yield schemathesis.openapi.from_url(f"{running.url}/openapi.json")


def test_no_request_that_can_be_made_from_the_description_is_a_fault(described) -> None:
    checks = [not_a_server_error, status_code_conformance, response_schema_conformance]
    seen: set[int] = set()
    for operation in described.get_all_operations():

        @given(case=operation.ok().as_strategy())
        @settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        def holds(case) -> None:
            seen.add(case.call_and_validate(checks=checks).status_code)

        holds()
    assert {200, 400, 404} <= seen and max(seen) < 500


def test_the_description_names_every_route_and_what_needs_a_key(actor) -> None:
    with served(actor, api_key="k" * 16) as keyed:
        found = keyed.http.get("/openapi.json").json()
    paths = {f"{method} {path}" for path, methods in found["paths"].items() for method in methods}
    assert paths == {
        *("post /v1/chat/completions", "post /v1/labels", "get /v1/models", "get /v1/models/{model}"),
        *("post /v1/files", "get /v1/files", "get /v1/files/{file_id}", "delete /v1/files/{file_id}"),
        *("get /health", "get /metrics"),
    }
    operations = [(path, operation) for path, methods in found["paths"].items() for operation in methods.values()]
    assert all(("security" in operation) == (path != "/health") for path, operation in operations)
    assert all("422" not in operation["responses"] and "401" in operation["responses"] for _, operation in operations)
    assert all(operation.get("description") for _, operation in operations)


# ---- settings ----


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"host": "0.0.0.0"}, "--api-key"),
        ({"host": "::"}, "--api-key"),
        ({"host": "192.168.1.5"}, "--api-key"),
        ({"host": "0.0.0.0", "api_key": "short"}, "16 or more"),
        ({"allow_paths": (Path("/no/such/folder"),)}, "is no folder"),
        ({"allow_domains": ("*.example.org",)}, "whole name"),
        ({"allow_domains": ("https://example.org/",)}, "whole name"),
    ],
)
def test_settings_that_are_not_safe_are_refused_before_a_model_is_loaded(how, message) -> None:
    with pytest.raises(OmniError, match=message):
        Settings(**how).checked()


def test_the_command_line_refuses_before_it_loads_a_model(monkeypatch, capsys) -> None:
    monkeypatch.setattr(loading, "load", None)  # whoever calls it fails
    monkeypatch.delenv("OMNI_API_KEY", raising=False)
    assert main(["serve", "--host", "0.0.0.0"]) == 2
    assert capsys.readouterr().err == (
        "omni: --host 0.0.0.0 can be reached from other machines. Set --api-key, or OMNI_API_KEY.\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 2
    assert capsys.readouterr().err == (
        f"omni: Cannot listen on 127.0.0.1 port {port} (Address already in use). Give another --port.\n"
    )


def test_text_of_the_script_is_what_the_server_parts(server, clip) -> None:
    """The reply's two texts, put together again, are what the model wrote."""
    reply = ask(server, about(clip)).choices[0].message
    assert format_answer(reply.content, reply.reasoning_content).replace("\n", "") == TEXT
