"""Label spaces: the words of the datasets, what leads to them, and the way from one to another."""

from __future__ import annotations

from pathlib import Path

import pytest

from omni.emotions import ALIASES, EKMAN7, NEAREST, SPACES, SYNONYMS, canonical, label_space, project
from omni.errors import LabelError


@pytest.mark.parametrize("space", SPACES.values(), ids=lambda space: space.name)
def test_every_label_is_its_own_canonical_form(space) -> None:
    assert [canonical(label.upper(), space) for label in space.labels] == list(space.labels)
    assert str(len(space)) == space.name[-len(str(len(space))) :]


def test_no_word_means_two_emotions() -> None:
    words = [word for head, rest in SYNONYMS.items() for word in (head, *rest.split())]
    assert len(words) == len(set(words))


def test_every_label_of_every_space_has_a_way_to_ekman() -> None:
    ekman = label_space("ekman7")
    for space in SPACES.values():
        for label in space.labels:
            assert sum(project({label: 1.0}, space, ekman).values()) == pytest.approx(1)
    assert set(NEAREST) <= set(SYNONYMS)


def test_the_words_of_the_project_are_ekman_and_neutral() -> None:
    assert label_space("ekman7").labels == EKMAN7
    assert {*label_space("dfew7").labels} == {*EKMAN7}


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_other_names_lead_to_the_same_space(alias: str, name: str) -> None:
    assert label_space(alias.upper()) is SPACES[name]


def test_a_list_a_file_and_words_with_commas_give_the_same_labels(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("# my labels\nAngry\n\n  very   happy \n", encoding="utf-8")
    want = ("angry", "very happy")
    assert label_space("Angry,very happy").labels == want
    assert label_space(["angry", "very happy"]).labels == want
    assert label_space(file).labels == label_space(str(file)).labels == want
    assert label_space(file).name == "mine"


@pytest.mark.parametrize(
    ("spec", "advice"),
    [
        ("ekman9", "Use one of ekman7, dfew7, mafw11, ravdess8, mer6"),
        ("x" * 5000, "Use one of ekman7"),
        ("angry,", "1 to 40 characters"),
        ("angry,<b>", "without < and >"),
        ("angry,angry", "Remove one"),
        (["angry"], "at least two labels"),
        ([], "at least two labels"),
        (Path("no/such/file.txt"), "one word per line"),
    ],
)
def test_a_bad_label_space_is_told_with_advice(spec, advice: str) -> None:
    with pytest.raises(LabelError, match=advice):
        label_space(spec)


@pytest.mark.parametrize(
    ("word", "label"),
    [("Anger", "angry"), (" happiness.\n", "happy"), ("'Fearful'", "fear"), ("contempt", None), ("", None)],
)
def test_what_models_write_leads_to_a_label_or_to_none(word: str, label: str | None) -> None:
    assert canonical(word, label_space("ekman7")) == label


def test_two_labels_in_one_answer_are_no_label() -> None:
    assert canonical("angry or sad", label_space("ekman7")) is None


def test_a_custom_space_keeps_its_own_spelling() -> None:
    space = label_space("anger,joy")
    assert canonical("angry", space) == "anger" and canonical("happy", space) == "joy"


@pytest.mark.parametrize("around", ["{}", "{}.", " {}\n", "**{}**", "'{}'"])
def test_a_label_that_ends_in_punctuation_is_its_own_canonical_form(around: str) -> None:
    space = label_space("Angry (cold),angry (hot),[none]")
    assert [canonical(around.format(label.title()), space) for label in space.labels] == list(space.labels)
    assert canonical("angry", space) is None and canonical("()", space) is None


def test_labels_that_differ_in_punctuation_alone_are_two() -> None:
    space = label_space("well!,well?")
    assert (canonical("Well?", space), canonical("well", space)) == ("well?", None)


def test_projection_keeps_shared_labels_and_sums_to_one() -> None:
    source, target = label_space("mafw11"), label_space("mer6")
    uniform = dict.fromkeys(source.labels, 1 / 11)
    carried = project(uniform, source, target)
    assert sum(carried.values()) == pytest.approx(1)
    assert carried["worried"] == pytest.approx(1 / 8)  # three of eleven have no place
    back = project(project({"sad": 1.0}, target, source), source, target)
    assert back["sad"] == 1.0


def test_projection_onto_the_same_space_changes_nothing() -> None:
    space = label_space("ekman7")
    p = dict(zip(space.labels, (0.1, 0.2, 0.05, 0.3, 0.05, 0.1, 0.2), strict=True))
    assert project(p, space, space) == pytest.approx(p)


def test_projection_without_a_common_label_is_an_error() -> None:
    with pytest.raises(LabelError, match="common labels"):
        project({"calm": 1.0}, label_space("ravdess8"), label_space("angry,happy"))
    with pytest.raises(LabelError, match="not in ekman7"):
        project({"calm": 1.0}, label_space("ekman7"), label_space("ekman7"))


def test_a_label_file_of_windows_gives_the_labels_that_it_shows(tmp_path: Path) -> None:
    (tmp_path / "two.txt").write_bytes(b"\xef\xbb\xbfangry\r\nhappy\r\n")
    assert label_space(str(tmp_path / "two.txt")).labels == ("angry", "happy")
