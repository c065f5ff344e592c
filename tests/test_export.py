"""Exports as their readers see them: Label Studio's own checks and converter, an EAF reader, csv, the prompt's inverse.

Label Studio's package is heavy and in no extra: requirements/label-studio.txt.
"""

from __future__ import annotations

import copy
import csv
import json
import os
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse
from xml.etree import ElementTree as ET

import pytest

from omni.answer import format_answer, parse_answer
from omni.cli import main
from omni.corrections import Imported, import_corrections
from omni.errors import ManifestError
from omni.export import FILES, FOLDERS, Exported, export_table
from omni.export.label_studio import RATE
from omni.journal import replace_file
from omni.label_row import COLUMNS
from omni.label_table import FORMATS, encode_table
from omni.manifest import read_manifest

Row = dict[str, Any]
CLIPS = Path(__file__).parent.parent / "examples" / "clips"
PROBABILITIES = {"angry": 0.2, "happy": 0.7, "sad": 0.1}


def cue(name: str | None, t0: float | None, t1: float | None, modality: str = "video", **more: Any) -> Row:
    facts = {"sentence": "The lips smile.", "modality": modality, "cue": name, "polarity": 1}
    return facts | {"verdict": "supported", "t0": t0, "t1": t1} | more


def answered(clip: str, label: str = "happy", confidence: float = 0.7, **more: Any) -> Row:
    """A row of omni label with an answer."""
    facts = {
        "clip": clip, "sha256": "ab" * 32, "status": "ok", "label": label, "confidence": confidence,
        "labels": PROBABILITIES, "thought": "The lips smile.", "well_formed": True, "modalities": ["video", "audio"],
        "duration_s": 2.0, "evidence": [], "model": "default", "omni_version": "1", "question": "Which emotion?",
        "think": True, "warnings": [], "text": "",
    }  # fmt: skip
    return dict.fromkeys(COLUMNS) | facts | more


def failed(clip: str) -> Row:
    error = {"code": "corrupt_media", "message": "Record it again."}
    return dict.fromkeys(COLUMNS) | {"clip": clip, "status": "error", "error": error, "evidence": []}


def table_of(folder: Path, *rows: Row, name: str = "labels.jsonl") -> Path:
    path = folder / name
    path.write_bytes(encode_table(rows, path.suffix))
    return path


def exported(folder: Path, to: str, *rows: Row) -> Path:
    """Where the rows were exported to."""
    out = folder / "out"
    export_table(table_of(folder, *rows), to, out, folder)
    return out


def tasks_of(folder: Path, *rows: Row) -> tuple[list[Row], str]:
    """Tasks and labelling page for Label Studio."""
    out = exported(folder, "label-studio", *rows)
    return json.loads((out / "tasks.json").read_text(encoding="utf-8")), (out / "config.xml").read_text(
        encoding="utf-8"
    )


@pytest.mark.parametrize("to", [*FOLDERS, *FILES])
def test_rows_with_errors_are_left_out_and_counted(
    to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    table_of(tmp_path, answered("a.mp4"), failed("broken.mp4"))
    assert main(["export", "labels.jsonl", "--to", to, "--out", "out"]) == 0
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "1 rows written to out; 1 left out, their status is error\n")
    written = [tmp_path / "out"] if to in FILES else list((tmp_path / "out").iterdir())
    assert "a.mp4" in "".join(path.read_text(encoding="utf-8") for path in written)
    assert not any("broken" in path.name or "broken" in path.read_text(encoding="utf-8") for path in written)


@pytest.mark.parametrize("to", [*FOLDERS, *FILES])
@pytest.mark.parametrize("suffix", [suffix for suffix in FORMATS if suffix != ".jsonl"])
def test_a_table_is_exported_the_same_from_each_of_its_formats(to: str, suffix: str, tmp_path: Path) -> None:
    rows = [answered("a.mp4"), answered("b.mp4", thought="", think=False), failed("c.mp4")]
    rows[0]["transcript"] = "=1+1 is two"
    contents = []
    for name in ("one.jsonl", f"two{suffix}"):
        out = tmp_path / f"{name}.out"
        assert export_table(table_of(tmp_path, *rows, name=name), to, out, tmp_path) == Exported(2, 1)
        files = [out] if to in FILES else sorted(out.iterdir())
        lines = [(file.name if to in FOLDERS else "", file.read_text(encoding="utf-8").splitlines()) for file in files]
        contents.append([(file, [line for line in text if "DATE=" not in line]) for file, text in lines])
    assert contents[0] == contents[1]


