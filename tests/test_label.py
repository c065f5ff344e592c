"""Labelling: a table that survives kills, repeats nothing and hides nothing.

In most tests the model is a fake at the edge (`Labeller`): it takes any bytes for a clip and gives one answer, so that
they are about the table. The others label real clips with the tiny random model of `omni/tiny.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from io import BytesIO, TextIOWrapper
from pathlib import Path

import numpy as np
import pytest

from omni.answer import QUESTION, Answer
from omni.cli import main
from omni.clip import Clip, Limits
from omni.clip_writer import write_clip
from omni.errors import ClipError, ManifestError, OmniError
from omni.label import LabelSummary, label, parse_batch_size
from omni.label_journal import Known
from omni.label_progress import progress
from omni.label_row import COLUMNS
from omni.label_run import ENCODED
from omni.label_sources import Shard, find_clips, parse_shard
from omni.label_table import FORMATS, decode_table, encode_table
from omni.lock import locked
from omni.manifest import Example, write_manifest
from omni.tiny import tiny
from tests.fake_labeller import Fake, folder_of, journal_of, lines_of, run, table_of
from tests.kill_labeller import kill_many_times, rows_without_time

ROOT = Path(__file__).parent.parent
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


def counts(summary: LabelSummary) -> tuple[int, int, int]:
    assert summary.left == 0
    return summary.ok, summary.errors, summary.known


# ---- rows ----


def test_every_clip_gets_one_row_with_all_columns(tmp_path: Path) -> None:
    fake, out = Fake(), tmp_path / "new" / "out.jsonl"
    assert counts(run(folder_of(tmp_path, "a", "bad", "c"), out, fake)) == (2, 1, 0)
    good, bad, _ = rows = table_of(out)
    assert [list(row) for row in rows] == [list(COLUMNS)] * 3
    assert [Path(row["clip"]).name for row in rows] == ["0.mp4", "1.mp4", "2.mp4"]
    assert bad["status"] == "error" and bad["label"] is None and bad["modalities"] is None
    assert bad["error"] == {"code": "corrupt_media", "message": "1.mp4 is damaged. Record it again."}
    assert good["status"] == "ok" and good["error"] is None and good["label"] == "happy"
    assert good["labels"] == {"happy": 0.75, "sad": 0.25} and good["confidence"] == 0.75
    assert good["sha256"] == hashlib.sha256(b"a").hexdigest() and good["question"] == "What?"
    assert good["prompt_sha256"] == hashlib.sha256(b"None").hexdigest()  # what the fake says that it was asked


TYPES = {"text": str, "number": float, "truth": bool, "whole": int, "texts": list, "labels": dict, "error": dict}
ALWAYS = [
    "clip",
    "sha256",
    "status",
    "evidence",
    "model",
    "model_sha256",
    "omni_version",
    "seed",
    "seconds",
    "question",
    "think",
]


def test_the_columns_are_those_of_the_docs_and_have_their_types(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "labels.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == list(COLUMNS)
    promised = (
        "clip, sha256, status, error, label, confidence, labels, thought, text, well_formed, modalities, duration_s, "
        "evidence, model, model_sha256, prompt_sha256, omni_version, seed, seconds"
    )
    assert list(COLUMNS)[:19] == promised.split(", ")
    assert set(Answer.__dataclass_fields__) <= set(COLUMNS)
    out = tmp_path / "out.jsonl"
    run(folder_of(tmp_path, "a", "bad"), out, Fake())
    for row in table_of(out):
        assert row["evidence"] == []
        for name, kind in COLUMNS.items():
            if name in ALWAYS or (
                row["status"] == "ok" and name not in ("error", "transcript", "evidence", "gates", "leading")
            ):
                assert isinstance(row[name], TYPES.get(kind, list)), name


AWKWARD = ["=1+1", "'tis", "-5", "+49 30", "@x", 'a\nb,"c"', "ü 😀", "\t", "true", "7", "{}", " padded "]


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_table_is_read_back_as_it_was_written(suffix: str) -> None:
    rng = random.Random(5)
    rows = []
    for number in range(40):
        row = dict.fromkeys(COLUMNS) | {"clip": rng.choice(AWKWARD), "status": "ok", "seed": number}
        row |= {"thought": rng.choice(AWKWARD), "confidence": rng.random(), "well_formed": rng.random() < 0.5}
        row |= {"labels": {"happy": rng.random(), "sad": 0.25}, "modalities": rng.choice([[], ["video", "audio"]])}
        claim = {"sentence": rng.choice(AWKWARD), "modality": "face", "cue": "smile", "verdict": "supported"}
        row["evidence"] = [claim | {"polarity": -1, "t0": rng.choice([None, 0.5]), "t1": 1.5}] * rng.randrange(3)
        error = {"code": "x", "message": rng.choice(AWKWARD)}
        rows.append(row | {"error": rng.choice([None, error]), "note": rng.choice([None, *AWKWARD])})
    assert decode_table(encode_table(rows, suffix), suffix) == rows


def test_no_cell_of_a_csv_is_a_formula() -> None:
    row = dict.fromkeys(COLUMNS) | {"transcript": '=HYPERLINK("http://x")', "thought": "-1+cmd", "clip": "@a.mp4"}
    text = encode_table([row | {"take": "-5"}], ".csv").decode()
    assert not re.search(r'(?:^|,)"?[=+@]|(?:^|,)"?-(?!5\b)', text.splitlines()[1]) and ",-5" in text


def test_parquet_has_types_that_other_tools_read(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    out = tmp_path / "out.parquet"
    run(folder_of(tmp_path, "a", "bad"), out, Fake())
    frame = pandas.read_parquet(out)
    assert list(frame.columns) == list(COLUMNS) and frame.labels[0] == {"happy": 0.75, "sad": 0.25}
    assert frame.error[1]["code"] == "corrupt_media" and frame.confidence[0] == 0.75


def test_an_empty_table_and_one_of_errors_alone_can_be_written(tmp_path: Path) -> None:
    for suffix in FORMATS:
        assert decode_table(encode_table([], suffix), suffix) == []
        out = tmp_path / f"out{suffix}"
        assert counts(run(folder_of(tmp_path, "bad"), out, Fake())) == (0, 1, 0)
        assert [row["label"] for row in table_of(out)] == [None]


# ---- once and no more ----


def test_labelling_again_repeats_no_clip(tmp_path: Path) -> None:
    fake, out = Fake(), tmp_path / "out.csv"
    folder = folder_of(tmp_path, "a", "b")
    run(folder, out, fake)
    before = out.read_bytes()
    assert counts(run(folder, out, fake)) == (0, 0, 2)
    assert fake.answered == ["a", "b"] and out.read_bytes() == before


def test_another_question_is_another_row_and_costs_only_its_own_answer(tmp_path: Path) -> None:
    fake, out = Fake(), tmp_path / "out.jsonl"
    folder = folder_of(tmp_path, "a")
    run(folder, out, fake)
    assert counts(run(folder, out, fake, question="Why?")) == (1, 0, 0)
    assert [row["question"] for row in table_of(out)] == ["Why?"]
    assert counts(run(folder, out, fake)) == (0, 0, 1)  # the answers of both lie in the journal
    assert len(lines_of(out)) == 2


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"think": False}, r"think True, not with False"),
        ({"labels": "happy,sad,calm"}, r"space happy, sad, not with happy, sad, calm"),
        ({"seed": 4}, r"seed 0, not with 4"),
        ({"open_vocabulary": True}, r"space happy, sad, not with any words"),
    ],
)
def test_answers_of_another_kind_do_not_get_into_a_table(tmp_path: Path, change: dict, named: str) -> None:
    fake, out = Fake(), tmp_path / "out.jsonl"
    folder = folder_of(tmp_path, "a")
    run(folder, out, fake)
    before = out.read_bytes(), journal_of(out).read_bytes()
    with pytest.raises(ManifestError, match=f"was made with {named}.*Give another --out"):
        run(folder, out, fake, **change)
    assert (out.read_bytes(), journal_of(out).read_bytes()) == before


def test_answers_of_a_model_trained_anew_do_not_get_into_a_table(tmp_path: Path) -> None:
    fake, out, model = Fake(), tmp_path / "out.jsonl", tmp_path / "model"
    folder = folder_of(tmp_path, "a")
    model.mkdir()
    (model / "model.safetensors").write_text("1")
    run(folder, out, fake, model=str(model))
    assert counts(run(folder, out, fake, model=str(model))) == (0, 0, 1)
    (model / "model.safetensors").write_text("2")
    with pytest.raises(ManifestError, match=r"model_sha256 [0-9a-f]{12}…, not with"):
        run(folder, out, fake, model=str(model))


def test_a_renamed_clip_is_not_labelled_again_and_a_changed_one_is(tmp_path: Path) -> None:
    fake, out = Fake(), tmp_path / "out.jsonl"
    folder = folder_of(tmp_path, "a", "b")
    run(folder, out, fake)
    (folder / "0.mp4").rename(folder / "renamed.mp4")
    (folder / "1.mp4").write_text("changed")
    assert counts(run(folder, out, fake)) == (1, 0, 1)
    assert fake.answered == ["a", "b", "changed"]
    assert [Path(row["clip"]).name for row in table_of(out)] == ["1.mp4", "renamed.mp4"]


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_copies_of_a_clip_have_a_row_each_and_cost_the_model_nothing(tmp_path: Path, batch_size: int) -> None:
    fake, out = Fake(), tmp_path / "out.jsonl"
    folder = folder_of(tmp_path, "same", "other", "same", "same")
    assert counts(run(folder, out, fake, batch_size=batch_size)) == (4, 0, 0)
    assert [row["text"] for row in table_of(out)] == ["same", "other", "same", "same"]
    assert Counter(fake.answered) == {"same": 1, "other": 1} and len(lines_of(out)) == 2
    assert counts(run(folder, out, fake)) == (0, 0, 4)


def test_a_copy_of_a_clip_with_an_error_has_a_message_with_its_own_name(tmp_path: Path) -> None:
    fake, out = Fake(), tmp_path / "out.jsonl"
    assert counts(run(folder_of(tmp_path, "odd", "bad", "odd", "bad"), out, fake)) == (0, 4, 0)
    messages = [row["error"]["message"] for row in table_of(out)]
    assert [message[:5] for message in messages][1::2] == ["1.mp4", "3.mp4"] and "RuntimeError" in messages[2]


def test_missing_clips_are_no_copies_of_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked, todo = [], Known.todo
    monkeypatch.setattr(Known, "todo", lambda known, clip: looked.append(clip) or todo(known, clip))
    missing = [tmp_path / f"{number}.mp4" for number in range(50)]
    assert counts(run(missing, tmp_path / "out.jsonl", Fake())) == (0, 50, 0)
    assert len(looked) == 3 * 50  # in turn, for the summary and for the table, and not again and again


def test_an_error_stays_until_it_is_to_be_tried_again(tmp_path: Path) -> None:
    fake, out = Fake(), tmp_path / "out.jsonl"
    folder = folder_of(tmp_path, "a", "bad")
    run(folder, out, fake)
    assert counts(run(folder, out, fake)) == (0, 1, 1) and fake.read_names == ["0.mp4", "1.mp4"]
    assert counts(run(folder, out, fake, retry_errors=True)) == (0, 1, 1)
    assert fake.read_names == ["0.mp4", "1.mp4", "1.mp4"]
    assert counts(run(folder, out, fake)) == (0, 1, 1) and len(table_of(out)) == 2
    (folder / "1.mp4").write_text("mended")  # another content is another clip
    assert counts(run(folder, out, fake)) == (1, 0, 1)


def test_a_fault_that_passed_is_mended_by_trying_again(tmp_path: Path) -> None:
    out, folder = tmp_path / "out.jsonl", folder_of(tmp_path, "a", "b")
    run(folder, out, Fake(most=0))  # no memory at all
    assert {row["error"]["code"] for row in table_of(out)} == {"out_of_memory"}
    assert counts(run(folder, out, Fake(), retry_errors=True)) == (2, 0, 0)
    assert [row["status"] for row in table_of(out)] == ["ok", "ok"]


# ---- batches ----


def test_one_clip_that_breaks_the_model_spoils_no_other_of_its_batch(tmp_path: Path) -> None:
    fake, out = Fake(), tmp_path / "out.jsonl"
    assert counts(run(folder_of(tmp_path, *"abcd", "odd", *"efg"), out, fake, batch_size=8)) == (7, 1, 0)
    (bad,) = [row for row in table_of(out) if row["status"] == "error"]
    assert bad["error"]["code"] == "internal" and "RuntimeError: shapes do not match" in bad["error"]["message"]
    assert "omni ask" in bad["error"]["message"]


def test_batches_become_smaller_when_memory_runs_out_and_stay_so(tmp_path: Path) -> None:
    fake, out = Fake(most=2), tmp_path / "out.jsonl"
    assert counts(run(folder_of(tmp_path, *"abcdefghijkl"), out, fake, batch_size=8)) == (12, 0, 0)
    assert fake.batches == [2] * 6


def test_clips_go_through_the_model_in_batches_of_one_question(tmp_path: Path) -> None:
    fake, out = Fake(), tmp_path / "out.jsonl"
    folder = folder_of(tmp_path, *"abcdef")
    manifest = tmp_path / "m.jsonl"
    asked = [None, "Why?"] * 3
    write_manifest(manifest, [Example(folder / f"{i}.mp4", question=q) for i, q in enumerate(asked)])
    run([manifest], out, fake, batch_size=3)
    assert fake.batches == [3, 3]  # and not six of one
    assert [row["question"] for row in table_of(out)] == ["What?", "Why?"] * 3


def test_a_clip_with_two_questions_is_read_once_and_has_two_rows(tmp_path: Path) -> None:
    fake, out = Fake(), tmp_path / "out.jsonl"
    clip, manifest = folder_of(tmp_path, "a", "b") / "0.mp4", tmp_path / "m.jsonl"
    questions = [Example(clip, question="Why?"), Example(clip.with_name("1.mp4")), Example(clip, question="Who?")]
    write_manifest(manifest, questions)
    assert counts(run([manifest], out, fake)) == (3, 0, 0)
    assert fake.read_names == ["0.mp4", "1.mp4"]
    assert [(row["text"], row["question"]) for row in table_of(out)] == [("a", "Why?"), ("b", "What?"), ("a", "Who?")]


def test_many_questions_do_not_fill_the_memory_with_waiting_clips(tmp_path: Path) -> None:
    fake, out = Fake(), tmp_path / "out.jsonl"
    folder, manifest = folder_of(tmp_path, *map(str, range(30))), tmp_path / "m.jsonl"
    write_manifest(manifest, [Example(folder / f"{i}.mp4", question=f"Number {i}?") for i in range(30)])
    waiting = []
    answer = fake.answer
    fake.labeller = fake.labeller._replace(
        answer=lambda clips, question: (
            waiting.append(len(fake.read_names) - len(fake.answered)) or answer(clips, question)
        )
    )
    assert counts(run([manifest], out, fake, batch_size=4)) == (30, 0, 0)
    assert max(waiting) <= 2 * 4 + 2 * ENCODED  # batches that wait, and what is read ahead of them


def test_a_clip_that_changes_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    fake, out = Fake(), tmp_path / "out.jsonl"
    folder = folder_of(tmp_path, "half of a copy")

    def read(path: Path) -> Clip:
        path.write_text("the whole copy")
        return fake.read(path)

    fake.labeller = fake.labeller._replace(read=read)
    run(folder, out, fake)
    (row,) = table_of(out)
    assert row["error"]["code"] == "changed" and fake.answered == []


# ---- parts ----


def test_the_limit_counts_clips_of_the_sources(tmp_path: Path) -> None:
    fake, out = Fake(), tmp_path / "out.jsonl"
    folder = folder_of(tmp_path, "a", "b", "c")
    assert counts(run(folder, out, fake, limit=2)) == (2, 0, 0)
    assert counts(run(folder, out, fake)) == (1, 0, 2)
    assert counts(run(folder, out, fake, limit=2)) == (0, 0, 2) and len(table_of(out)) == 2


def test_shards_share_out_all_clips_and_their_journals_make_the_whole_table(tmp_path: Path) -> None:
    fake, folder = Fake(), folder_of(tmp_path, *map(str, range(10)))
    whole, parts = tmp_path / "whole.csv", [tmp_path / f"part{i}.jsonl" for i in (1, 2, 3)]
    sizes = [counts(run(folder, part, fake, shard=Shard(i, 3)))[0] for i, part in enumerate(parts, start=1)]
    assert sizes == [4, 3, 3] and sorted(fake.answered, key=int) == [str(i) for i in range(10)]
    journal_of(whole).write_bytes(b"".join(journal_of(part).read_bytes() for part in parts))
    assert counts(run(folder, whole, fake)) == (0, 0, 10) and len(fake.answered) == 10
    assert [row["text"] for row in table_of(whole)] == [str(i) for i in range(10)]


def test_a_wrong_shard_or_batch_size_is_told() -> None:
    for text in ("0/3", "4/3", "3", "a/b", "1/0", "-1/2"):
        with pytest.raises(OmniError, match="Give two numbers"):
            parse_shard(text)
    for text in ("0", "-1", "many", "1.5"):
        with pytest.raises(OmniError, match="Give 1 or more, or auto"):
            parse_batch_size(text)


# ---- sources ----


def test_sources_are_files_folders_globs_and_manifests_each_clip_once(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a", "b")
    (folder / "deep").mkdir()
    (folder / ".cache").mkdir()
    for name in ("deep/c.WAV", "notes.txt", ".hidden.mp4", ".cache/d.mp4"):
        (folder / name).write_text("c")
    everything = [folder / "0.mp4", folder / "1.mp4", folder / "deep" / "c.WAV"]

    def found(*sources: str | Path) -> list[Path]:
        return [clip.path for clip in find_clips(sources)]

    assert found(folder) == everything
    assert found(f"{folder}/*.mp4") == everything[:2] and found(f"{tmp_path}/**/*.[Ww]*") == everything[2:]
    assert found(f"{folder}/**.mp4") == everything[:2]
    assert found(folder / "1.mp4", folder) == [everything[1], everything[0], everything[2]]
    write_manifest(tmp_path / "m.csv", [Example(everything[2], question="Why?")])
    assert [(clip.path, clip.question) for clip in find_clips([tmp_path / "m.csv"])] == [(everything[2], "Why?")]
    (folder / "take [1].mp4").write_text("d")  # a name, not a pattern
    assert found(folder / "take [1].mp4") == [folder / "take [1].mp4"]


def test_a_clip_that_is_named_absolute_and_relative_is_one_clip(tmp_path: Path, monkeypatch) -> None:
    folder_of(tmp_path, "a", "b")
    monkeypatch.chdir(tmp_path)
    write_manifest("m.csv", [Example(Path("clips/0.mp4"), extra={"take": "1"}), Example(Path("clips/1.mp4"), "sad")])
    assert [clip.path for clip in find_clips(["clips", "m.csv"])] == [Path("clips/0.mp4"), Path("clips/1.mp4")]
    named = [(clip.path, clip.extra) for clip in find_clips(["m.csv", "clips/../clips"])]
    first, second = tmp_path / "clips" / "0.mp4", tmp_path / "clips" / "1.mp4"
    assert named == [(first, {"take": "1"}), (second, {"manifest_label": "sad"})]


def test_paths_come_from_stdin_by_line_or_between_zero_bytes(tmp_path: Path, monkeypatch) -> None:
    folder = folder_of(tmp_path, "a", "b")
    odd = folder / "line\nbreak.mp4"
    odd.write_text("c")
    for given, names in (
        (b"%b/0.mp4\n\n%b/1.mp4", ["0.mp4", "1.mp4"]),
        (b"%b/0.mp4\0%b/line\nbreak.mp4\0", ["0.mp4", odd.name]),
    ):
        stdin = given.replace(b"%b", os.fsencode(folder))
        monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(stdin)))
        assert [clip.path.name for clip in find_clips(["-"])] == names


def test_loops_of_links_end_and_links_to_nothing_are_rows(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a")
    (folder / "self").symlink_to(folder)
    (folder / "up").symlink_to(tmp_path)
    (folder / "loop.mp4").symlink_to(folder / "loop.mp4")
    (folder / "gone.mp4").symlink_to(tmp_path / "nothing.mp4")
    assert [clip.path.name for clip in find_clips([folder])] == ["0.mp4", "gone.mp4", "loop.mp4"]
    started = time.process_time()
    assert len(find_clips([f"{folder}/**/*.mp4"])) < 9 and time.process_time() - started < 1
    out = tmp_path / "out.jsonl"
    assert counts(run(folder, out, Fake())) == (1, 2, 0)
    assert [row["sha256"] for row in table_of(out)][1:] == ["", ""]


def test_a_named_file_that_does_not_exist_is_a_row_and_a_source_without_clips_an_error(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert counts(run([tmp_path / "none.mp4"], out, Fake())) == (0, 1, 0)
    for source in (folder_of(tmp_path), f"{tmp_path}/*.mkv", ""):
        with pytest.raises(ClipError, match="Give files, folders or manifests"):
            find_clips([source])


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_cannot_be_listed_is_told(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a")
    (folder / "closed").mkdir(mode=0o000)
    with pytest.raises(ClipError, match="Change its permissions"):
        find_clips([folder])


@pytest.mark.parametrize("suffix", FORMATS)
def test_columns_of_a_manifest_pass_through(tmp_path: Path, suffix: str) -> None:
    folder, manifest, out = folder_of(tmp_path, "a", "bad"), tmp_path / "m.jsonl", tmp_path / f"out{suffix}"
    extra = {"speaker": "=7", "take": 3, "seconds": 1.5, "cues": {"AU12": [0.1]}, "kind": "text"}
    one = Example(folder / "0.mp4", "sad", "A frown.", extra=extra)
    write_manifest(manifest, [one, Example(folder / "1.mp4", extra={"kind": 7})])
    run([manifest], out, Fake())
    first, second = table_of(out)
    assert first["label"] == "happy" and first["manifest_label"] == "sad" and first["rationale"] == "A frown."
    assert first["speaker"] == "=7" and second["speaker"] is None and second["status"] == "error"
    read = json.loads if suffix == ".csv" else lambda value: value  # a CSV has text only
    assert [read(first[name]) for name in ("take", "manifest_seconds", "cues")] == [3, 1.5, {"AU12": [0.1]}]
    assert str(second["kind"]) == "7"


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_manifest_loses_no_column_to_a_new_name(tmp_path: Path, suffix: str) -> None:
    manifest, out = tmp_path / "m.jsonl", tmp_path / f"out{suffix}"
    both = {"manifest_label": "calm", "manifest_manifest_label": "fear"}
    clips = sorted(folder_of(tmp_path, "a", "b").iterdir())
    write_manifest(manifest, [Example(clips[0], "sad", extra=both), Example(clips[1], extra=both)])
    run([manifest], out, Fake())
    passed = [[value for name, value in row.items() if name not in COLUMNS] for row in table_of(out)]
    assert passed == [["sad", "calm", "fear"], [None, "calm", "fear"]]


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(
    "values",
    [
        [{}, {}],
        [{"a": 1}, {"b": None}],
        [[{"a": 1}], [{"a": 1, "b": 2}]],
        [{"a": {"b": {}}}, None],
        [[{"a": [1, 0.5]}], []],
        ["x" * 140_000, "y"],
    ],
    ids=["empty", "other keys", "list", "nested", "alike", "long"],
)
def test_what_a_manifest_says_comes_back_from_the_table_as_it_was(tmp_path: Path, values: list, suffix: str) -> None:
    manifest, out = tmp_path / "m.jsonl", tmp_path / f"out{suffix}"
    clips = sorted(folder_of(tmp_path, "a", "b").iterdir())
    write_manifest(manifest, [Example(clip, extra={"note": value}) for clip, value in zip(clips, values, strict=True)])
    run([manifest], out, Fake())
    found = [row["note"] for row in table_of(out)]
    assert [json.loads(one) if isinstance(one, str) and one[0] in "{[" else one for one in found] == values


def test_a_table_that_cannot_be_encoded_or_read_back_is_told_and_its_rows_stay(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a")
    fake, out = Fake(), tmp_path / "out.parquet"
    said = [Answer("happy", 0.75, {"happy": 0.75, "sad": 0.25}, "\ud83d", "", True, ("video",))]  # half an emoji
    with pytest.raises(ManifestError, match=r"is not written; its rows are in .*\.journal\. Give another format"):
        run(folder, out, fake, labeller=fake.labeller._replace(answer=lambda clips, question: said))
    assert not out.exists() and len(lines_of(out)) == 1


def test_a_bare_carriage_return_goes_into_a_csv_and_comes_back(tmp_path: Path) -> None:
    fake, out = Fake(), tmp_path / "out.csv"
    said = [Answer("happy", 0.75, {"happy": 0.75, "sad": 0.25}, "one\rtwo", "", True, ("video",))]
    run(folder_of(tmp_path, "a"), out, fake, labeller=fake.labeller._replace(answer=lambda clips, question: said))
    assert [row["thought"] for row in table_of(out)] == ["one\rtwo"]


def test_times_and_mixed_types_of_a_parquet_manifest_pass_through(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from datetime import datetime

    folder, manifest = folder_of(tmp_path, "a"), tmp_path / "m.parquet"
    when = datetime(2026, 5, 4, 3, 2)
    columns = {"clip": ["clips/0.mp4"], "when": [when], "huge": [2**60], "half": ["\N{GRINNING FACE}"]}
    pyarrow.parquet.write_table(pyarrow.table(columns), manifest)
    for suffix in FORMATS:
        run([manifest], tmp_path / f"out{suffix}", Fake())
        (row,) = table_of(tmp_path / f"out{suffix}")
        assert str(row["when"]) == str(when) and int(row["huge"]) == 2**60
    assert Path(row["clip"]) == folder / "0.mp4"


def test_half_an_emoji_in_a_manifest_does_not_end_a_run(tmp_path: Path) -> None:
    folder, manifest = folder_of(tmp_path, "a"), tmp_path / "m.jsonl"
    manifest.write_text('{"clip": "clips/0.mp4", "question": "Why \\ud83d?", "note": "\\ud83d"}')
    for suffix in FORMATS:
        run([manifest], tmp_path / f"out{suffix}", Fake())
        (row,) = table_of(tmp_path / f"out{suffix}")
        assert (row["question"], row["note"]) == ("Why ??", "?") and Path(row["clip"]).parent == folder


def test_a_manifest_that_names_a_clip_twice_with_one_question_is_refused(tmp_path: Path) -> None:
    clip, manifest = folder_of(tmp_path, "a") / "0.mp4", tmp_path / "m.csv"
    write_manifest(manifest, [Example(clip, extra={"rater": "x"}), Example(clip, extra={"rater": "y"})])
    with pytest.raises(ManifestError, match=r"m\.csv names 0\.mp4 twice"):
        find_clips([manifest])


# ---- whatever happens ----


def test_the_table_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    fake, out = Fake(), tmp_path / "out.parquet"
    folder = folder_of(tmp_path, *"abcdef")

    def answer(clips: Sequence[Clip], question: str | None) -> list[Answer]:
        if len(fake.answered) == 4:
            raise KeyboardInterrupt
        return fake.answer(clips, question)

    with pytest.raises(KeyboardInterrupt):
        run(folder, out, fake, labeller=fake.labeller._replace(answer=answer), batch_size=2)
    assert not out.exists() and len(lines_of(out)) == 4
    assert counts(run(folder, out, fake)) == (2, 0, 4) and len(table_of(out)) == 6
    assert sorted(os.listdir(tmp_path)) == ["clips", "out.parquet", "out.parquet.journal"]


@pytest.mark.parametrize("torn", [b'{"clip": "x', b"\xc3", b'{"clip": "/a.mp4", "status": "ok"'])
def test_a_line_torn_by_a_full_disk_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    fake, out = Fake(), tmp_path / "out.jsonl"
    folder = folder_of(tmp_path, "a", "b")
    run(folder, out, fake, limit=1)
    with journal_of(out).open("ab") as file:
        file.write(torn)
    assert counts(run(folder, out, fake)) == (1, 0, 1)
    assert len(lines_of(out)) == 2 and len(table_of(out)) == 2


def test_a_journal_cut_at_any_byte_loses_no_whole_row(tmp_path: Path) -> None:
    out, folder = tmp_path / "out.jsonl", folder_of(tmp_path, "a", "b", "c")
    run(folder, out, Fake())
    whole, table = journal_of(out).read_bytes(), out.read_bytes()
    for length in range(0, len(whole), 97):
        fake = Fake()
        journal_of(out).write_bytes(whole[:length])
        run(folder, out, fake)
        complete = whole[:length].count(b"\n")
        assert len(fake.answered) in (3 - complete, 2 - complete)  # a line that lacks only its end is whole
        assert [row | {"seconds": 0} for row in table_of(out)] == [
            json.loads(line) | {"seconds": 0} for line in table.splitlines()
        ]


def script(tmp_path: Path, body: str) -> list[str]:
    """A process that labels with a `Fake` as `body` says."""
    code = f"""
