"""Labelling: a table that survives kills, repeats nothing and hides nothing.

The model is a fake at the edge (`Labeller`): it takes any bytes for a clip and gives one answer, so that
the tests are about the table.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from omni.answer import Answer
from omni.clip import Clip, read_clip
from omni.errors import ClipError, ManifestError, OmniError
from omni.label import Labeller, LabelSummary, find_clips, label
from omni.manifest import Example, write_manifest

ROOT = Path(__file__).parent.parent


class Fake:
    """A labeller that counts; a file that begins with "bad" cannot be read, with "odd" not be answered."""

    def __init__(self) -> None:
        self.answered: list[str] = []
        self.batches: list[int] = []
        self.labeller = Labeller(self.read, self.answer)

    def read(self, path: Path) -> Clip:
        content = path.read_bytes() if path.exists() else b"bad"
        if content.startswith(b"bad"):
            raise ClipError(f"{path.name} is damaged. Record it again.", code="corrupt_media")
        return Clip(sha256=content.decode())

    def answer(self, clips: Sequence[Clip], question: str) -> list[Answer]:
        if any(clip.sha256.startswith("odd") for clip in clips):
            raise RuntimeError("shapes\ndo not match")
        self.batches.append(len(clips))
        self.answered += [clip.sha256 for clip in clips]
        p = {"happy": 0.75, "sad": 0.25}
        return [Answer("happy", 0.75, p, "", clip.sha256, True, ("video",), duration_s=1.0) for clip in clips]


def folder_of(tmp_path: Path, *contents: str) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir(exist_ok=True)
    for number, content in enumerate(contents):
        (folder / f"{number}.mp4").write_text(content)
    return folder


def rows_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def run(folder: Path, out: Path, fake: Fake, **options) -> LabelSummary:
    return label([folder], out, labels="happy,sad", labeller=fake.labeller, **options)


def test_every_clip_gets_one_row_with_all_fields(tmp_path: Path) -> None:
    fake, out = Fake(), tmp_path / "new" / "out.jsonl"
    assert run(folder_of(tmp_path, "a", "bad", "c"), out, fake) == LabelSummary(2, 1, 0)
    rows = {row["clip"]: row for row in rows_of(out)}
    assert len(rows) == 3 and len({tuple(row) for row in rows.values()}) == 1  # the same columns in all
    bad = rows[str(tmp_path / "clips" / "1.mp4")]
    assert bad["status"] == "error" and bad["label"] is None
    assert bad["error"] == {"code": "corrupt_media", "message": "1.mp4 is damaged. Record it again."}
    good = rows[str(tmp_path / "clips" / "0.mp4")]
    assert good["status"] == "ok" and good["error"] is None and good["label"] == "happy"
    wanted = "clip sha256 label confidence labels thought text well_formed modalities warnings duration_s"
    assert {*wanted.split(), "model", "seconds"} <= set(good)


def test_labelling_again_repeats_no_clip(tmp_path: Path) -> None:
    fake, out = Fake(), tmp_path / "out.jsonl"
    folder = folder_of(tmp_path, "a", "b")
    run(folder, out, fake)
    before = out.read_bytes()
    assert run(folder, out, fake) == LabelSummary(0, 0, 2)
    assert fake.answered == ["a", "b"] and out.read_bytes() == before


@pytest.mark.parametrize("change", [{"question": "Why?"}, {"think": False}, {"model": "other"}])
def test_another_question_model_or_way_of_asking_is_another_row(tmp_path: Path, change: dict) -> None:
    fake, out = Fake(), tmp_path / "out.jsonl"
    folder = folder_of(tmp_path, "a")
    run(folder, out, fake)
    assert run(folder, out, fake, **change) == LabelSummary(1, 0, 0)
    assert run(folder, out, fake, **change) == run(folder, out, fake) == LabelSummary(0, 0, 1)


def test_a_renamed_clip_is_not_labelled_again_and_a_changed_one_is(tmp_path: Path) -> None:
    fake, out = Fake(), tmp_path / "out.jsonl"
    folder = folder_of(tmp_path, "a", "b")
    run(folder, out, fake)
    (folder / "0.mp4").rename(folder / "renamed.mp4")
    (folder / "1.mp4").write_text("changed")
    assert run(folder, out, fake) == LabelSummary(1, 0, 1)
    assert fake.answered == ["a", "b", "changed"]


def test_copies_of_a_clip_have_a_row_each_and_cost_the_model_nothing(tmp_path: Path) -> None:
    fake, out = Fake(), tmp_path / "out.jsonl"
    folder = folder_of(tmp_path, "same", "other", "same", "same")
    assert run(folder, out, fake) == LabelSummary(4, 0, 0)
    assert sorted(row["clip"][-5:] for row in rows_of(out)) == ["0.mp4", "1.mp4", "2.mp4", "3.mp4"]
    assert Counter(fake.answered) == {"same": 1, "other": 1}
    assert run(folder, out, fake) == LabelSummary(0, 0, 4)


def test_an_error_is_tried_again_and_replaced(tmp_path: Path) -> None:
    fake, out = Fake(), tmp_path / "out.jsonl"
    folder = folder_of(tmp_path, "a", "bad")
    run(folder, out, fake)
    (folder / "1.mp4").write_text("mended")
    assert run(folder, out, fake) == LabelSummary(1, 0, 1)
    assert [row["status"] for row in rows_of(out)] == ["ok", "ok"]


def test_an_error_of_a_clip_that_is_not_asked_for_stays(tmp_path: Path) -> None:
    fake, out = Fake(), tmp_path / "out.jsonl"
    folder = folder_of(tmp_path, "a", "bad")
    run(folder, out, fake)
    label([folder / "0.mp4"], out, labels="happy,sad", labeller=fake.labeller)
    assert [row["status"] for row in rows_of(out)] == ["error", "ok"]


def test_one_clip_that_breaks_the_model_spoils_no_other_of_its_batch(tmp_path: Path) -> None:
    fake, out = Fake(), tmp_path / "out.jsonl"
    assert run(folder_of(tmp_path, "a", "odd", "c"), out, fake) == LabelSummary(2, 1, 0)
    (bad,) = [row for row in rows_of(out) if row["status"] == "error"]
    assert bad["error"] == {"code": "internal", "message": "RuntimeError: shapes do not match"}


def test_clips_go_through_the_model_in_batches_of_one_question(tmp_path: Path) -> None:
    fake, out = Fake(), tmp_path / "out.jsonl"
    folder = folder_of(tmp_path, *"abcdefg")
    manifest = tmp_path / "m.jsonl"
    asked = [None, None, None, "Why?", "Why?", None, None]
    write_manifest(manifest, [Example(folder / f"{i}.mp4", question=q) for i, q in enumerate(asked)])
    label([manifest], out, labels="happy,sad", labeller=fake.labeller, batch_size=2)
    assert fake.batches == [2, 1, 2, 2]
    assert [row["question"] == "Why?" for row in rows_of(out)] == [q == "Why?" for q in asked]


def test_the_limit_counts_clips_of_the_sources_not_rows(tmp_path: Path) -> None:
    fake, out = Fake(), tmp_path / "out.jsonl"
    folder = folder_of(tmp_path, "a", "b", "c")
    assert run(folder, out, fake, limit=2) == LabelSummary(2, 0, 0)
    assert run(folder, out, fake, limit=2) == LabelSummary(0, 0, 2)


@pytest.mark.parametrize("torn", [b'{"clip": "x', b"\xc3", b'{"clip": "/a.mp4", "status": "ok"'])
def test_a_line_torn_by_a_full_disk_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    fake, out = Fake(), tmp_path / "out.jsonl"
    folder = folder_of(tmp_path, "a", "b")
    run(folder, out, fake, limit=1)
    with out.open("ab") as file:
        file.write(torn)
    assert run(folder, out, fake) == LabelSummary(1, 0, 1)
    assert len(rows_of(out)) == 2


def test_a_last_line_without_a_line_end_is_kept(tmp_path: Path) -> None:
    fake, out = Fake(), tmp_path / "out.jsonl"
    folder = folder_of(tmp_path, "a", "b")
    run(folder, out, fake)
    out.write_bytes(out.read_bytes().rstrip(b"\n"))
    assert run(folder, out, fake) == LabelSummary(0, 0, 2)
    assert len(rows_of(out)) == 2


KILLED = """
import os, signal, sys
sys.path.insert(0, "tests")
from pathlib import Path
from test_label import Fake
from omni.label import Labeller, label