def test_what_cannot_be_exported_is_said_with_what_to_do(tmp_path: Path) -> None:
    table = table_of(tmp_path, answered("a.mp4"))
    empty = table_of(tmp_path, failed("a.mp4"), name="errors.jsonl")
    foreign = tmp_path / "foreign.jsonl"
    foreign.write_text('{"clip": "a.mp4"}\n[1]\n')
    outside = table_of(tmp_path, answered("/elsewhere/a.mp4"), name="outside.jsonl")
    for source, to, out, advice in [
        (table, "praat", "out", "Use one of label-studio, elan, csv, sharegpt"),
        (table, "csv", "labels.jsonl", "Give --out another name"),
        (table, "elan", "labels.jsonl/x", "Choose another --out"),
        (empty, "csv", "out", "omni label --retry-errors"),
        (foreign, "csv", "out", "Export what omni label wrote"),
        (tmp_path / "no.csv", "csv", "out", "Write one with omni label"),
        (outside, "label-studio", "out", "Give --root a folder above all clips"),
    ]:
        with pytest.raises(ManifestError, match=advice):
            export_table(source, to, tmp_path / out, tmp_path)


# Label Studio


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"evidence": [cue("smile", 0.5, 1.2), cue(None, None, None, "audio", verdict="uncheckable")]},
        {"thought": "", "think": False},
        {"label": "wistful, calm", "labels": None, "confidence": None},
        {"label": None, "labels": None, "confidence": None},
        {"label": "a \"<&>' b", "labels": {"a \"<&>' b": 0.5, "other": 0.5}},
    ],
    ids=["plain", "evidence", "no thought", "open", "open without a label", "odd label"],
)
def test_label_studio_takes_page_tasks_and_predictions(more: Row, tmp_path: Path) -> None:
    interface = pytest.importorskip("label_studio_sdk.label_interface").LabelInterface
    (task,), config = tasks_of(tmp_path, answered("a.mp4", **more))
    page = interface(config)
    page.validate()
    (prediction,) = task["predictions"]
    assert page.validate_prediction(prediction, return_errors=True) == []
    assert page.validate_task({"data": task["data"]})
    wrong = copy.deepcopy(prediction) | {"score": 7}
    assert page.validate_prediction(wrong, return_errors=True)  # the judge can say no


def test_the_least_certain_clip_comes_first_with_its_confidence_as_score(tmp_path: Path) -> None:
    rows = [answered("sure.mp4", confidence=0.9), answered("torn.mp4", confidence=0.4)]
    tasks, _ = tasks_of(tmp_path, *rows)
    assert [task["predictions"][0]["score"] for task in tasks] == [0.4, 0.9]
    assert tasks[0]["data"]["clip"] == "/data/local-files/?d=torn.mp4"


def test_an_answer_that_abstains_chooses_nothing_for_the_human(tmp_path: Path) -> None:
    (task,), _ = tasks_of(tmp_path, answered("a.mp4", label="uncertain"))
    assert [region["from_name"] for region in task["predictions"][0]["result"]] == ["rationale"]
    assert task["data"]["omni"]["label"] is None


def test_a_clip_with_any_name_is_found_by_its_address(tmp_path: Path) -> None:
    name = "take #1 & 50% ?.mp4"
    (task,), _ = tasks_of(tmp_path, answered(f"a b/{name}"))
    assert unquote(urlparse(task["data"]["clip"]).query) == f"d=a b/{name}"


def test_the_timeline_shows_each_cue_in_frames_of_the_page(tmp_path: Path) -> None:
    row = answered("a.mp4", evidence=[cue("smile", 0.5, 1.2), cue("pitch_high", None, None, "audio")])
    (task,), config = tasks_of(tmp_path, row)
    shown = {region["value"]["timelinelabels"][0]: region for region in task["predictions"][0]["result"][2:]}
    assert shown["smile"]["value"]["ranges"] == [{"start": 1 + int(0.5 * RATE), "end": 1 + int(1.2 * RATE)}]
    assert shown["pitch_high"]["value"]["ranges"] == [{"start": 1, "end": 1 + 2 * RATE}]
    assert shown["smile"]["meta"] == {"text": ["video, supported: The lips smile."]}
    page = ET.fromstring(config)
    assert [label.get("value") for label in page.findall("TimelineLabels/Label")] == ["pitch_high", "smile"]
    assert page.find("Video").attrib["frameRate"] == str(RATE)