import os, signal, sys, time
from pathlib import Path
from omni.label import label
from tests.fake_labeller import Fake, run
fake, folder, out = Fake(), Path({str(tmp_path / "clips")!r}), Path({str(tmp_path / "out.jsonl")!r})
answer = fake.answer
{body}
"""
    return [sys.executable, "-c", code]


def test_labelling_resumes_after_a_kill_without_repeating_a_clip(tmp_path: Path) -> None:
    folder, out = folder_of(tmp_path, *(f"clip {i}" for i in range(20))), tmp_path / "out.jsonl"
    killed = """
def killing(clips, question):
    if len(fake.answered) + len(clips) > 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return answer(clips, question)
run(folder, out, fake, batch_size=3, labeller=fake.labeller._replace(answer=killing))
"""
    codes = []
    while not codes or codes[-1] == -signal.SIGKILL:
        assert len(codes) < 10 and not out.exists()
        codes.append(subprocess.run(script(tmp_path, killed), cwd=ROOT, env=ENVIRONMENT).returncode)
    assert codes == [-signal.SIGKILL] * 3 + [0]  # six clips a life, in batches of three
    assert [row["text"] for row in table_of(out)] == [(folder / f).read_text() for f in sorted(os.listdir(folder))]
    assert len(lines_of(out)) == 20


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of file sizes there")
def test_a_disk_that_is_full_costs_no_finished_row(tmp_path: Path) -> None:
    out, folder = tmp_path / "out.jsonl", folder_of(tmp_path, *(f"clip {i}" for i in range(12)))
    body = """
