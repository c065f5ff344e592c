"""Manifests: three formats, one meaning; errors with the line."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from omni.errors import ManifestError
from omni.manifest import FORMATS, Example, check_writable, read_manifest, write_manifest


def examples(folder: Path) -> list[Example]:
    return [
        Example(folder / "a.mp4", "happy", 'She said "oh",\nthen smiled.', "Why?", {"speaker": "03", "täke": "7"}),
        Example(folder / "clips" / "b.wav", None, None, None, {"speaker": "04"}),
        Example(Path("/elsewhere/c d.mkv"), "sad", extra={}),
    ]


@pytest.mark.parametrize("suffix", FORMATS)
def test_what_is_written_is_read_back(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"m{suffix}"
    write_manifest(path, examples(tmp_path))
    assert read_manifest(path) == examples(tmp_path)


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_empty_manifest_is_one_without_rows(suffix: str, tmp_path: Path) -> None:
    write_manifest(tmp_path / f"m{suffix}", [])
    assert read_manifest(tmp_path / f"m{suffix}") == []


def test_jsonl_keeps_nested_extra_columns(tmp_path: Path) -> None:
    extra = {"action_units": {"AU12": [0.1, 0.8]}, "conflict": None, "seed": 7}
    write_manifest(tmp_path / "m.jsonl", [Example(tmp_path / "a.mp4", extra=extra)])
    assert read_manifest(tmp_path / "m.jsonl")[0].extra == extra


def test_a_manifest_moves_with_its_folder(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    write_manifest(tmp_path / "one" / "m.csv", [Example(tmp_path / "one" / "clips" / "a.mp4")])
    os.rename(tmp_path / "one", tmp_path / "two")
    assert read_manifest(tmp_path / "two" / "m.csv")[0].clip == tmp_path / "two" / "clips" / "a.mp4"


def test_a_relative_manifest_path_means_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_manifest("m.jsonl", [Example(Path("clips/a.mp4"))])
    assert read_manifest("m.jsonl") == read_manifest(tmp_path / "m.jsonl") == [Example(tmp_path / "clips" / "a.mp4")]


def test_a_failed_write_leaves_the_old_manifest(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    write_manifest(path, [Example(tmp_path / "a.mp4")])
    with pytest.raises(TypeError):
        write_manifest(path, [Example(tmp_path / "b.mp4", extra={"x": object()})])
    assert [e.clip.name for e in read_manifest(path)] == ["a.mp4"]
    assert os.listdir(tmp_path) == ["m.jsonl"]


def test_a_file_as_windows_writes_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes("clip,label\r\na.mp4,happy\r\n".encode("utf-8-sig"))
    assert read_manifest(tmp_path / "m.csv")[0].label == "happy"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.jsonl", '{"clip": "a.mp4"}\n\n{"clip": ', r"m\.jsonl:3: no JSON"),
        ("m.jsonl", "[1]", r"m\.jsonl:1: wanted a JSON object"),
        ("m.jsonl", '{"label": "sad"}', r"m\.jsonl:1: the row has no 'clip'"),
        ("m.jsonl", '{"clip": "a.mp4", "label": 3}', r"m\.jsonl:1: 'label' must be text"),
        ("m.csv", "clip,label\na.mp4\n", r"m\.csv:2: .*number of columns"),
        ("m.csv", "clip,label\na.mp4,x,y\n", r"m\.csv:2: .*Quote values"),
        ("m.csv", "path,label\na.mp4,x\n", r"m\.csv:2: the row has no 'clip'"),
        ("m.jsonl", b"\xff\xfe\x00", "Save it as UTF-8"),
        ("m.csv", b"clip\n\xff\xfe\n", "Save it as UTF-8"),
        ("m.csv", "clip,rationale\na.mp4," + "x" * 140_000 + "\n", r"m\.csv:2: field larger"),
        ("m.parquet", "clip", "no Parquet file, or a damaged one"),
        ("m.txt", "", r"Use \.jsonl, \.csv, \.parquet"),
    ],
)
def test_an_error_names_the_line_and_what_to_do(name: str, content: str | bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ManifestError, match=message):
        read_manifest(tmp_path / name)


def test_a_missing_manifest_is_told(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="Check the path"):
        read_manifest(tmp_path / "none.jsonl")


def test_an_extra_column_cannot_take_the_name_of_a_known_one(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="Rename it"):
        write_manifest(tmp_path / "m.jsonl", [Example(tmp_path / "a.mp4", extra={"label": "sad"})])


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ('clip,label,text\na.mp4,sad,fine\nb.mp4,angry,"What do\nc.mp4,happy,hello\n', 3),
        ('clip,label,text\na.mp4,sad,"What\nb.mp4,angry,so "he" said\nc.mp4,happy,hello\n', 2),
    ],
)
def test_a_stray_quote_is_an_error_and_swallows_no_row(tmp_path: Path, table: str, line: int) -> None:
    (tmp_path / "m.csv").write_text(table)
    with pytest.raises(ManifestError, match=rf"m\.csv:{line}: "):
        read_manifest(tmp_path / "m.csv")


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_awkward_text_and_moments_come_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"m{suffix}"
    extra = {"text": "a smile\rand a frown", "half": "half\ud83d", "at": datetime(2026, 11, 28, tzinfo=UTC)}
    write_manifest(path, [Example(tmp_path / "a.mp4", extra=extra)])
    (row,) = read_manifest(path)
    at = row.extra["at"].strip('"')
    assert (row.extra["text"], row.extra["half"], at) == (extra["text"], "half?", "2026-11-28T00:00:00+00:00")


@pytest.mark.parametrize("place", ["", "file/m.jsonl"])
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.jsonl").mkdir()
    path = tmp_path / (place or "folder.jsonl")
    for write in (write_manifest, check_writable):
        with pytest.raises(ManifestError, match=r"Cannot write|is a folder"):
            write(path, [Example(tmp_path / "a.mp4")])
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.jsonl"]


def test_any_damage_to_parquet_is_told_as_such(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    write_manifest(path, [Example(tmp_path / "a.mp4", "sad")])
    whole, told = path.read_bytes(), 0
    for place in range(4, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        try:
            read_manifest(path)
        except ManifestError:
            told += 1
    assert told > 20  # and nothing else was raised