@pytest.mark.parametrize("to", ["label-studio", "elan", "csv"])
def test_a_denial_is_exported_as_a_denial(to: str, tmp_path: Path) -> None:
    denied = cue("brow_down", 0.0, 2.0, "face", polarity=-1, sentence="No frown.")
    out = exported(tmp_path, to, answered("a.mp4", evidence=[denied, cue("smile", 0.5, 1.2)]))
    for path in [out] if to in FILES else out.iterdir():
        text = path.read_text(encoding="utf-8")
        assert "no brow_down" in text and "no smile" not in text
        assert text.count("brow_down") == text.count("no brow_down")


# ELAN


def eaf(folder: Path, row: Row) -> Any:
    reader = pytest.importorskip("pympi.Elan")
    (path,) = exported(folder, "elan", row).iterdir()
    return reader.Eaf(str(path))


def test_elan_reads_a_tier_for_each_modality_and_what_was_said(tmp_path: Path) -> None:
    cues = [cue("smile", 0.5, 1.2), cue("pitch_high", 0.0, 2.0, "audio", verdict="contradicted")]
    document = eaf(tmp_path, answered("clips/a b.mp4", evidence=cues))
    assert set(document.get_tier_names()) == {"label", "rationale", "video", "audio"}
    assert document.get_annotation_data_for_tier("label") == [(0, 2000, "happy")]
    assert document.get_annotation_data_for_tier("rationale") == [(0, 2000, "The lips smile.")]
    assert document.get_annotation_data_for_tier("video") == [(500, 1200, "smile (supported)")]
    assert document.get_annotation_data_for_tier("audio") == [(0, 2000, "pitch_high (contradicted)")]
    (media,) = document.media_descriptors
    assert Path(unquote(urlparse(media["MEDIA_URL"]).path)) == tmp_path / "clips" / "a b.mp4"
    assert (media["RELATIVE_MEDIA_URL"], media["MIME_TYPE"]) == ("./a%20b.mp4", "video/mp4")


def test_no_two_annotations_of_a_tier_overlap_and_none_is_lost(tmp_path: Path) -> None:
    times = [(0.0, 1.0), (0.5, 1.5), (0.6, 0.7), (1.0, 2.0), (1.5, 1.5), (1.5, 1.5)]
    cues = [cue(f"cue{number}", *time) for number, time in enumerate(times)]
    document = eaf(tmp_path, answered("a.mp4", evidence=cues))
    names = []
    for tier in document.get_tier_names():
        notes = sorted(document.get_annotation_data_for_tier(tier))
        assert all(first[1] <= second[0] for first, second in pairwise(notes)), tier
        assert all(start < end for start, end, _ in notes)
        names += [text for _, _, text in notes if text.startswith("cue")]
    assert sorted(names) == [f"cue{number} (supported)" for number in range(len(times))]


def test_a_still_and_a_text_with_control_characters_are_documents_too(tmp_path: Path) -> None:
    document = eaf(tmp_path, answered("face.png", duration_s=0.0, thought="Bell \x07, <tag> & \ufffe."))
    assert document.get_annotation_data_for_tier("rationale") == [(0, 1, "Bell  , <tag> &  .")]


def test_clips_of_one_name_get_documents_of_their_own(tmp_path: Path) -> None:
    out = exported(tmp_path, "elan", *(answered(name) for name in ("a/x.mp4", "b/X.mp4", "b/x-2.mp4", "x.wav")))
    assert len({path.name.casefold() for path in out.iterdir()}) == 4


# csv and ShareGPT


def test_the_flat_table_has_a_column_for_each_label_and_no_formula(tmp_path: Path) -> None:
    row = answered("a.mp4", thought='=HYPERLINK("x")', evidence=[cue("smile", 0.5, 1.2)])
    (line,) = csv.DictReader(exported(tmp_path, "csv", row).read_text(encoding="utf-8").splitlines())
    assert {name: float(line[f"p_{name}"]) for name in PROBABILITIES} == PROBABILITIES
    assert line["evidence"] == "smile (video, 0.50-1.20 s, supported)"
    assert line["rationale"].startswith("'=")
    assert line["modalities"] == "video; audio"