import resource
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
run(folder, out, fake, batch_size=1)
"""
    done = subprocess.run(script(tmp_path, body), cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 1 and "Cannot write" in done.stderr and "finished rows are safe" in done.stderr
    whole = journal_of(out).read_bytes().count(b"\n")
    fake = Fake()
    assert 0 < whole < 12 and not out.exists()
    assert counts(run(folder, out, fake)) == (12 - whole, 0, whole)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent otherwise there")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_finishes_the_batch_in_flight_and_the_next_run_goes_on(tmp_path: Path, number: int) -> None:
    out, folder = tmp_path / "out.jsonl", folder_of(tmp_path, *(f"clip {i}" for i in range(9)))
    body = f"""
def slow(clips, question):
    if fake.answered:
        os.kill(os.getpid(), {int(number)})
        time.sleep(0.1)
    return answer(clips, question)
print(run(folder, out, fake, batch_size=2, labeller=fake.labeller._replace(answer=slow))[:4])
"""
    done = subprocess.run(script(tmp_path, body), cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.stdout == "(4, 0, 0, 5)\n" and "finishing the batch in flight" in done.stderr
    assert len(lines_of(out)) == 4 and not out.exists()
    assert counts(run(folder, out, Fake())) == (5, 0, 4)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent otherwise there")
def test_a_second_interrupt_stops_at_once(tmp_path: Path) -> None:
    folder_of(tmp_path, *"abc")
    body = """
