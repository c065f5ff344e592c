"""The readers of corpora, each on a miniature of the folder that its owner distributes.

A miniature is made by a function with the name of the corpus. Its clips are empty files, since readers open none.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest

from data import cremad as cremad_file
from data import ravdess as ravdess_file
from data.__main__ import READERS, main
from omni.answer import format_answer
from omni.emotions import canonical, label_space
from omni.errors import OmniError
from omni.manifest import Example, read_manifest

QUESTION = (
    "As an emotional recognition expert; throughout the video, which emotion conveyed by the characters is the most "
    "obvious to you?"
)
MAFW_WORDS = "anger disgust fear happiness neutral sadness surprise contempt anxiety helplessness disappointment"
TAGS = "Output the thinking process in <think> </think> and final emotion in <answer> </answer> tags."


def clips(folder: Path, names: Iterable[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def table(path: Path, *rows: Sequence[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows(rows)


def dfew(root: Path) -> None:
    """Ten clips in two parts; clip n has label code n (8, 9, 10: 1, 2, 3), and two of them are tested in each fold."""
    for number in range(1, 11):
        clips(root / "Clip" / "original" / f"part_{1 + number // 6}", [f"{number}.mp4"])
    clips(root / "Clip" / "clip_224x224" / "00001", ["00001_001.jpg"])
    rows = [(number, (number - 1) % 7 + 1) for number in range(1, 11)]
    for fold in range(1, 6):
        test = rows[2 * fold - 2 : 2 * fold]
        for part, members in (("train", [row for row in rows if row not in test]), ("test", test)):
            path = root / "EmoLabel_DataSplit" / f"{part}(single-labeled)" / f"set_{fold}.csv"
            table(path, ("video_name", "label"), *members)


def mafw(root: Path) -> None:
    """Eleven clips, one of each label."""
    lines = [f"{number:05}.mp4 {word}\n" for number, word in enumerate(MAFW_WORDS.split(), start=25)]
    clips(root / "data" / "clips", [line.split()[0] for line in lines])
    for fold in range(1, 6):
        folder = root / "Train & Test Set" / "single" / "no_caption" / f"set_{fold}"
        folder.mkdir(parents=True)
        test = lines[fold - 1 :: 5]
        (folder / "test.txt").write_text("".join(test))
        (folder / "train.txt").write_text("".join(line for line in lines if line not in test))


def ravdess(root: Path) -> None:
    """Every actor says two sentences in two emotions, with picture and sound, without sound, and sung."""
    for number in range(1, 25):
        codes = ("01-01-06-02-01-01", "01-01-02-01-02-02", "02-01-06-02-01-01", "01-02-03-01-01-01")
        folder = root / f"Video_Speech_Actor_{number:02}" / f"Actor_{number:02}"
        clips(folder, [f"{code}-{number:02}.mp4" for code in codes])
    clips(root / "Actor_01", ["03-01-05-01-01-01-01.wav"])


def cremad(root: Path) -> None:
    """Every actor says one sentence, and one of the clips that the owners know to be broken is there."""
    emotions = ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")
    names = [f"{1001 + k}_IEO_{emotions[k % 6]}_{('LO', 'MD', 'HI', 'XX')[k % 4]}" for k in range(91)]
    clips(root / "VideoFlash", [f"{name}.flv" for name in [*names, "1076_MTI_SAD_XX"]])
    clips(root / "AudioWAV", [f"{name}.wav" for name in names[:20]])
    (root / "SentenceFilenames.csv").write_text('"Stimulus_Number","Filename"\n')


def meld(root: Path) -> None:
    header = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime"
    emotions = ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger")
    broken = {"train": (125, 3), "dev": (110, 7), "test": None}
    for split, folder in (
        ("train", root / "train" / "train_splits"),
        ("dev", root / "dev_splits_complete"),
        ("test", root / "output_repeated_splits_test"),
    ):
        rows = [
            (k, "Oh, no!\nI mean it.", "Phoebe", word, "negative", 0, k, 8, 21, "00:16:16,059", "00:16:21,731")
            for k, word in enumerate(emotions)
        ]
        if broken[split]:
            rows.append((7, "What?", "Ross", "joy", "positive", *broken[split], 8, 21, "0:16", "0:21"))
        path = root / "train" if split == "train" else root
        table(path / f"{split}_sent_emo.csv", header.split(","), *rows)
        clips(folder, [f"dia0_utt{k}.mp4" for k in range(7)])
    clips(root / "output_repeated_splits_test", ["final_videos_testdia0_utt0.mp4", "._dia0_utt1.mp4"])


def mer2023(root: Path) -> None:
    for split, first in (("train", 0), ("test1", 100), ("test2", 200), ("test3", 300)):
        words = ("neutral", "angry", "happy", "sad", "worried", "surprise")
        rows = [[f"sample_{first + k:08}", word, f"{k - 2:.1f}"] for k, word in enumerate(words)]
        header = ["name", "discrete", "valence"]
        if split == "test3":
            header, rows = header[:2], [row[:2] for row in rows]
        table(root / f"{split}-label.csv", header, *rows)
        clips(root / split, [f"{row[0]}.{'mp4' if split == 'test3' else 'avi'}" for row in rows])


def mer2024(root: Path) -> None:
    table(root / "label-disdim.csv", ("name", "discrete", "valence"), ("sample_00000967", "worried", -2))
    clips(root / "video-labeled", ["sample_00000967.mp4"])
    table(root / "reference-semi.csv", ("name", "discrete"), ("samplenew_00000001", "happy"))
    table(root / "reference-noise.csv", ("name", "discrete"), ("samplenew_00000002", "sad"))
    clips(root / "video-unlabeled-with-test2noise", [f"samplenew_{number:08}.mp4" for number in range(9)])


def emer(root: Path) -> None:
    """The owners' folder, and MER2023 unpacked into it."""
    mer2023(root)
    table(
        root / "dataset-v2" / "final-EMER-reason.csv",
        ("name", "chinese", "english"),
        ("sample_00000001", "在视频中，他怒吼。", 'He roars "no", fast and loud.'),
        ("sample_00000104", "在视频中，她皱眉。", "Her brow is furrowed."),
    )
    table(
        root / "dataset-v1" / "gt-eng.csv",
        ("names", "emotions", "subtitles", "reasons"),
        ("sample_00000003", "sad", "Don't go.", "In the video, she weeps."),
    )