def test_a_sharegpt_row_asks_with_its_clip_and_answers_with_tags(tmp_path: Path) -> None:
    rows = [answered("a.mp4", transcript="Hello <video> there"), answered("voice.wav", modalities=["audio"])]
    rows += [answered("open.mp4", labels=None, label="wistful"), answered("none.mp4", labels=None, label=None)]
    rows.append(answered("unsure.mp4", label="uncertain"))
    lines = exported(tmp_path, "sharegpt", *rows).read_text(encoding="utf-8").splitlines()
    video, audio, wide = map(json.loads, lines)  # nothing to learn from a row without a label
    assert video["videos"] == [str(tmp_path / "a.mp4")]
    assert audio["audios"] == [str(tmp_path / "voice.wav")]
    for row in (video, audio, wide):
        asked, said = row["messages"]
        assert asked["content"].count("<video>") == len(row["videos"])
        assert asked["content"].count("<audio>") == len(row["audios"])
        assert parse_answer(said["content"]).well_formed
    assert "Emotions: angry, happy, sad" in video["messages"][0]["content"]
    assert parse_answer(wide["messages"][1]["content"]).label == "wistful"


# And back


def said(label: str | None = None, rationale: str | None = None, *, by: Any = 1, **more: Any) -> Row:
    """What a person changed of a prediction; None leaves the model's."""
    return {"label": label, "rationale": rationale, "by": by, "more": more}


def annotation(task: Row, person: Row, number: int) -> Row:
    """An annotation as Label Studio exports it, made from the prediction by changing what the person changed."""
    result = copy.deepcopy(task["predictions"][0]["result"])
    for region in result:
        changed = person.get(region["from_name"])
        if changed is not None:
            region["value"] = {name: [changed] for name in region["value"]}
            region["origin"] = "prediction-changed"
    facts = {"id": number, "completed_by": person["by"], "was_cancelled": False, "ground_truth": False}
    return facts | {"updated_at": f"2026-11-27T02:00:{number:02}Z", "result": result} | person["more"]


def corrected(folder: Path, *rows_and_people: tuple[Row, list[Row]]) -> Path:
    """Label Studio's JSON export of the tasks that people annotated."""
    exports = []
    for number, (row, people) in enumerate(rows_and_people, start=1):
        (task,), _ = tasks_of(folder, row)
        annotations = [annotation(task, person, index) for index, person in enumerate(people, start=1)]
        exports.append({"id": number, "data": task["data"], "annotations": annotations})
    path = folder / "export.json"
    path.write_text(json.dumps(exports), encoding="utf-8")
    return path


def imported(folder: Path, export: Path) -> tuple[Imported, list[Any], list[Row]]:
    """What was counted, the manifest, the pairs."""
    out, pairs = folder / "manifest.jsonl", folder / "manifest.pairs.jsonl"
    counts = import_corrections(export, out, pairs, folder)
    return counts, read_manifest(out), [json.loads(line) for line in pairs.read_text(encoding="utf-8").splitlines()]


def test_a_corrected_answer_becomes_a_row_and_is_preferred_to_the_models(tmp_path: Path) -> None:
    export = corrected(tmp_path, (answered("a.mp4"), [said("sad", "The lips press.")]))
    counts, (row,), (pair,) = imported(tmp_path, export)
    assert counts == Imported(confirmed=0, corrected=1, pairs=1, unanswered=0, disputed=0)
    assert (row.clip, row.label, row.rationale) == (tmp_path / "a.mp4", "sad", "The lips press.")
    assert (row.question, row.extra["review"]) == ("Which emotion?", "corrected")
    assert pair["chosen"] == format_answer("sad", "The lips press.")
    assert pair["rejected"] == format_answer("happy", "The lips smile.")
    assert (pair["changed"], pair["annotator"]) == (["label", "rationale"], "1")


@pytest.mark.parametrize("changed", ["label", "rationale"])
def test_one_part_changed_keeps_the_other_and_is_named(changed: str, tmp_path: Path) -> None:
    new = {"label": "sad", "rationale": "The lips press."}
    _, (row,), (pair,) = imported(tmp_path, corrected(tmp_path, (answered("a.mp4"), [said(**{changed: new[changed]})])))
    whole = {"label": "happy", "rationale": "The lips smile."} | {changed: new[changed]}
    assert {"label": row.label, "rationale": row.rationale} == whole
    assert pair["changed"] == [changed]