def hanging(clips, question):
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
run(folder, out, fake, labeller=fake.labeller._replace(answer=hanging))
"""
    done = subprocess.run(script(tmp_path, body), cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=30)
    assert "KeyboardInterrupt" in done.stderr


# ---- one at a time ----


def holder(tmp_path: Path) -> subprocess.Popen[str]:
    """A process that labels, and says so before its first answer, which never comes."""
    body = """
def hanging(clips, question):
    print("working", flush=True)
    time.sleep(60)
run(folder, out, fake, labeller=fake.labeller._replace(answer=hanging))
"""
    process = subprocess.Popen(script(tmp_path, body), cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "working\n"
    return process


def test_a_second_run_on_the_same_table_is_refused_until_the_first_ends_even_by_a_kill(tmp_path: Path) -> None:
    out, folder = tmp_path / "out.jsonl", folder_of(tmp_path, "a")
    with holder(tmp_path) as first:
        try:
            with pytest.raises(
                ManifestError, match=rf"is being written by process {first.pid} .*another --out"
            ) as caught:
                run(folder, out, Fake())
            assert caught.value.code == "locked"
            assert counts(run(folder, tmp_path / "other.jsonl", Fake())) == (1, 0, 0)
        finally:
            first.kill()
            first.wait()
    assert (tmp_path / "out.jsonl.lock").exists()  # left by the killed one, and no obstacle
    assert counts(run(folder, out, Fake())) == (1, 0, 0)
    assert not (tmp_path / "out.jsonl.lock").exists()


def test_a_lock_is_held_by_one_of_many_at_a_time(tmp_path: Path) -> None:
    """Eight processes, each many times: whoever is let in finds nobody inside."""
    body = f"""