def mer2025(root: Path) -> None:
    table(root / "track3_train_ovmerd.csv", ("name", "reason"), ("sample_00000007", "A smile."))
    table(root / "track2_train_ovmerd.csv", ("name", "openset"), ("sample_00000007", "['excited', 'joyful']"))
    table(root / "track1_train_disdim.csv", ("name", "discrete", "valence"), ("sample_00000007", "happy", 3))
    clips(root / "video", ["sample_00000007.mp4"])


def entry(video: str, asked: str, answered: str) -> dict[str, object]:
    turns = [{"from": "human", "value": f"<video>\n<audio>\n{asked}"}, {"from": "gpt", "value": answered}]
    return {"video": video, "conversations": turns}


def r1omni(root: Path) -> None:
    entries = [
        entry("MER24/sample_00000967.mp4", f"{QUESTION} {TAGS}", format_answer("anxious", "His brow is furrowed.")),
        entry("DFEW/videos/1.mp4", QUESTION, "sad"),
    ]
    clips(root / "MER24", ["sample_00000967.mp4"])
    clips(root / "DFEW" / "videos", ["1.mp4"])
    (root / "cold_start.json").write_text(json.dumps(entries, indent=4))


MINIATURES: dict[str, Callable[[Path], None]] = {
    make.__name__: make for make in (dfew, mafw, ravdess, cremad, meld, emer, mer2023, mer2024, r1omni)
}
SIZES = {"dfew": 10, "mafw": 11, "ravdess": 48, "cremad": 91, "meld": 21} | {
    "emer": 2, "mer2023": 6, "mer2024": 1, "r1omni": 2
}  # fmt: skip
SPACES = {"dfew": "dfew7", "mafw": "mafw11", "ravdess": "ravdess8", "cremad": "cremad6", "meld": "meld7"} | {
    "emer": "mer6", "mer2023": "mer6", "mer2024": "mer6", "r1omni": "mafw11"
}  # fmt: skip
FIVE_FOLDS = ("dfew", "mafw", "ravdess", "cremad")