def test_the_cold_start_learns_the_humans_words_from_the_manifest(tmp_path: Path) -> None:
    from omni.collate import RowOptions, encode_examples, sft_rows
    from omni.features import FeatureCache
    from omni.tiny import tiny

    shutil.copy(CLIPS / "happy.mp4", tmp_path / "a.mp4")
    row = answered("a.mp4", transcript="I made it.")
    imported(tmp_path, corrected(tmp_path, (row, [said("sad", "The lips press.")])))
    encoded, left_out = encode_examples(
        [str(tmp_path / "manifest.jsonl")], FeatureCache(tmp_path / "features", *tiny())
    )
    rows = sft_rows(encoded, RowOptions(misread=0, blind=0, mute=0, nothing=0, words=1))
    assert not left_out
    reasoned, bare = sorted(map(str, rows), key=len, reverse=True)
    assert repr(format_answer("sad", "The lips press."))[1:-1] in reasoned
    assert format_answer("sad") in bare
    assert '"I made it."' in reasoned


def test_a_confirmed_answer_is_a_row_and_no_pair(tmp_path: Path) -> None:
    row = answered("a.mp4", thought="The lips\n smile.", evidence=[cue("smile", 0.5, 1.2)])
    counts, (example,), pairs = imported(tmp_path, corrected(tmp_path, (row, [said()])))
    assert (counts.confirmed, pairs) == (1, [])
    assert (example.label, example.rationale, example.extra["review"]) == ("happy", "The lips smile.", "confirmed")


def test_skipped_and_empty_annotations_are_left_out_and_counted(tmp_path: Path) -> None:
    skipped = said("sad", was_cancelled=True)
    taken_back = [said("sad"), said("sad", was_cancelled=True)]
    tasks = [(answered("a.mp4"), people) for people in ([skipped], [], taken_back, [said(result=[])])]
    counts, rows, pairs = imported(tmp_path, corrected(tmp_path, *tasks))
    assert (counts.unanswered, rows, pairs) == (4, [], [])
    assert counts.lines()[1] == "left out: 4 skipped or without a label"


def test_the_majority_of_annotators_decides_and_makes_one_pair_for_each_answer(tmp_path: Path) -> None:
    people = [said("sad", by=1), said("angry", by=2), said("sad", "The lips press.", by={"id": 3}), said("sad", by=4)]
    counts, (row,), pairs = imported(tmp_path, corrected(tmp_path, (answered("a.mp4"), people)))
    assert (row.label, row.rationale) == ("sad", "The lips press.")
    assert (row.extra["annotators"], row.extra["agreeing"], counts.pairs) == (4, 3, 2)
    chosen = {format_answer("sad", "The lips press."), format_answer("sad", "The lips smile.")}
    assert {pair["chosen"] for pair in pairs} == chosen


def test_without_a_majority_a_task_is_left_out_unless_one_answer_is_ground_truth(tmp_path: Path) -> None:
    split = [said("sad", by=1), said("angry", by=2)]
    settled = [said("sad", by=1), said("angry", by=2, ground_truth=True)]
    export = corrected(tmp_path, (answered("a.mp4"), split), (answered("b.mp4"), settled))
    counts, (row,), pairs = imported(tmp_path, export)
    assert (counts.disputed, row.clip.name, row.label, len(pairs)) == (1, "b.mp4", "angry", 1)


def test_those_agree_who_gave_the_label_also_where_one_of_them_is_ground_truth(tmp_path: Path) -> None:
    people = [said("fear", by=1), said("fear", by=2, ground_truth=True), said("sad", by=3)]
    _, (row,), _ = imported(tmp_path, corrected(tmp_path, (answered("a.mp4"), people)))
    assert (row.label, row.extra["annotators"], row.extra["agreeing"]) == ("fear", 3, 2)


def test_a_half_character_in_a_correction_costs_no_export(tmp_path: Path) -> None:
    export = corrected(tmp_path, (answered("a.mp4"), [said("sad", "Lips press \ud83d")]))
    _, (row,), _ = imported(tmp_path, export)
    assert row.rationale == "Lips press ?"