fake = Fake()
def answer(clips, question):
    if len(fake.answered) + len(clips) > 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return fake.answer(clips, question)

labeller = Labeller(fake.read, answer)
label([Path(sys.argv[1])], sys.argv[2], labels="happy,sad", batch_size=3, labeller=labeller)
"""


def test_labelling_resumes_after_a_kill_without_repeating_a_clip(tmp_path: Path) -> None:
    folder, out = folder_of(tmp_path, *(f"clip {i}" for i in range(20))), tmp_path / "out.jsonl"
    command = [sys.executable, "-c", KILLED, str(folder), str(out)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    codes = []
    while not codes or codes[-1] == -signal.SIGKILL:
        assert len(codes) < 10
        codes.append(subprocess.run(command, cwd=ROOT, env=environment, capture_output=True).returncode)
    assert codes == [-signal.SIGKILL] * 3 + [0]  # six clips a life, in batches of three
    assert sorted(row["text"] for row in rows_of(out)) == sorted(f"clip {i}" for i in range(20))


def test_sources_are_files_folders_globs_and_manifests_each_clip_once(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a", "b")
    (folder / "deep").mkdir()
    for name in ("deep/c.WAV", "notes.txt", ".hidden.mp4"):
        (folder / name).write_text("c")
    everything = [folder / "0.mp4", folder / "1.mp4", folder / "deep" / "c.WAV"]
    assert [path for path, _ in find_clips([folder])] == everything
    assert [path for path, _ in find_clips([f"{folder}/*.mp4"])] == everything[:2]
    assert [path for path, _ in find_clips([folder / "1.mp4", folder])] == [
        everything[1],
        everything[0],
        everything[2],
    ]
    write_manifest(tmp_path / "m.csv", [Example(everything[2], question="Why?")])
    assert find_clips([tmp_path / "m.csv"]) == [(everything[2], "Why?")]


def test_a_named_file_that_does_not_exist_is_a_row_and_a_source_without_clips_an_error(
    tmp_path: Path,
) -> None:
    out = tmp_path / "out.jsonl"
    assert label([tmp_path / "none.mp4"], out, labeller=Fake().labeller) == LabelSummary(0, 1, 0)
    assert rows_of(out)[0]["sha256"] == ""
    for source in (folder_of(tmp_path), f"{tmp_path}/*.mkv"):
        with pytest.raises(ClipError, match="Give files, folders or manifests"):
            find_clips([source])


def test_a_file_that_is_no_table_of_ours_is_not_touched(tmp_path: Path) -> None:
    folder, fake = folder_of(tmp_path, "a"), Fake()
    manifest = tmp_path / "train.jsonl"
    write_manifest(manifest, [Example(folder / "0.mp4")])
    before = manifest.read_bytes()
    with pytest.raises(ManifestError, match=r"train\.jsonl:1: .*Give --out a new file"):
        run(folder, manifest, fake)
    assert manifest.read_bytes() == before
    for wrong in (tmp_path / "out.csv", tmp_path):
        with pytest.raises(ManifestError, match=r"ends in \.jsonl"):
            run(folder, wrong, fake)


def test_a_bad_label_space_or_batch_size_is_told_before_anything_is_read(tmp_path: Path) -> None:
    for options in ({"labels": "nonsense"}, {"batch_size": 0}):
        with pytest.raises(OmniError, match=r"Use one of|Give 1 or more"):
            label([folder_of(tmp_path, "a")], tmp_path / "out.jsonl", labeller=Fake().labeller, **options)
    assert not (tmp_path / "out.jsonl").exists()


def test_a_full_disk_is_told_and_costs_no_finished_row(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="Cannot write /dev/full"):
        from omni.label import _journal

        with _journal(Path("/dev/full")) as write:
            write({"clip": "a"})


def test_the_hash_of_a_row_is_that_of_the_clip(tmp_path: Path, talking_clip: Path) -> None:
    fake, out = Fake(), tmp_path / "out.jsonl"
    label([talking_clip], out, labels="happy,sad", labeller=Labeller(read_clip, fake.answer))
    assert rows_of(out)[0]["sha256"] == read_clip(talking_clip).sha256