@pytest.fixture
def root(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The miniature of the corpus that the test names."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    MINIATURES[request.getfixturevalue("name")](folder)
    return folder


def command(name: str, root: Path, *options: str) -> list[Example]:
    """What `python -m data NAME` writes."""
    out = root.parent / "out" / "manifest.jsonl"
    with pytest.raises(SystemExit) as end:
        main([name, "--root", str(root), "--out", str(out), *options])
    assert not end.value.code
    return read_manifest(out)


def names(examples: Sequence[Example]) -> list[str]:
    return [example.clip.stem for example in examples]


def labels(examples: Sequence[Example]) -> dict[str, str | None]:
    return {example.clip.stem: example.label for example in examples}


def test_every_corpus_that_is_promised_has_a_reader() -> None:
    assert set(READERS) == set(MINIATURES) == set(SIZES) == set(SPACES)


@pytest.mark.parametrize("name", MINIATURES)
def test_one_command_writes_a_manifest_of_clips_that_exist(name: str, root: Path) -> None:
    examples = command(name, root)
    assert len(examples) == len({example.clip for example in examples}) == SIZES[name]
    assert all(example.clip.is_file() and example.label in label_space(SPACES[name]) for example in examples)


@pytest.mark.parametrize("name", MINIATURES)
def test_a_corpus_whose_folders_are_links_gives_the_same_clips(name: str, root: Path) -> None:
    want = labels(READERS[name](root))
    for folder in [path for path in root.iterdir() if path.is_dir()]:
        elsewhere = folder.rename(root.parent / folder.name)
        folder.symlink_to(elsewhere, target_is_directory=True)
    link = root.parent / "link"
    link.symlink_to(root, target_is_directory=True)
    assert labels(command(name, link)) == want


@pytest.mark.parametrize("name", FIVE_FOLDS)
def test_the_five_test_parts_are_the_corpus_and_no_clip_of_a_fold_is_in_both_parts(name: str, root: Path) -> None:
    whole = READERS[name](root)
    tested: list[Path] = []
    for fold in range(1, 6):
        train, test = (READERS[name](root, fold=fold, split=part) for part in ("train", "test"))
        assert READERS[name](root, fold=fold) == [*train, *test]
        assert {one.clip for one in train} | {one.clip for one in test} == {one.clip for one in whole}
        assert not {one.clip for one in train} & {one.clip for one in test} and train and test
        assert {(one.extra["fold"], one.extra["split"]) for one in train} == {(fold, "train")}
        assert [one.clip for one in test] == [one.clip for one in whole if one.extra["fold"] == fold]
        tested += [one.clip for one in test]
    assert sorted(tested) == sorted(one.clip for one in whole)


@pytest.mark.parametrize(("name", "sizes"), [("ravdess", [5, 5, 5, 5, 4]), ("cremad", [18, 18, 18, 18, 19])])
def test_nobody_is_trained_on_and_tested(name: str, sizes: list[int], root: Path) -> None:
    for fold, size in enumerate(sizes, start=1):
        train, test = (
            {one.extra["actor"] for one in READERS[name](root, fold=fold, split=part)} for part in ("train", "test")
        )
        assert not train & test and len(test) == size and len(train) == sum(sizes) - size


@pytest.mark.parametrize("file", [ravdess_file, cremad_file])
def test_every_actor_is_tested_in_one_fold(file) -> None:
    actors = [actor for part in file.ACTORS.values() for actor in part]
    first, count = (1, 24) if file is ravdess_file else (1001, 91)
    assert sorted(map(int, actors)) == list(range(first, first + count))


@pytest.mark.parametrize("name", ["dfew"])
def test_dfew_numbers_mean_the_owners_words_whatever_folder_the_clips_are_in(
    name: str, root: Path, tmp_path: Path
) -> None:
    found = labels(READERS[name](root))
    assert [found[number] for number in "1234567"] == list(label_space("dfew7").labels)
    other = tmp_path / "videos"
    clips(other, [f"{number:05}.mp4" for number in range(1, 11)])
    assert names(READERS[name](root, clips=other))[0] == "00001"


@pytest.mark.parametrize("name", ["mafw"])
def test_mafw_nouns_become_the_adjectives_of_its_label_space(name: str, root: Path) -> None:
    found = labels(READERS[name](root))
    assert [found[f"{number:05}"] for number in range(25, 36)] == list(label_space("mafw11").labels)


@pytest.mark.parametrize("name", ["ravdess"])
def test_ravdess_lists_speech_with_picture_and_sound_unless_asked_otherwise(name: str, root: Path) -> None:
    speech = READERS[name](root)
    assert {one.clip.name[:5] for one in speech} == {"01-01"}
    assert (speech[0].label, speech[1].label) == ("calm", "fear")  # of actor 02, who is tested in fold 1
    assert speech[1].extra == {
        **{"modality": "av", "channel": "speech", "intensity": "strong", "text": "Kids are talking by the door"},
        **{"repetition": "1", "actor": "02", "sex": "female", "fold": 1},
    }
    assert {one.label for one in READERS[name](root, channel="song")} == {"happy"}
    assert {one.clip.name[:5] for one in READERS[name](root, modality="video")} == {"02-01"}
    assert names(READERS[name](root, modality="audio")) == ["03-01-05-01-01-01-01"]


@pytest.mark.parametrize("name", ["cremad"])
def test_the_one_clip_of_cremad_that_is_named_otherwise_is_read(name: str, root: Path) -> None:
    clips(root / "AudioWAV", ["1040_ITH_SAD_X.wav"])  # so it is distributed
    (found,) = [e for e in cremad_file.read_cremad(root, modality="audio") if e.clip.stem == "1040_ITH_SAD_X"]
    assert (found.label, found.extra["intensity"]) == ("sad", "unspecified")


@pytest.mark.parametrize("name", ["cremad"])
def test_cremad_gives_intensity_and_words_and_leaves_out_what_its_owners_call_broken(name: str, root: Path) -> None:
    examples = READERS[name](root)
    assert examples[2].label == "fear" and examples[2].clip.name == "1003_IEO_FEA_HI.flv"
    assert examples[2].extra["intensity"] == "high" and examples[2].extra["text"] == "It's eleven o'clock"
    assert "1076_MTI_SAD_XX" not in names(examples)
    assert {one.clip.suffix for one in READERS[name](root, modality="audio")} == {".wav"}


@pytest.mark.parametrize("name", ["meld"])
def test_meld_keeps_its_splits_and_its_words_and_leaves_out_the_two_broken_rows(name: str, root: Path) -> None:
    examples = READERS[name](root)
    assert [one.extra["split"] for one in examples] == ["train"] * 7 + ["dev"] * 7 + ["test"] * 7
    assert examples[4].label == "happy" and examples[4].extra["text"] == "Oh, no!\nI mean it."
    assert {one.extra["split"] for one in READERS[name](root, split="dev")} == {"dev"}
    assert (root / "train" / "train_splits" / "dia0_utt0.mp4") == examples[0].clip


@pytest.mark.parametrize("name", ["mer2023"])
def test_mer2023_has_valence_where_its_tables_have_it(name: str, root: Path) -> None:
    train, test = READERS[name](root), READERS[name](root, split="test3")
    assert train[1].label == "angry" and train[1].extra == {"split": "train", "valence": -1.0}
    assert test[0].extra == {"split": "test3"} and test[0].clip.suffix == ".mp4"
    assert len(READERS[name](root, split="all")) == 24


@pytest.mark.parametrize("name", ["mer2024"])
def test_mer2024_finds_the_clips_of_its_tests_among_those_without_labels(name: str, root: Path) -> None:
    assert [one.label for one in READERS[name](root, split="all")] == ["worried", "happy", "sad"]
    assert names(READERS[name](root, split="noise")) == ["samplenew_00000002"]


@pytest.mark.parametrize("name", ["emer"])
def test_emer_gives_reasons_as_targets_with_the_labels_of_mer(name: str, root: Path) -> None:
    first, second = command(name, root)
    assert first.rationale == 'He roars "no", fast and loud.' and first.label == "angry"
    assert second.label == "worried" and second.clip.parent.name == "test1"
    (short,) = command(name, root, "--version", "v1")
    assert (short.label, short.rationale) == ("sad", "In the video, she weeps.")
    assert short.extra == {"version": "v1", "subtitle": "Don't go."}
    for example in (first, second, short):  # what a cold start makes of it
        assert format_answer(example.label or "", example.rationale or "").startswith("<think>")


@pytest.mark.parametrize("name", ["emer"])
def test_emer_takes_its_clips_from_another_folder_and_does_not_invent_labels(
    name: str, root: Path, tmp_path: Path
) -> None:
    notes, videos = tmp_path / "notes", tmp_path / "videos"
    shutil.copytree(root / "dataset-v2", notes / "EMER" / "dataset-v2")
    assert labels(READERS[name](notes, clips=root)) == labels(READERS[name](root))
    clips(videos, ["sample_00000001.mp4", "sample_00000104.mp4"])
    with pytest.raises(OmniError, match="--no-labels"):
        READERS[name](notes, clips=videos)
    assert [one.label for one in command(name, notes, "--clips", str(videos), "--no-labels")] == [None, None]


def test_emer_of_mer2025_has_the_open_vocabulary_beside_the_label(tmp_path: Path) -> None:
    mer2025(tmp_path / "mer2025")
    (example,) = command("emer", tmp_path / "mer2025", "--version", "ovmerd")
    assert example.label == "happy" and example.extra["openset"] == ["excited", "joyful"]
    assert example.rationale == "A smile."
    table(tmp_path / "mer2025" / "track2_train_ovmerd.csv", ("name", "openset"), ("sample_00000008", "['sad']"))
    with pytest.raises(OmniError, match=r"track3_train_ovmerd\.csv:2: .* has no row of 'sample_00000007'"):
        READERS["emer"](tmp_path / "mer2025", version="ovmerd")


@pytest.mark.parametrize("name", ["r1omni"])
def test_r1omni_gives_the_question_without_placeholders_and_the_answer_without_tags(name: str, root: Path) -> None:
    cold, bare = command(name, root)
    assert (cold.label, cold.rationale, cold.question) == ("anxious", "His brow is furrowed.", QUESTION)
    assert (bare.label, bare.rationale, bare.question) == ("sad", None, QUESTION)
    assert bare.clip == root / "DFEW" / "videos" / "1.mp4"


@pytest.mark.parametrize("name", ["r1omni"])
def test_r1omni_reads_json_lines_clips_elsewhere_and_open_words(name: str, root: Path, tmp_path: Path) -> None:
    path = tmp_path / "rl.jsonl"
    path.write_text(json.dumps(entry("1.mp4", QUESTION, "Deeply  moved")) + "\n\n")
    with pytest.raises(OmniError, match=r"rl\.jsonl:1: unknown label 'Deeply  moved'"):
        READERS[name](path, clips=root / "DFEW" / "videos")
    (example,) = command(name, path, "--clips", str(root / "DFEW" / "videos"), "--labels", "open")
    assert example.label == "deeply moved"


def replaced(path: str, old: str, new: str) -> Callable[[Path], None]:
    """A fault: another text in a file."""

    def break_it(root: Path) -> None:
        text = (root / path).read_text(encoding="utf-8-sig")
        assert old in text
        (root / path).write_text(text.replace(old, new, 1), encoding="utf-8")

    return break_it


def removed(path: str) -> Callable[[Path], None]:
    return lambda root: (root / path).unlink()


def added(path: str, text: str = "") -> Callable[[Path], None]:
    def add(root: Path) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)

    return add


