"""`omni eval`: predictions that survive a kill, metrics that hide nothing, and a page that stands alone.

The model is a fake at the edge (`Answerer`), which answers with what stands in the clip's file; the kill is a real one
of a real process with a tiny random model.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest

from omni import evaluation, generate
from omni.answer import format_answer
from omni.cli import main
from omni.emotions import label_space, read_wheels
from omni.errors import ClipError, LabelError, OmniError
from omni.evaluation import Evaluation, evaluate
from omni.evaluation_report import page
from omni.journal import appending
from omni.manifest import Example, write_manifest
from omni.predictions import OPEN, VERBATIM, Answerer, Ask, Row, fingerprint, load_answerer
from omni.released import LABEL_QUESTION
from omni.tiny import tiny

ROOT = Path(__file__).parent.parent
PLAIN = "happy,sad"


class Fake:
    """Models that answer with the content of a clip: "TEXT" or "TEXT when thinking|TEXT at once".

    A content that begins with "bad" cannot be read, with "odd" not be answered. `sure` is the probability of the label.
    """

    def __init__(self, sure: float = 0.75) -> None:
        self.sure = sure
        self.loaded: list[str] = []
        self.encoded: list[str] = []
        self.asked: list[tuple[str, Ask]] = []

    def load(self, name: str) -> Answerer:
        self.loaded.append(name)
        return Answerer(self.encode, self.answer)

    def encode(self, path: Path) -> str:
        content = path.read_text() if path.exists() else "bad"
        if content.startswith("bad"):
            raise ClipError(f"{path.name} is damaged. Record it again.", code="corrupt_media")
        self.encoded.append(content)
        return content

    def answer(self, clips: Sequence[str], ask: Ask) -> list[Row]:
        if any(clip.startswith("odd") for clip in clips):
            raise RuntimeError("shapes\ndo not match")
        self.asked += [(clip, ask) for clip in clips]
        return [self.fields(clip.split("#")[0].split("|"), ask) for clip in clips]

    def fields(self, texts: list[str], ask: Ask) -> Row:
        text = texts[-1 if ask.mode == "no-think" else 0]
        if ask.mode == VERBATIM:
            return {"text": text}
        word = text.lower().removeprefix("<answer>").removesuffix("</answer>")
        label = word if word in ask.space else ask.space.labels[0]
        rest = (1 - self.sure) / (len(ask.space) - 1) if len(ask.space) > 1 else 0.0
        labels = dict.fromkeys(ask.space.labels, rest) | {label: self.sure}
        fields = {"label": label, "confidence": self.sure, "labels": labels, "thought": "A & <b>", "text": text}
        return fields | {
            "well_formed": text == format_answer(word),
            "modalities": ["video"],
            "warnings": [],
            "evidence": [],
        }


@pytest.fixture
def run(tmp_path: Path):
    """Evaluate clips given as (content, label or dict of columns); the manifest and the folder stay the same."""

    def run(fake: Fake, clips: Sequence[tuple[str, str | dict]], **options) -> Evaluation:
        examples = []
        for number, (content, truth) in enumerate(clips):
            path = tmp_path / f"{number}.mp4"
            path.write_text(content)
            columns = truth if isinstance(truth, dict) else {"label": truth}
            known = {name: columns.pop(name, None) for name in ("label", "question")}
            examples.append(Example(path, **known, extra=columns))
        write_manifest(tmp_path / "m.jsonl", examples)
        given = {"labels": PLAIN, "models": ["default"]} | options
        return evaluate(tmp_path / "m.jsonl", out=tmp_path / "out", load=fake.load, **given)

    return run


def rows_of(tmp_path: Path) -> list[dict]:
    return [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]


def say(label: str, number: int = 0) -> str:
    """The content of a clip that is answered with a label; contents differ by number."""
    return f"<answer>{label}</answer>#{number}"


FOUR = [
    (say("happy", 1), "happy"),
    (say("sad", 2), "happy"),
    (say("sad", 3), "sad"),
    ("<answer>sad</answer>|<answer>happy</answer>#4", "sad"),
]


# The three files


def test_the_three_files_hold_predictions_metrics_and_a_page(run, tmp_path: Path) -> None:
    found = run(Fake(), FOUR)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "metrics.json",
        "predictions.jsonl",
        "report.html",
    ]
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == found.metrics
    rows = rows_of(tmp_path)
    assert len(rows) == 8 and len({tuple(row) for row in rows}) == 1  # four clips, two modes, the same columns in all
    assert (rows[0]["truth"], rows[0]["label"], rows[0]["mode"], rows[0]["status"]) == ("happy", "happy", "think", "ok")
    assert (found.done, found.errors, found.known) == (8, 0, 0)


def test_metrics_are_those_of_the_answers(run) -> None:
    think, fast = run(Fake(), FOUR).metrics["runs"]
    assert (think["mode"], think["war"]["value"], think["uar"]["value"]) == ("think", 0.75, 0.75)
    assert think["confusion"] == [[1, 1, 0], [0, 2, 0]]
    assert think["recall"]["happy"]["value"] == 0.5 and think["recall"]["happy"]["clips"] == 2
    assert (fast["mode"], fast["war"]["value"]) == ("no-think", 0.5)
    assert think["war"]["low"] < 0.75 < think["war"]["high"]
    assert think["calibration"]["ece"]["value"] == 0.0  # right on three of four, and 0.75 sure
    assert think["calibration"]["brier"]["value"] == pytest.approx((3 * 2 * 0.25**2 + 2 * 0.75**2) / 4)
    assert think["calibration"]["bins"][0]["clips"] == 4


def test_think_and_no_think_are_compared_on_the_same_clips(run) -> None:
    (found,) = run(Fake(), FOUR).metrics["comparisons"]
    assert found["war"]["value"] == 0.25 and found["war"]["low"] >= 0  # thinking loses no clip, so no resample either
    assert (found["both_right"], found["only_think_right"], found["only_no_think_right"]) == (2, 1, 0)
    assert found["neither_right"] == 1 and found["same_answer"]["value"] == 0.75


def test_one_mode_can_be_chosen_and_is_compared_with_nothing(run, tmp_path: Path) -> None:
    metrics = run(Fake(), FOUR, modes=["no-think"]).metrics
    assert [one["mode"] for one in metrics["runs"]] == ["no-think"] and metrics["comparisons"] == []
    assert {row["mode"] for row in rows_of(tmp_path)} == {"no-think"}


def test_intervals_are_the_same_each_time(run) -> None:
    assert run(Fake(), FOUR).metrics == run(Fake(), FOUR).metrics


def test_several_models_stand_in_one_report(run, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    fake = Fake()
    found = run(fake, FOUR, models=["default", str(tmp_path / "other")])
    assert fake.loaded == ["default", str(tmp_path / "other")]
    assert [(one["model"] == "default", one["mode"]) for one in found.metrics["runs"]] == [
        (True, "think"),
        (True, "no-think"),
        (False, "think"),
        (False, "no-think"),
    ]
    assert len(found.metrics["comparisons"]) == 2


# Resuming


def test_evaluating_again_repeats_no_clip_and_loads_no_model(run, tmp_path: Path) -> None:
    first = run(Fake(), FOUR)
    before = (tmp_path / "out" / "predictions.jsonl").read_bytes()
    fake = Fake()
    again = run(fake, FOUR)
    assert (again.done, again.known, fake.loaded) == (0, 8, [])
    assert (tmp_path / "out" / "predictions.jsonl").read_bytes() == before
    assert again.metrics == first.metrics


def test_each_clip_is_encoded_once_for_both_modes(run) -> None:
    fake = Fake()
    run(fake, FOUR)
    assert sorted(fake.encoded) == sorted(content for content, _ in FOUR) and len(fake.asked) == 8


def test_a_second_mode_is_added_to_the_first(run) -> None:
    run(Fake(), FOUR, modes=["think"])
    fake = Fake()
    found = run(fake, FOUR)
    assert (found.done, found.known) == (4, 4) and {ask.mode for _, ask in fake.asked} == {"no-think"}


def test_a_corrected_label_or_a_moved_clip_costs_no_new_answer(run, tmp_path: Path) -> None:
    run(Fake(), FOUR)
    fake = Fake()
    found = run(fake, [(content, "sad") for content, _ in reversed(FOUR)])
    assert fake.loaded == [] and found.metrics["runs"][0]["war"]["value"] == 0.75
    assert found.metrics["runs"][0]["confusion"] == [[0, 0, 0], [1, 3, 0]]


@pytest.mark.parametrize("change", [{"labels": "happy,sad,fear"}, {"question": "Why?"}])
def test_another_label_space_or_question_asks_anew(run, change) -> None:
    run(Fake(), FOUR)
    assert run(Fake(), FOUR, **change).done == 8
    assert run(Fake(), FOUR).known == 8  # and the first answers are kept


def test_a_model_that_was_trained_anew_is_asked_anew(run, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"old")
    run(Fake(), FOUR, models=[str(folder)])
    (folder / "optimizer.pt").write_bytes(b"no weight")
    assert run(Fake(), FOUR, models=[str(folder)]).known == 8
    (folder / "model.safetensors").write_bytes(b"new")
    assert run(Fake(), FOUR, models=[str(folder)]).done == 8


@pytest.mark.parametrize("torn", [b'{"clip": "x', b"\xc3", b'{"clip": "/a.mp4", "status": "ok"'])
def test_a_line_torn_by_a_kill_is_cut_off(run, tmp_path: Path, torn: bytes) -> None:
    run(Fake(), FOUR)
    table = tmp_path / "out" / "predictions.jsonl"
    whole = table.read_bytes().splitlines(keepends=True)
    table.write_bytes(b"".join(whole[:-1]) + torn)
    assert run(Fake(), FOUR).done == 1
    assert len(rows_of(tmp_path)) == 8


def test_a_file_that_is_no_table_of_ours_is_not_touched(run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    table = tmp_path / "out" / "predictions.jsonl"
    table.write_text('{"clip": "a.mp4"}\n')
    with pytest.raises(OmniError, match=r"predictions\.jsonl:1: .*another place"):
        run(Fake(), FOUR)
    assert table.read_text() == '{"clip": "a.mp4"}\n'


def test_a_full_disk_is_told_and_says_that_finished_rows_are_safe() -> None:
    told = r"Cannot write /dev/full.* finished rows are safe"
    with pytest.raises(OmniError, match=told), appending(Path("/dev/full")) as write:
        write([{"clip": "a"}])


def tiny_folder(path: Path) -> Path:
    model, processor = tiny()
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


def examples_manifest(path: Path) -> Path:
    """The bundled clips with the truth beside them."""
    found = []
    for truth in sorted((ROOT / "examples" / "clips").glob("*.json")):
        (clip,) = [other for other in truth.parent.glob(f"{truth.stem}.*") if other != truth]
        found.append(Example(clip, json.loads(truth.read_text())["label"]))
    write_manifest(path, found)
    return path


def test_a_kill_half_way_repeats_and_loses_no_clip(tmp_path: Path, capsys) -> None:
    manifest, out = examples_manifest(tmp_path / "m.jsonl"), tmp_path / "out"
    arguments = ["eval", str(manifest), "--out", str(out), "--batch-size", "2", "--json"]
    arguments += ["--model", str(tiny_folder(tmp_path / "model"))]
    table = out / "predictions.jsonl"
    command = [sys.executable, "-m", "omni.cli", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        while first.poll() is None and (not table.exists() or table.read_bytes().count(b"\n") < 2):
            time.sleep(0.01)
        os.kill(first.pid, signal.SIGKILL)
    assert first.returncode == -signal.SIGKILL
    before = table.read_bytes().rpartition(b"\n")[0] + b"\n"
    done = before.count(b"\n")
    assert 2 <= done < 20
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert f"{20 - done} answered, 0 errors, {done} there already" in printed.err
    assert table.read_bytes().startswith(before)  # what was there is kept as it was
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    assert len(rows) == 20 == len({(row["clip"], row["mode"]) for row in rows})
    assert json.loads(printed.out) == json.loads((out / "metrics.json").read_text())
    assert (out / "report.html").read_text().startswith("<!doctype html>")


# Clips that fail


def test_a_clip_that_cannot_be_read_is_listed_and_counts_as_wrong(run, tmp_path: Path) -> None:
    found = run(Fake(), [*FOUR[:3], ("bad", "sad")])
    think = found.metrics["runs"][0]
    assert (found.metrics["clips"], found.metrics["failed"], found.errors, think["failed"]) == (4, 1, 2, 1)
    assert think["war"]["value"] == 0.5 and think["confusion"] == [[1, 1, 0], [0, 1, 1]]
    assert think["calibration"]["bins"][0]["clips"] == 3
    failure = found.metrics["failures"][0]
    assert failure["clip"] == str(tmp_path / "3.mp4") and failure["code"] == "corrupt_media"
    html = (tmp_path / "out" / "report.html").read_text()
    assert "1 of 4 clips could not be read" in html and "3.mp4 is damaged. Record it again." in html


def test_a_clip_that_was_mended_is_tried_again_and_its_error_replaced(run, tmp_path: Path) -> None:
    run(Fake(), [*FOUR[:3], ("bad", "sad")])
    found = run(Fake(), FOUR)
    assert (found.done, found.known, found.metrics["failed"]) == (2, 6, 0)
    assert [row["status"] for row in rows_of(tmp_path)] == ["ok"] * 8


def test_one_clip_that_breaks_the_model_spoils_no_other_of_its_batch(run, tmp_path: Path) -> None:
    found = run(Fake(), [*FOUR[:3], ("odd", "sad")])
    assert found.metrics["failed"] == 1 and len(rows_of(tmp_path)) == 8
    assert {row["error"]["message"] for row in rows_of(tmp_path) if row["error"]} == {
        "RuntimeError: shapes do not match"
    }


def test_a_test_set_of_which_nothing_can_be_read_has_numbers_and_no_calibration(run) -> None:
    found = run(Fake(), [("bad", "sad"), ("bad2", "happy")])
    assert found.metrics["runs"][0]["war"]["value"] == 0 and found.metrics["runs"][0]["calibration"] is None


def test_reasons_are_judged_by_measured_cues_and_by_known_ones(run, tmp_path: Path) -> None:
    class Reasoning(Fake):
        def fields(self, texts: list[str], ask: Ask) -> Row:
            said = "The brows are lowered. The pitch is high." if ask.mode == "think" else ""
            claim = {"modality": "face", "cue": "brow_down", "polarity": 1, "verdict": "supported"}
            return super().fields(texts, ask) | {"thought": said, "evidence": [claim] if said else []}

    truth = {"label": "sad", "action_units": {"AU4": {"intensity": 0.05}}, "prosody": None}
    think, fast = run(Reasoning(), [(say("sad", 1), truth), (say("sad", 2), "sad")]).metrics["runs"]
    assert fast["reasons"] is None
    measured, known = think["reasons"]["measured"], think["reasons"]["known"]
    assert (measured["groundedness"]["value"], measured["claims"], measured["answers"]) == (1.0, 2, 2)
    assert (known["contradicted"]["value"], known["hallucinated_sense"]["value"], known["answers"]) == (1.0, 1.0, 1)
    html = (tmp_path / "out" / "report.html").read_text()
    assert "<h2>Reasons</h2>" in html and "known cues" in html


# A sense left out


def test_a_sense_that_is_left_out_is_new_answers_in_the_same_table(run, tmp_path: Path) -> None:
    fake, clips = Fake(), [(say("happy", 1), "happy"), (say("sad", 2), "happy")]
    assert run(fake, clips).done == 4
    found = run(fake, clips, without="audio")
    assert (found.done, found.known, found.metrics["without"]) == (4, 0, "audio")
    assert ", without their sound." in (tmp_path / "out" / "report.html").read_text()
    assert Counter(row["without"] for row in rows_of(tmp_path)) == {None: 4, "audio": 4}
    assert (run(fake, clips, without="audio").known, run(fake, clips).known) == (4, 4)
    with pytest.raises(OmniError, match="audio or video"):
        run(fake, clips, without="sound")


def test_what_is_known_of_a_sense_that_was_left_out_supports_no_claim(run) -> None:
    class Reasoning(Fake):
        def fields(self, texts: list[str], ask: Ask) -> Row:
            return super().fields(texts, ask) | {"thought": "The brows are lowered. The pitch is high."}

    truth = {"label": "sad", "action_units": {"AU4": {"intensity": 1.0}}, "prosody": {"pitch_st": 8.0}}
    for without, supported in (("", 1.0), ("audio", 0.5), ("video", 0.5)):
        found = run(Reasoning(), [(say("sad"), dict(truth))], modes=["think"], without=without).metrics["runs"][0]
        assert found["reasons"]["known"]["groundedness"]["value"] == supported


def test_a_face_without_any_action_unit_is_a_face(run) -> None:
    class Reasoning(Fake):
        def fields(self, texts: list[str], ask: Ask) -> Row:
            return super().fields(texts, ask) | {"thought": "There is no smile."}

    for units in ({}, "{}", {"AU12": None}):
        truth = {"label": "sad", "action_units": units, "prosody": None}
        found = run(Reasoning(), [(say("sad"), truth)], modes=["think"]).metrics["runs"][0]["reasons"]["known"]
        assert (found["groundedness"]["value"], found["hallucinated_sense"]["value"]) == (1.0, 0.0)


@pytest.mark.parametrize("cached", [False, True])
def test_a_model_gets_the_clip_without_that_sense(tmp_path: Path, cached: bool) -> None:
    options = {"features": tmp_path / "features"} if cached else {}
    folder = str(tiny_folder(tmp_path / "model"))
    clip = ROOT / "examples" / "clips" / "happy.mp4"
    assert load_answerer(folder, **options).encode(clip).modalities == ("video", "audio")
    assert load_answerer(folder, without="audio", **options).encode(clip).modalities == ("video",)
    blind = load_answerer(folder, without="video", **options)
    assert blind.encode(clip).modalities == ("audio",)
    with pytest.raises(ClipError, match="no sound"):
        blind.encode(ROOT / "examples" / "clips" / "mute.mp4")


# Labels


def test_words_are_mapped_into_the_space_and_every_mapping_is_listed(run) -> None:
    clips = [(say("Happiness", 1), "joy"), (say("sorrow", 2), "sad"), (say("bored", 3), "sad"), ("happy", "happy")]
    found = run(Fake(), clips, modes=["no-think"]).metrics
    assert {(one["where"], one["word"], one["label"]) for one in found["mappings"]} == {
        ("truth", "joy", "happy"),
        ("answer", "Happiness", "happy"),
        ("answer", "sorrow", "sad"),
    }
    assert found["unknown_words"] == [{"word": "bored", "clips": 1}]
    (one,) = found["runs"]
    assert one["unparsable"]["value"] == 0.25  # "happy", without its tag
    assert one["unknown"]["value"] == 0.25  # "bored"
    assert one["written"]["war"]["value"] == 0.5


def test_what_is_written_and_what_is_most_probable_are_both_measured(run) -> None:
    found = run(Fake(), [("no tags", "happy"), (say("happy"), "happy")], modes=["think"]).metrics["runs"][0]
    assert (found["war"]["value"], found["written"]["war"]["value"]) == (1.0, 0.5)
    assert found["malformed"]["value"] == 0.5


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        (["happy", "sadness"], "ekman7"),
        (["happy", "contempt"], "mafw11"),
        (["calm"], "ravdess8"),
        (["worried"], "mer6"),
    ],
)
def test_the_label_space_is_the_first_that_fits_the_manifest(run, labels, name) -> None:
    clips = [(say("happy", number), label) for number, label in enumerate(labels)]
    found = run(Fake(), clips, labels=None).metrics["labels"]
    assert found == {"name": name, "labels": list(label_space(name).labels)}


def test_labels_that_no_space_has_are_an_error_whose_advice_works(run) -> None:
    clips = [(say("bored", 1), "bored"), (say("happy", 2), "happy")]
    with pytest.raises(LabelError, match="in none of ekman7") as error:
        run(Fake(), clips, labels=None)
    advice = re.search(r"--labels (\S+),? or", str(error.value))
    assert advice and run(Fake(), clips, labels=advice[1].rstrip(",")).metrics["runs"][0]["war"]["value"] == 1.0
    with pytest.raises(LabelError, match="has labels that custom lacks: bored"):
        run(Fake(), clips, labels=PLAIN)


def test_the_label_space_does_not_depend_on_the_limit(run) -> None:
    clips = [(say("happy", 1), "happy"), (say("happy", 2), "contempt")]
    found = run(Fake(), clips, labels=None, limit=1).metrics
    assert found["labels"]["name"] == "mafw11" and found["clips"] == 1


def test_open_rows_alone_before_the_limit_are_measured_openly(run) -> None:
    clips = [(say("glad", 1), {"openset": "happy"}), (say("happy", 2), "happy")]
    found = run(Fake(), clips, labels=None, limit=1).metrics
    assert found["labels"] is None and found["runs"][0]["open"]["asked_openly"] == 1


def test_clips_without_an_answer_are_not_counted_as_the_same_answer(run) -> None:
    found = run(Fake(), [(say("happy"), "happy"), ("bad", "sad"), ("bad", "sad")]).metrics
    assert found["failed"] == 2 and found["comparisons"][0]["same_answer"]["value"] == 1.0
    assert run(Fake(), [("bad", "sad")]).metrics["comparisons"][0]["same_answer"] is None


def test_another_version_asks_anew(run, tmp_path: Path, monkeypatch) -> None:
    run(Fake(), FOUR)
    monkeypatch.setattr("omni.__version__", "another")
    assert run(Fake(), FOUR).known == 0 and {row["omni_version"] for row in rows_of(tmp_path)} >= {"another"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "r2"}, "Unknown protocol 'r2'. Use omni, r1-omni"),
        ({"modes": ["fast"]}, "has no mode 'fast'. Use think, no-think"),
        ({"protocol": "r1-omni", "modes": ["think"]}, "has no mode 'think'. Use verbatim"),
        ({"models": ["nowhere"]}, "no model folder nowhere"),
        ({"models": ["default", "default"]}, "each model once"),
        ({"wheels": "nowhere.json"}, "Cannot read the wheels nowhere.json"),
    ],
)
def test_arguments_are_checked_before_a_model_is_loaded(run, tmp_path: Path, options, message) -> None:
    fake = Fake()
    with pytest.raises(OmniError, match=message):
        run(fake, FOUR, **options)
    assert fake.loaded == [] and not (tmp_path / "out").exists()


def test_a_row_without_a_truth_is_an_error_that_names_it(run) -> None:
    with pytest.raises(OmniError, match=r"1\.mp4 has neither a 'label' nor an 'openset'"):
        run(Fake(), [FOUR[0], (say("sad"), {})])
    with pytest.raises(OmniError, match=r"rows without a 'label' cannot be judged by r1-omni"):
        run(Fake(), [FOUR[0], (say("sad"), {"openset": "sad"})], protocol="r1-omni")
    with pytest.raises(OmniError, match="has no rows"):
        run(Fake(), [])


# The released protocol


def test_the_released_protocol_compares_letter_by_letter(run, tmp_path: Path) -> None:
    texts = ["happy", "Happy", "happiness", "<answer>happy</answer>", "happy.", "sad"]
    found = run(Fake(), [(f"{text}#{i}", "happy") for i, text in enumerate(texts)], protocol="r1-omni").metrics
    (one,) = found["runs"]
    assert one["mode"] == "verbatim" and one["war"]["value"] == pytest.approx(1 / 6)
    assert one["confusion"] == [[1, 1, 4], [0, 0, 0]] and one["unparsable"]["value"] == pytest.approx(4 / 6)
    assert one["written"] is None and one["calibration"] is None and found["comparisons"] == []
    html = (tmp_path / "out" / "report.html").read_text()
    assert "Protocol r1-omni: the released evaluation question" in html and "letter by letter" in html


def test_the_report_says_which_protocol_it_was(run, tmp_path: Path) -> None:
    run(Fake(), FOUR)
    assert "Protocol omni: " in (tmp_path / "out" / "report.html").read_text()


def test_the_released_protocol_asks_the_released_question_and_nothing_else(tmp_path: Path, monkeypatch) -> None:
    asked: list[str] = []
    build = generate.build_inputs

    def spy(model, processor, clips, texts):
        asked.extend(texts)
        return build(model, processor, clips, texts)

    monkeypatch.setattr(generate, "build_inputs", spy)
    answerer = load_answerer(str(tiny_folder(tmp_path / "model")))
    clip = answerer.encode(ROOT / "examples" / "clips" / "happy.mp4")
    (row,) = answerer.answer([clip], Ask("a question of the manifest", label_space("ekman7"), VERBATIM))
    assert asked == [LABEL_QUESTION] and set(row) == {"text"} and row["text"] == row["text"].strip()


# An open vocabulary


def test_rows_without_a_label_are_asked_without_a_list_and_scored_on_wheels(run, tmp_path: Path) -> None:
    fake = Fake()
    clips = [(say("angry, anxious", 1), {"openset": "angry, tense"}), (say("glad, flarb", 2), {"openset": ["happy"]})]
    found = run(fake, clips, labels=None, modes=["no-think"])
    assert {ask.space for _, ask in fake.asked} == {OPEN} and found.metrics["labels"] is None
    reports = found.metrics["runs"][0]["open"]
    assert reports["asked_openly"] == 2 and "war" not in found.metrics["runs"][0]
    assert reports["published"]["f1"] == 1.0 and reports["strict"]["f1"] < 0.8  # "flarb" is free in one of them
    assert reports["published"]["mean_length"] == reports["strict"]["mean_length"] == 2.0
    html = (tmp_path / "out" / "report.html").read_text()
    assert "published" in html and "strict" in html and "words an answer, mean" in html
    assert "words an answer" in evaluation.table(found.metrics)


def test_a_prompt_of_an_open_vocabulary_names_no_emotion() -> None:
    from omni.answer import prompt

    text = prompt(None, OPEN, think=False)
    assert not any(label in text for label in label_space("ekman7").labels)


def test_a_clip_that_fails_has_answered_no_word(run) -> None:
    found = run(Fake(), [(say("angry"), {"openset": "angry"}), ("bad", {"openset": "sad"})], labels=None)
    assert found.metrics["runs"][0]["open"]["strict"]["f1"] == 0.5


def test_labels_and_open_words_can_stand_in_one_row(run) -> None:
    found = run(Fake(), [(say("happy"), {"label": "happy", "openset": "happy, amazed"})]).metrics["runs"][0]
    assert found["war"]["value"] == 1.0 and found["open"]["asked_openly"] == 0
    assert found["open"]["strict"]["precision"] == 1.0 and found["open"]["strict"]["recall"] < 1


def test_wheels_can_be_given_as_a_file(run, tmp_path: Path) -> None:
    path = tmp_path / "wheels.json"
    given = {"name": "mine", "words": {"upset": ["cross"], "cross": ["cross"]}, "wheels": {"w": {"cross": "anger"}}}
    path.write_text(json.dumps(given))
    found = run(Fake(), [(say("upset"), {"openset": "cross"})], labels=None, wheels=path).metrics
    assert found["wheels"] == "mine" and found["runs"][0]["open"]["published"]["f1"] == 1.0


@pytest.mark.parametrize("content", ["[]", "{", '{"words": {"a": "b"}, "wheels": {"w": {"b": "c"}}}', '{"words": {}}'])
def test_a_file_without_wheels_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "w.json").write_text(content)
    with pytest.raises(LabelError, match=r"w\.json"):
        read_wheels(tmp_path / "w.json")


# The page


class Page(HTMLParser):
    """Tags, attributes and whether every tag is closed."""

    VOID = frozenset(("meta", "br"))

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_stands_alone(run, tmp_path: Path) -> None:
    run(Fake(), FOUR)
    text = (tmp_path / "out" / "report.html").read_text()
    seen = Page(text)
    tags = [tag for tag, _ in seen.found]
    assert seen.open == [] and tags.count("svg") == 6  # confusion matrix, calibration, risk and coverage, for each mode
    assert not {"script", "link", "img", "iframe"} & set(tags)
    assert not [attrs for _, attrs in seen.found if {"src", "href", "xlink:href"} & set(attrs)]
    assert "url(" not in text and "@import" not in text
    for shown in (
        "WAR",
        "UAR",
        "weighted F1",
        "ECE",
        "Brier",
        "unparsable",
        "Think against no-think",
        "Recall of each",
    ):
        assert shown in text


def test_what_models_write_is_text_and_no_markup(run, tmp_path: Path) -> None:
    run(Fake(), [(say("<script>alert(1)</script>", 1), "happy"), (say("sad", 2), "happy")])
    text = (tmp_path / "out" / "report.html").read_text()
    assert "<b>" not in text and "A &amp; &lt;b&gt;" in text and "<script>" not in text


def test_the_page_needs_nothing_but_the_metrics(run, tmp_path: Path) -> None:
    run(Fake(), FOUR)
    saved = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert page(saved) == (tmp_path / "out" / "report.html").read_text()


def test_the_matrix_is_darkest_where_most_of_a_class_went(run) -> None:
    counts = run(Fake(), FOUR).metrics["runs"][0]["confusion"]
    picture = evaluation.page.__globals__["confusion_picture"](counts, ["happy", "sad"])
    shares = [float(share) for share in re.findall(r'fill-opacity="([0-9.]+)"', picture)]
    assert shares == [0.5, 0.5, 0.0, 0.0, 1.0, 0.0]
    assert re.findall(r'text-anchor="middle">(\d+)<', picture) == ["1", "1", "2"]


# The command


@pytest.fixture
def command(tmp_path: Path, monkeypatch, capsys):
    """Run `omni eval` with a fake; gives exit code, stdout and stderr."""
    fake = Fake()
    monkeypatch.setattr(evaluation, "load_answerer", lambda name, **options: fake.load(name))
    monkeypatch.setenv("COLUMNS", "200")
    for number, (content, _) in enumerate(FOUR):
        (tmp_path / f"{number}.mp4").write_text(content)
    examples = [Example(tmp_path / f"{number}.mp4", label) for number, (_, label) in enumerate(FOUR)]
    write_manifest(tmp_path / "m.jsonl", examples)

    def command(*arguments: object) -> tuple[int, str, str]:
        code = main(["eval", *map(str, arguments)])
        return code, *capsys.readouterr()

    return command


def test_the_command_prints_the_runs_and_where_the_report_is(command, tmp_path: Path) -> None:
    code, out, err = command(tmp_path / "m.jsonl", "--out", tmp_path / "out", "--labels", PLAIN)
    assert code == 0
    assert out.splitlines()[0].split() == [
        *("model", "mode", "WAR", "UAR", "weighted", "F1", "written", "WAR", "ECE", "unparsable")
    ]
    assert [line.split()[:3] for line in out.splitlines()[1:]] == [
        ["default", "think", "0.750"],
        ["default", "no-think", "0.500"],
    ]
    assert err == f"8 answered, 0 errors, 0 there already: {tmp_path}/out/report.html\n"


def test_json_is_one_object_and_nothing_else(command, tmp_path: Path) -> None:
    code, out, _ = command(tmp_path / "m.jsonl", "--out", tmp_path / "out", "--mode", "think", "--json")
    assert code == 0 and out.count("\n") == 1
    assert json.loads(out) == json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert [one["mode"] for one in json.loads(out)["runs"]] == ["think"]


def test_clips_that_failed_are_exit_3_and_what_can_be_put_right_one_line_and_exit_2(command, tmp_path: Path) -> None:
    (tmp_path / "0.mp4").write_text("bad")
    assert command(tmp_path / "m.jsonl", "--out", tmp_path / "out")[0] == 3
    code, out, err = command(tmp_path / "none.jsonl", "--out", tmp_path / "out")
    assert (code, out) == (2, "") and err.startswith("omni: There is no manifest at ") and err.count("\n") == 1


def test_the_default_is_known_by_its_adapters(tmp_path: Path) -> None:
    assert len(fingerprint("default").sha256) == 64 and fingerprint("hub:someone/model").sha256 == ""


# The document


def test_the_published_rows_fit_the_test_sets_that_the_document_names() -> None:
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| [\w.-]+ \| ([\d.]+) / [\d.]+ \| ([\d.]+) / [\d.]+ \| ([\d.]+) / [\d.]+ \|", text, re.M)
    assert len(rows) == 4

    def fits(war: str, clips: int) -> bool:
        return any(f"{100 * right / clips:.2f}" == war for right in range(clips + 1))

    assert all(fits(dfew, 2341) and fits(ravdess, 300) for dfew, _, ravdess in rows)
    assert not any(fits(ravdess, 1440) for *_, ravdess in rows[:1])
    assert all(fits(mafw, clips) for _, mafw, _ in rows for clips in (1477, 1576, 1933, 2032))


def test_the_document_asks_what_the_released_protocol_asks() -> None:
    text = " ".join((ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8").split())
    assert LABEL_QUESTION.strip() in text


def test_the_hash_of_an_adapter_changes_with_its_base(tmp_path: Path) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    base.mkdir(), adapter.mkdir()
    (base / "model.safetensors").write_bytes(b"one")
    (adapter / "adapter_model.safetensors").write_bytes(b"trained")
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    before = fingerprint(str(adapter))
    assert before == fingerprint(str(adapter))
    (base / "model.safetensors").write_bytes(b"two")
    assert fingerprint(str(adapter)).sha256 != before.sha256
