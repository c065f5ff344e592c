"""What the generator plans before it renders anything."""

from collections import Counter

from data.actors import CONFLICT, MISSING, SPLITS, plan


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