import os, time
from pathlib import Path
from omni.errors import ManifestError
from omni.lock import locked
inside, entered, end = Path({str(tmp_path / "inside")!r}), 0, time.monotonic() + 1.5
while time.monotonic() < end:
    try:
        with locked(Path({str(tmp_path / "table")!r})):
            os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
            time.sleep(0.001)
            os.unlink(inside)
            entered += 1
    except ManifestError as err:
        assert err.code == "locked"
print(entered)
"""
    command = [sys.executable, "-c", body]
    many = [subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    entered = [int(process.communicate()[0] or -1) for process in many]
    assert min(entered) >= 0 and sum(entered) > 20


def test_a_place_without_locks_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ManifestError, match="Cannot lock"), locked(tmp_path / "file" / "out.csv"):
        pass


# ---- what is not touched ----


def test_a_file_that_is_no_table_of_ours_is_not_touched(tmp_path: Path) -> None:
    folder, fake = folder_of(tmp_path, "a"), Fake()
    manifest = tmp_path / "train.jsonl"
    write_manifest(manifest, [Example(folder / "0.mp4")])
    before = manifest.read_bytes()
    with pytest.raises(ManifestError, match=r"train\.jsonl is there, but its journal .* Give another --out"):
        run(folder, manifest, fake)
    shutil.copy(manifest, journal_of(manifest))
    with pytest.raises(ManifestError, match=r"train\.jsonl\.journal:1: this is no row of ours"):
        run(folder, manifest, fake)
    assert manifest.read_bytes() == before and fake.read_names == []
    for wrong in (tmp_path / "out.txt", tmp_path):
        with pytest.raises(ManifestError, match=r"ends in \.jsonl, \.csv, \.parquet"):
            run(folder, wrong, fake)


def test_a_bad_label_space_model_or_batch_size_is_told_before_anything_is_read(tmp_path: Path) -> None:
    for options in ({"labels": "nonsense"}, {"batch_size": 0}, {"model": "nowhere"}):
        with pytest.raises(OmniError, match=r"Use one of|Give 1 or more|Give a folder"):
            run(folder_of(tmp_path, "a"), tmp_path / "out.jsonl", Fake(), **options)
    assert os.listdir(tmp_path) == ["clips"]


# ---- progress ----


def test_without_a_terminal_there_is_a_line_every_half_minute(capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter(range(0, 10_000, 9))  # seconds
    with progress(100, True, clock=lambda: float(next(clock))) as advance:
        for i in range(12):
            advance(1, int(i > 1), int(i == 5))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 3 and all(re.fullmatch(r"labelling: \d+ of 100 clips.*", line) for line in lines)
    assert re.search(r"labelling: \d+ of 100 clips, 1 error, \d\.\d a minute, \d+ min left", lines[-1])
    with progress(100, False, clock=lambda: float(next(clock))) as advance:
        advance(1, 1, 0)
    assert capsys.readouterr() == ("", "")


# ---- with a model ----


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    model, processor = tiny()
    for weight in model.model.language_model.parameters():
        if weight.ndim == 2:  # 0.02 is the usual spread; here clips shall differ
            weight.data.mul_(9)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine clips of different lengths, the last a copy of the first, and a damaged one."""
    folder = tmp_path_factory.mktemp("real")
    for i in range(9):
        rng = np.random.default_rng(i)
        wave = (0.2 * rng.standard_normal(3200 * (i + 1))).astype(np.float32)
        frames = None if i == 3 else rng.integers(0, 255, (4 + i, 32, 32, 3), dtype=np.uint8)
        write_clip(folder / ("3.wav" if i == 3 else f"{i}.mp4"), frames=frames, fps=10, wave=wave)
    shutil.copy(folder / "0.mp4", folder / "copy.mp4")
    (folder / "bad.mp4").write_text("this is no clip")
    return folder