DFEW_1, MAFW_1 = (
    "EmoLabel_DataSplit/test(single-labeled)/set_1.csv",
    "Train & Test Set/single/no_caption/set_1/test.txt",
)
REASONS = "dataset-v2/final-EMER-reason.csv"
FAULTS: list[tuple[str, list[str], Callable[[Path], None], str]] = [
    # a missing file
    ("dfew", [], removed("Clip/original/part_1/2.mp4"), r"set_1\.csv:3: there is no clip '2' below .*original"),
    ("dfew", [], removed(DFEW_1), r"There is no file .*test\(single-labeled\)/set_1\.csv\. Give --root"),
    ("mafw", [], removed("data/clips/00025.mp4"), r"set_1/test\.txt:1: there is no clip '00025'"),
    ("ravdess", ["--modality", "audio"], removed("Actor_01/03-01-05-01-01-01-01.wav"), "has no clip of that kind"),
    (
        "cremad",
        [],
        added("VideoFlash/1001_IEO_ANG_LO.flv", "version https://git-lfs.github.com/spec/v1"),
        "git lfs pull",
    ),
    ("meld", [], removed("dev_splits_complete/dia0_utt2.mp4"), r"dev_sent_emo\.csv:7: there is no clip 'dia0_utt2'"),
    ("meld", [], removed("test_sent_emo.csv"), r"has no test_sent_emo\.csv or test/test_sent_emo\.csv"),
    ("emer", [], removed("train/sample_00000001.avi"), r"final-EMER-reason\.csv:2: there is no clip 'sample_00000001'"),
    ("mer2023", [], removed("train/sample_00000002.avi"), r"train-label\.csv:4: there is no clip 'sample_00000002'"),
    ("mer2024", [], removed("label-disdim.csv"), r"There is no file .*label-disdim\.csv"),
    ("r1omni", [], removed("DFEW/videos/1.mp4"), r"cold_start\.json:15: there is no clip .*--clips"),
    # an unknown label
    ("dfew", [], replaced(DFEW_1, "2,2", "2,8"), r"set_1\.csv:3: unknown label '8'\. Known are 1 \(happy\)"),
    ("mafw", [], replaced(MAFW_1, "anger", "boredom"), r"test\.txt:1: unknown label 'boredom'\. mafw11 has angry"),
    ("ravdess", [], added("Actor_01/01-01-09-01-01-01-01.mp4"), r"01-01-09-01-01-01-01\.mp4: unknown emotion '09'"),
    ("ravdess", [], added("Actor_01/clip.mp4"), "is not a RAVDESS name such as"),
    ("cremad", [], added("VideoFlash/1001_IEO_SUR_XX.flv"), r"1001_IEO_SUR_XX\.flv: unknown emotion 'SUR'"),
    ("cremad", [], added("VideoFlash/1092_IEO_ANG_XX.flv"), "is not a CREMA-D name such as"),
    ("meld", [], replaced("test_sent_emo.csv", "disgust", "bored"), r"test_sent_emo\.csv:13: unknown label 'bored'"),
    (
        "emer",
        [],
        replaced("train-label.csv", "angry", "cross"),
        r"train-label\.csv:3: unknown label 'cross'\. mer6 has",
    ),
    ("mer2023", [], replaced("train-label.csv", "sad", "blue"), r"train-label\.csv:5: unknown label 'blue'"),
    ("mer2024", [], replaced("label-disdim.csv", "worried", "fear"), r"label-disdim\.csv:2: unknown label 'fear'"),
    ("r1omni", [], replaced("cold_start.json", '"sad"', '"blue"'), r"cold_start\.json:15: unknown label 'blue'"),
    # a duplicate
    ("dfew", [], replaced(DFEW_1, "2,2", "1,1"), r"set_1\.csv:3: '1' stands already at .*set_1\.csv:2\."),
    ("dfew", ["--fold", "1"], replaced(DFEW_1, "2,2", "3,3"), r"test.*set_1\.csv:3: '3' stands already at .*train"),
    ("dfew", [], replaced(DFEW_1, "2,2", "3,3"), r"set_2\.csv:2: '3' stands already at .*set_1\.csv:3"),
    ("mafw", [], replaced(MAFW_1, "00030.mp4 sadness", "00025.mp4 anger"), r"test\.txt:2: '00025' stands already"),
    ("ravdess", [], added("copy/Actor_01/01-01-06-02-01-01-01.mp4"), r"copy/.*: '01-01-06.*' stands already at"),
    (
        "meld",
        [],
        replaced("dev_sent_emo.csv", ",0,2,8,", ",0,1,8,"),
        r"dev_sent_emo\.csv:7: 'dia0_utt1' stands already",
    ),
    ("emer", [], replaced(REASONS, "00000104", "00000001"), r"reason\.csv:3: 'sample_00000001' stands already at .*:2"),
    (
        "mer2023",
        [],
        replaced("train-label.csv", "00000002", "00000001"),
        r"train-label\.csv:4: 'sample_00000001' stands",
    ),
    (
        "r1omni",
        [],
        replaced("cold_start.json", "DFEW/videos/1", "MER24/sample_00000967"),
        r"\.json:15: .* stands already",
    ),
    # an empty part
    ("dfew", [], added(DFEW_1, "video_name,label\n"), r"set_1\.csv:1: a header and no rows"),
    ("mafw", ["--fold", "1"], added(MAFW_1, "\n"), r"set_1/test\.txt:1: no clips"),
    (
        "ravdess",
        ["--fold", "2", "--channel", "song", "--modality", "audio"],
        lambda _: None,
        "fold 2 has no train clip",
    ),
    ("cremad", ["--fold", "3", "--modality", "audio"], lambda _: None, r"AudioWAV: fold 3 has no test clip"),
    ("meld", [], added("test_sent_emo.csv", ""), r"test_sent_emo\.csv:1: no column 'Utterance' in an empty file"),
    ("r1omni", [], added("cold_start.json", "[]"), r"cold_start\.json has no clip"),
    # other faults of files
    ("dfew", [], replaced(DFEW_1, "label", "emotion"), r"set_1\.csv:1: no column 'label' in video_name, emotion"),
    ("dfew", [], replaced(DFEW_1, "2,2", "2,2,2"), r"set_1\.csv:3: the row has another number of columns"),
    ("mafw", [], replaced(MAFW_1, "anger", "anger fear"), r"test\.txt:1: wanted a clip and a label"),
    ("emer", [], replaced(REASONS, "Her brow is furrowed.", ""), r"reason\.csv:3: no reasons"),
    ("emer", [], replaced("test1-label.csv", "00000104", "00000199"), r"reason\.csv:3: no table of .* has a label of"),
    ("mer2023", [], replaced("train-label.csv", "-1.0", "low"), r"train-label\.csv:3: valence 'low' is no number"),
    ("r1omni", [], replaced("cold_start.json", '"sad"', '"sad'), r"cold_start\.json:2\d: no JSON"),
    (
        "r1omni",
        [],
        replaced("cold_start.json", "furrowed.</think>", ""),
        r"cold_start\.json:2: the answer is not <think>",
    ),
    (
        "r1omni",
        [],
        replaced("cold_start.json", '"gpt"', '"assistant"'),
        r"cold_start\.json:2: 'conversations' should be",
    ),
    ("r1omni", [], added("other.json", "[]"), r"has cold_start\.json, other\.json\. Give --root the file itself"),
    # options
    ("dfew", ["--fold", "6"], lambda _: None, "Unknown fold 6. Use 1, 2, 3, 4 or 5"),
    ("mafw", ["--split", "test"], lambda _: None, "--split test needs a fold. Add --fold 1"),
    ("ravdess", ["--modality", "text"], lambda _: None, "Unknown modality 'text'. Use av, video, audio"),
    ("cremad", ["--modality", "video"], lambda _: None, "Unknown modality 'video'. Use av, audio"),
    ("meld", ["--split", "valid"], lambda _: None, "Unknown split 'valid'. Use train, dev, test or all"),
    ("emer", ["--version", "v3"], lambda _: None, "Unknown version 'v3'. Use v1, v2, ovmerd"),
]


