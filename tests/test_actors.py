"""What the generator plans before it renders anything."""

import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from data import actors
from data.__main__ import main
from data.actors import CONFLICT, MISSING, SPLITS, Sources, generate, make, plan
from omni.errors import OmniError


def plans(split: str, count: int = 1500, real: bool = True) -> list:
    return [plan(split, index, 0, real) for index in range(count)]


def test_the_same_seed_plans_the_same_clips_whatever_their_number():
    assert plans("train", 20) == plans("train", 40)[:20]
    assert plans("train", 20) != [plan("train", index, 1, True) for index in range(20)]


def test_splits_share_no_actor():
    actors = {split: {p.actor for p in plans(split)} for split in SPLITS}
    assert len(set.union(*actors.values())) == sum(map(len, actors.values()))


def test_the_label_is_the_emotion_of_the_stronger_sense():
    for p in plans("train"):
        face, voice = p.strength
        assert p.label == (p.face if face >= voice else p.voice)


def test_conflicts_and_missing_senses_are_as_frequent_as_promised():
    drawn = plans("train")
    emotional = [p for p in drawn if p.label != "neutral"]
    assert abs(sum(p.conflict for p in emotional) / len(emotional) - CONFLICT) < 0.05
    assert abs(sum(len(p.modalities) == 1 for p in drawn) / len(drawn) - MISSING) < 0.03
    assert not any(p.conflict and len(p.modalities) == 1 for p in drawn)


def test_labels_are_balanced_and_real_voices_are_for_training_only():
    counts = Counter(p.label for p in plans("train"))
    assert max(counts.values()) < 1.35 * min(counts.values())
    assert any(p.real for p in plans("train")) and not any(p.real for p in plans("test"))
    assert not any(p.real and p.voice == "surprise" for p in plans("train"))


def test_an_unknown_split_is_one_line_that_names_the_splits(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["actors", "--facekit", "nowhere", "--out", "nowhere", "--split", "zz"])
    said = "data: There is no split 'zz'. Choose one of: train, validation, test, more, rl.\n"
    assert stopped.value.code == 2 and capsys.readouterr() == ("", said)


@pytest.fixture
def rendered(monkeypatch):
    """Clips without a head and a voice; gives the names of those that were rendered."""
    names: list[str] = []

    def frames(plan, *_):
        names.append(plan.name)
        return np.zeros((8, 16, 16, 3), np.uint8)

    sound = actors.Sound(np.zeros(16_000, np.float32), {"pitch_st": 1.0}, "joe-1", "One two.", None)
    monkeypatch.setattr(actors, "_frames", frames)
    monkeypatch.setattr(actors, "_synthetic_voice", lambda *_: sound)
    monkeypatch.setattr(actors, "_real_voice", lambda *_: sound)
    return names


def first(seed: int, real: bool, wanted: bool) -> actors.Plan:
    """The first clip with picture and sound, whose voice is real or not."""
    drawn = (plan("train", index, seed, real) for index in range(100))
    return next(p for p in drawn if len(p.modalities) == 2 and p.real == wanted)


def test_a_clip_that_is_there_is_not_made_again(tmp_path, rendered):
    one, sources = first(0, True, True), Sources(Path("head"), Path("emodb"))
    assert make(one, sources, tmp_path) == make(one, sources, tmp_path)
    assert rendered == [one.name]


@pytest.mark.parametrize(
    ("seed", "emodb", "settings", "said"),
    [
        (1, True, {}, "seed 0, not 1"),
        (0, True, {"size": 64}, "size 160, not 64"),
        (0, True, {"fps": 25.0}, "fps None, not 25.0"),
        (0, False, {}, "emodb True, not False"),
    ],
)
def test_a_clip_of_other_settings_is_refused_before_anything_is_made(tmp_path, rendered, seed, emodb, settings, said):
    one, folder = first(0, True, True), Path("emodb")
    make(one, Sources(Path("head"), folder), tmp_path)
    sources = Sources(Path("head"), folder if emodb else None, **settings)
    other = plan("train", one.index, seed, emodb)
    with pytest.raises(OmniError, match=rf"\({said}\)\. Give another --out, or the same settings\.$"):
        make(other, sources, tmp_path)
    with pytest.raises(OmniError, match="Give another --out"):
        generate(sources, tmp_path, "train", one.index + 1, seed)
    assert rendered == [one.name]


def test_half_a_truth_is_made_again(tmp_path, rendered):
    one, sources = first(0, True, True), Sources(Path("head"), Path("emodb"))
    whole = make(one, sources, tmp_path)
    (tmp_path / "train" / f"{one.name}.json").write_text('{"label": "sa')
    assert make(one, sources, tmp_path) == whole
    assert rendered == [one.name] * 2


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["03a01Fa", "03a01Nc"], "has no angry utterance"),
        (["03a01Wa", "08a01Fa"], "no neutral utterance of speaker 03"),
    ],
)
def test_half_of_emodb_is_refused_before_anything_is_made(tmp_path, names, said):
    for name in names:
        (tmp_path / f"{name}.wav").write_bytes(b"")
    voices = {"angry"} if "angry" in said else {"angry", "happy"}
    wanted = [p for p in plans("train", 300) if p.real and p.voice in voices]
    with pytest.raises(OmniError, match=said):
        actors._check_voices(wanted, tmp_path)


def test_a_clip_that_fails_ends_the_run_before_all_others_are_made(tmp_path, monkeypatch):
    begun = []

    def full_disk(batch, *_):
        begun.append(batch)
        time.sleep(0.05)
        raise OmniError("The disk is full.")

    monkeypatch.setattr(actors, "ProcessPoolExecutor", lambda workers, mp_context: ThreadPoolExecutor(workers))
    monkeypatch.setattr(actors, "_make_batch", full_disk)
    with pytest.raises(OmniError, match="disk is full"):
        list(actors._make_all(plans("train", 400), Sources(Path("head")), tmp_path, tmp_path / "train.jsonl", 1))
    assert len(begun) < 20


def test_a_truth_of_an_older_version_must_agree_in_its_emotions(tmp_path, rendered):
    one, sources = first(0, False, False), Sources(Path("head"))
    row = make(one, sources, tmp_path)
    file = tmp_path / "train" / f"{one.name}.json"
    truth = json.loads(file.read_text())
    assert truth.pop("made") == {"emodb": False, "fps": None, "size": 160, "seed": 0} and "made" not in row.extra
    file.write_text(json.dumps(truth))
    assert make(one, sources, tmp_path) == row
    for sense in ("label", "face", "voice"):
        file.write_text(json.dumps(truth | {sense: "none"}))
        with pytest.raises(OmniError, match=rf"{sense} none, not {getattr(one, sense)}.*Give another --out"):
            make(one, sources, tmp_path)