def test_the_table_is_the_same_whatever_the_batch_size_and_the_order(
    tmp_path: Path, model_folder: Path, clips: Path
) -> None:
    """Greedy, in float32: labels and text equal, probabilities to 1e-3."""
    tables = {}
    for name, batch_size, sources in (
        ("one", 1, [clips]),
        ("eight", 8, [clips]),
        ("back", 3, sorted(clips.iterdir())[::-1]),
    ):
        out = tmp_path / f"{name}.jsonl"
        options = {"model": str(model_folder), "dtype": "float32", "batch_size": batch_size, "progress": False}
        summary = label(sources, out, labels="angry,happy,sad", seed=7, **options)
        assert counts(summary) == (10, 1, 0)
        tables[name] = sorted(table_of(out), key=lambda row: row["clip"])
    assert len({row["text"] for row in tables["one"]}) > 5  # clips do differ
    for other in ("eight", "back"):
        for one, row in zip(tables["one"], tables[other], strict=True):
            changing = {"seconds", "labels", "confidence"}
            assert {n: v for n, v in one.items() if n not in changing} == {n: row[n] for n in one if n not in changing}
            assert all(abs(p - row["labels"][name]) < 1e-3 for name, p in (one["labels"] or {}).items())


def test_each_content_is_encoded_once_whatever_its_names_and_questions(
    tmp_path: Path, model_folder: Path, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from omni import generate

    encoded: list[str] = []
    encode = generate.encode_clips
    monkeypatch.setattr(
        generate, "encode_clips", lambda *parts: encoded.extend(clip.sha256 for clip in parts[2]) or encode(*parts)
    )
    manifest, names = tmp_path / "m.jsonl", ("0.mp4", "1.mp4", "copy.mp4")
    asked = [Example(clips / name, question=question) for question in (None, "Why?") for name in names]
    write_manifest(manifest, asked)
    out = tmp_path / "out.jsonl"
    label([manifest], out, model=str(model_folder), think=False, progress=False)
    assert len(table_of(out)) == 6 and len(encoded) == len(set(encoded)) == 2


def test_the_next_clips_are_read_while_the_model_answers(tmp_path: Path) -> None:
    fake, out = Fake(), tmp_path / "out.jsonl"
    folder, read_while = folder_of(tmp_path, *map(str, range(3 * ENCODED))), []
    answer = fake.labeller.answer

    def slow(clips, question):
        before, started = len(fake.read_names), time.monotonic()
        while not read_while and len(fake.read_names) == before and time.monotonic() < started + 20:
            time.sleep(0.01)  # the first answer waits for another clip, for ever if none is read meanwhile
        read_while.append(len(fake.read_names) - before)
        return answer(clips, question)

    def read(path: Path):
        time.sleep(0.01)
        return fake.read(path)

    run(folder, out, fake, batch_size=2, labeller=fake.labeller._replace(answer=slow, read=read))
    assert len(table_of(out)) == 3 * ENCODED and read_while[0] > 0


def test_a_table_abstains_where_the_model_is_not_sure_enough_and_another_limit_needs_no_new_answer(
    tmp_path: Path,
) -> None:
    fake, out, folder = Fake(), tmp_path / "out.jsonl", folder_of(tmp_path, "a", "b")
    run(folder, out, fake, abstain_below=0.8)
    assert [(row["label"], row["labels"]) for row in table_of(out)] == [("uncertain", {"happy": 0.75, "sad": 0.25})] * 2
    assert [row["leading"] for row in table_of(out)] == [["happy", "sad"]] * 2
    run(folder, out, fake, abstain_below=0.7)
    assert [row["label"] for row in table_of(out)] == ["happy", "happy"] and len(fake.answered) == 2


def test_one_clip_that_cannot_be_encoded_spoils_no_other(tmp_path: Path) -> None:
    fake, out = Fake(), tmp_path / "out.jsonl"

    def encode(clips):
        if any(fake.contents[clip.sha256] == "b" for clip in clips):
            raise RuntimeError("shapes do not match")
        return clips

    run(folder_of(tmp_path, *"abc"), out, fake, labeller=fake.labeller._replace(encode=encode))
    assert [row["status"] for row in table_of(out)] == ["ok", "error", "ok"]


def test_the_prompt_of_a_row_is_that_of_the_model(tmp_path: Path, model_folder: Path, clips: Path) -> None:
    from omni.emotions import label_space
    from omni.features import encode_clip
    from omni.generate import ask_text
    from omni.loading import load

    out = tmp_path / "out.jsonl"
    label([clips / "0.mp4", clips / "3.wav"], out, model=str(model_folder), labels="happy,sad", progress=False)
    model, processor = load(model_folder)
    for row in table_of(out):
        encoded = encode_clip(model, processor, processor.read(row["clip"]))
        text = ask_text(processor, encoded, None, label_space("happy,sad"), True)
        assert row["prompt_sha256"] == hashlib.sha256(text.encode()).hexdigest() and QUESTION in text
        assert row["question"] == QUESTION and row["sha256"] == encoded.sha256


def test_in_an_open_vocabulary_the_label_is_what_the_model_wrote(
    tmp_path: Path, monkeypatch, talking_clip: Path
) -> None:
    fake, out = Fake(), tmp_path / "out.csv"
    text = "<think>A frown.</think><answer>Anxious and sad</answer>"
    answer = [Answer("any words", 1.0, {"any words": 1.0}, "A frown.", text, False, ("video",))]
    fake.labeller = fake.labeller._replace(answer=lambda clips, question: answer)
    run(folder_of(tmp_path, "a"), out, fake, open_vocabulary=True)
    (row,) = table_of(out)
    assert row["label"] == "anxious, sad" and row["well_formed"] is True
    assert row["confidence"] is None and row["labels"] is None


# ---- the command ----


def test_the_command_exits_as_promised(tmp_path: Path, model_folder: Path, clips: Path, capsys) -> None:
    def omni(*arguments: object) -> tuple[int, str]:
        code = main(["label", *map(str, arguments), "--model", str(model_folder), "--no-think"])
        out, err = capsys.readouterr()
        assert out == ""
        return code, err

    out, page = tmp_path / "out.parquet", tmp_path / "pages" / "report.html"
    good = (clips / "0.mp4", clips / "3.wav", "--out", out)
    assert omni(*good, "--report", page) == (0, f"2 labelled, 0 errors, 0 in the table already: {out}\n")
    assert page.read_text().startswith("<!doctype html>")
    assert omni(*good, "--batch-size", "8", "--clip-timeout", "20") == (
        0,
        f"0 labelled, 0 errors, 2 in the table already: {out}\n",
    )
    code, err = omni(clips / "0.mp4", clips / "bad.mp4", "--out", out)
    assert code == 3 and err.startswith("error: bad.mp4 is not a clip that can be read.")
    assert omni(clips / "0.mp4", clips / "bad.mp4", "--out", out)[0] == 3  # still an error of the table
    for wrong in (
        ["--shard", "3/2"],
        ["--batch-size", "0"],
        ["--out", "x.txt"],
        ["--labels", "none"],
        ["--limit", "0"],
    ):
        assert omni(*good, *wrong)[0] == 2
    assert omni(*good, "--seed", "5") == (
        2,
        f"omni: {out}.journal was made with seed 0, not with 5. Give another --out for these answers, or go on as "
        "before.\n",
    )


def test_an_interrupted_command_says_how_to_go_on(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("omni.label.label", lambda *sources, **options: LabelSummary(2, 0, 1, 3))
    assert main(["label", "clips", "--out", "t.csv"]) == 130
    assert capsys.readouterr().err == (
        "2 labelled, 0 errors, 1 in the table already, 3 left: t.csv\n"
        "omni: interrupted. Run the same command again; omni eval, matrix or label goes on where it stopped.\n"
    )


def test_limits_are_flags_and_their_errors_name_the_flags(
    tmp_path: Path, model_folder: Path, clips: Path, capsys
) -> None:
    for flag, value, code in (
        ("--max-seconds", "0.1", "too_long"),
        ("--max-pixels", "100", "too_large_pixels"),
        ("--max-bytes", "99", "too_large_bytes"),
    ):
        out = tmp_path / f"{code}.jsonl"
        assert main(["label", str(clips / "8.mp4"), "--out", str(out), "--model", str(model_folder), flag, value]) == 3
        (row,) = table_of(out)
        assert row["error"]["code"] == code and f"raise {flag}" in row["error"]["message"]
        assert (row["sha256"] == "") == (flag == "--max-bytes")  # what is too large is not read to its end
    capsys.readouterr()


def test_a_longer_limit_of_seconds_allows_the_pictures_that_go_with_it() -> None:
    from omni.label import clip_limits

    usual, longer = Limits(), clip_limits(1200.0, None, None, 60.0)
    assert longer.seconds == 1200 and longer.frames == 2 * usual.frames and longer.audio_bytes == 2 * usual.audio_bytes
    assert clip_limits(10.0, None, None, 90.0).frames == usual.frames
    assert clip_limits(600.0, 100, 5, 90.0).image_pixels == 100


# ---- the page ----


def test_the_report_is_one_page_that_needs_nothing_else(tmp_path: Path, model_folder: Path, clips: Path) -> None:
    out, page = tmp_path / "out.jsonl", tmp_path / "report.html"
    label([clips], out, model=str(model_folder), labels="angry,happy,sad", report=page, progress=False)
    text, rows = page.read_text(encoding="utf-8"), table_of(out)
    sources = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')> ]{1,30})""", text)
    assert sources and all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert "<script" not in text and not re.search(r"\son\w+=", text) and "http:" not in text.replace("http-equiv", "")
    assert all(part in text for part in ("Least certain (9 of 9)", "Confidence", "Slowest", "unsupported_format"))
    scores = [float(score) for score in re.findall(r"<h3>\w+ (\d\.\d\d)</h3>", text)]
    assert scores == sorted(scores) and len(scores) == 9
    assert text.count('class="strip"') == 8 and text.count('class="wave"') == 9
    for row in rows:
        assert row["clip"] in text


def test_the_report_escapes_what_clips_and_models_say(tmp_path: Path) -> None:
    from omni.label_report import report

    row = dict.fromkeys(COLUMNS, "<b onload=x>") | {"status": "ok", "labels": {"<i>": 0.2}, "confidence": 0.5}
    row |= {"warnings": ["<u>"], "seconds": 1.0, "duration_s": 1.0}
    error = row | {"status": "error", "error": {"code": "<s>", "message": "<p>"}}

    def read(path: Path) -> Clip:
        raise ClipError("<em> is gone.")

    text = report([row, error], [Path("<x>"), Path("y")], read)
    assert not re.search(r"<(b|i|u|s|em|x)\b", text.split("</style>")[1]) and "&lt;em&gt; is gone." in text


def test_clips_without_confidence_come_last_in_a_report(tmp_path: Path) -> None:
    from omni.label_report import report

    row = dict.fromkeys(COLUMNS) | {"status": "ok", "model_sha256": "", "warnings": [], "seconds": 0.0}
    rows = [
        row | {"clip": c, "sha256": c, "confidence": p} for c, p in zip("abcd", (None, 0.9, None, 0.2), strict=True)
    ]
    text = report(rows, [Path("x")] * 4, lambda path: Clip())
    assert re.findall(r"<small>(\w)</small>", text) == ["d", "b", "a", "c"]


def test_a_report_of_an_open_vocabulary_or_of_nothing_can_be_made(tmp_path: Path) -> None:
    from omni.label_report import report

    row = dict.fromkeys(COLUMNS) | {"status": "ok", "clip": "a", "model": "m", "model_sha256": "", "warnings": []}
    row |= {"label": "calm", "seconds": 0.0, "thought": "", "duration_s": 0.0, "seed": 0}
    still = Clip(frames=np.zeros((1, 4, 600, 3), np.uint8), times=np.zeros(1))
    assert "Clips (1 of 1)" in report([row], [Path("a")], lambda path: still)
    assert "There are no clips." in report([], [], lambda path: still)


# ---- the kill test ----


def test_a_labeller_killed_at_random_moments_ends_with_the_undisturbed_table(tmp_path: Path) -> None:
    """As the slow one below, with a fake model that takes 10 ms a clip: five kills over sixty clips."""
    folder = folder_of(tmp_path, *(f"clip {i}" for i in range(60)))
    body = """
def slow(clips, question):
    time.sleep(0.01 * len(clips))
    return answer(clips, question)
run(folder, out, fake, batch_size=2, labeller=fake.labeller._replace(answer=slow))
"""
    out = tmp_path / "out.jsonl"
    kills = kill_many_times(script(tmp_path, body), journal_of(out), clips=60, kills=5, seed=1, environment=ENVIRONMENT)
    assert kills == 5
    calm = tmp_path / "calm.jsonl"
    run(folder, calm, Fake())
    assert rows_without_time(out) == rows_without_time(calm)
    assert len(lines_of(out)) == len({row["sha256"] for row in lines_of(out)}) == 60


@pytest.mark.slow
def test_twenty_kills_over_sixty_real_clips_change_nothing() -> None:
    subprocess.run([sys.executable, "tests/kill_labeller.py"], cwd=ROOT, env=ENVIRONMENT, check=True)