@pytest.mark.parametrize(("name", "options", "fault", "says"), FAULTS, ids=[f"{f[0]}-{f[3][:30]}" for f in FAULTS])
def test_a_fault_is_told_with_file_and_line_and_no_manifest_is_written(
    name: str, options: list[str], fault: Callable[[Path], None], says: str, root: Path, capsys
) -> None:
    fault(root)
    out = root.parent / "manifest.jsonl"
    with pytest.raises(SystemExit) as end:
        main([name, "--root", str(root), "--out", str(out), *options])
    assert end.value.code == 2 and not out.exists()
    error = capsys.readouterr().err
    assert re.search(says, error), error
    assert error.count("\n") == 1 and error.startswith("data: ")


@pytest.mark.parametrize("name", ["mer2024"])
def test_a_table_in_another_encoding_is_told_with_its_line(name: str, root: Path) -> None:
    (root / "label-disdim.csv").write_bytes("name,discrete\nsample_1,担忧\n".encode("gb18030"))
    with pytest.raises(OmniError, match=r"label-disdim\.csv:2: no UTF-8 text"):
        READERS[name](root)


@pytest.mark.parametrize("name", MINIATURES)
def test_help_says_what_each_option_is(name: str, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    text = capsys.readouterr().out
    assert not end.value.code and "--root" in text and "--out" in text and "[required]" in text


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ("cremad6", "Anger Disgust Fear Happy Neutral Sad"),
        ("meld7", "neutral surprise fear sadness joy disgust anger"),
        ("mer6", "angry happy neutral sad surprise worried"),
    ],
)
def test_the_owners_words_are_the_labels_of_the_space_in_its_order(space: str, words: str) -> None:
    assert tuple(canonical(word, label_space(space)) for word in words.split()) == label_space(space).labels