def test_manifest_and_pairs_are_two_files(tmp_path: Path) -> None:
    export = corrected(tmp_path, (answered("a.mp4"), [said("sad")]))
    with pytest.raises(ManifestError, match="the same file"):
        import_corrections(export, tmp_path / "m.jsonl", tmp_path / "m.jsonl", tmp_path)


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ManifestError, match="Cannot write"):
        replace_file(tmp_path / "folder", b"words")
    assert os.listdir(tmp_path) == ["folder"]


def test_an_annotator_who_thinks_again_counts_once(tmp_path: Path) -> None:
    people = [said("sad", by=1), said("sad", by=1), said("angry", by=1), said("angry", by=2)]
    _, (row,), _ = imported(tmp_path, corrected(tmp_path, (answered("a.mp4"), people)))
    assert (row.label, row.extra["annotators"]) == ("angry", 2)


def test_an_open_vocabulary_and_answers_without_reasons_come_back_too(tmp_path: Path) -> None:
    wide = answered("a.mp4", labels=None, label="wistful", confidence=None)
    bare = answered("b.mp4", thought="", think=False)
    _, rows, pairs = imported(tmp_path, corrected(tmp_path, (wide, [said("calm")]), (bare, [said("sad")])))
    assert [(row.label, row.rationale) for row in rows] == [("calm", "The lips smile."), ("sad", None)]
    assert pairs[1]["rejected"] == format_answer("happy")


def test_what_is_no_export_of_ours_is_refused_with_what_to_do(tmp_path: Path) -> None:
    tagged = corrected(tmp_path, (answered("a.mp4"), [said(None, "</think>")])).read_text(encoding="utf-8")
    export = tmp_path / "export.json"
    for content, advice in [
        ("label,rationale\n", "Choose Export, JSON"),
        ('{"id": 1}', "Choose Export, JSON"),
        ('[{"id": 1, "label": "sad"}]', "not JSON-MIN"),
        ('[{"id": 7, "data": {}, "annotations": [{"id": 1}]}]', "Choose Export, JSON"),
        ('[{"id": 7, "data": {}, "annotations": [3]}]', "Choose Export, JSON"),
        ('[{"id": 7, "data": {}, "annotations": []}]', "task 7 .* that omni export wrote"),
        (tagged, "task 1: .*Edit it in Label Studio"),
    ]:
        export.write_text(content, encoding="utf-8")
        with pytest.raises(ManifestError, match=advice):
            imported(tmp_path, export)
    assert not (tmp_path / "manifest.jsonl").exists()


def test_label_studios_own_converter_reads_what_we_read(tmp_path: Path) -> None:
    converter = pytest.importorskip("label_studio_sdk.converter.converter").Converter
    interface = pytest.importorskip("label_studio_sdk.label_interface").LabelInterface
    row = answered("a.mp4", evidence=[cue("smile", 0.5, 1.2)])
    (_,), config = tasks_of(tmp_path, row)
    export = corrected(tmp_path, (row, [said("sad", "The lips press.")]))
    (task,) = json.loads(export.read_text(encoding="utf-8"))
    assert interface(config).validate_annotation(task["annotations"][0])
    page = converter(config, str(tmp_path), download_resources=False)
    page.convert(str(export), str(tmp_path / "theirs"), "CSV", is_dir=False)
    (theirs,) = csv.DictReader((tmp_path / "theirs" / "result.csv").read_text(encoding="utf-8").splitlines())
    _, (ours,), _ = imported(tmp_path, export)
    assert (theirs["label"], theirs["rationale"]) == (ours.label, ours.rationale)


def test_the_command_writes_manifest_and_pairs_and_says_how_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    corrected(tmp_path, (answered("clips/a.mp4"), [said("sad")]), (answered("clips/b.mp4"), [said()]))
    assert main(["import-corrections", "export.json", "--out", "clips/manifest.jsonl"]) == 0
    assert capsys.readouterr().err == "2 rows: 1 confirmed, 1 corrected; 1 preference pairs\n"
    assert [row.clip.name for row in read_manifest("clips/manifest.jsonl")] == ["a.mp4", "b.mp4"]
    assert len(Path("clips/manifest.pairs.jsonl").read_text(encoding="utf-8").splitlines()) == 1
