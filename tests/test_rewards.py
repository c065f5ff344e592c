"""Rewards: pure, ranged, the same judge as evaluation, and what each way to game them earns.

`docs/rewards.md` names the tests that show how a reward is gamed; a test here keeps the two together.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from data.expressions import RECIPES, sample_action_units
from data.rationale import write_rationale
from omni.answer import format_answer, parse_answer
from omni.cues.lexicon import CUES
from omni.cues.truth import claim_precision, cue_truth
from omni.emotions import EKMAN7, FAMILIES, HEADS, SYNONYMS, WHEELS, head_of, label_space, project
from omni.errors import LabelError, ManifestError, OmniError
from omni.manifest import Example, read_manifest, write_manifest
from omni.metrics import score_answer, wheel_score
from rewards import DEFAULT, REWARDS, needed_columns, select
from rewards.__main__ import main
from rewards.accuracy import accuracy_reward
from rewards.agreement import agreement_reward, concluding_emotion
from rewards.confidence import LEAST, SCALE, confidence_reward, state_confidence, stated_confidence
from rewards.cues import LONGEST, cues_reward
from rewards.dryrun import correlation, dry_run, read_saved
from rewards.format import completion_text, format_reward
from rewards.length import LIMIT, length_reward, pieces
from rewards.order import order_reward
from rewards.wheel import wheel_precision_reward, wheel_recall_reward

ROOT = Path(__file__).parent.parent
RANGES = {
    "format": (0, 1),
    "accuracy": (0, 1),
    "wheel_precision": (0, 1),
    "wheel_recall": (0, 1),
    "length": (-2, 0),
    "agreement": (0, 1),
    "cues": (-1, 1),
    "order": (0, 1),
    "confidence": (LEAST, 0.2),
}
ANGRY_FACE = {"action_units": {"AU4": 0.9, "AU7": 0.8, "AU23": 0.7}}
COMPLETIONS = [
    format_answer("happy", "The lip corners are raised."),
    format_answer("happy"),
    "happy",
    "",
    "<think>a</think><answer>sad</answer> and more",
]
ADVERSARIAL = [
    *COMPLETIONS,
    format_answer("angry", f"The brows are lowered and the lips are tightened: anger. {state_confidence(0.7)}"),
    "<think></think><answer></answer>",
    "<think><think>joy</think></think><answer>happy</answer><answer>sad</answer>",
    "</answer></think><answer><think>",
    "<answer>" + ", ".join(HEADS) + "</answer>",
    "<think>" + " ".join(HEADS) + " confidence 1 confidence 0</think><answer>fear</answer>",
    format_answer("愤怒", "眉毛低垂。这是愤怒。"),
    format_answer("colère", "Les sourcils sont froncés, c’est la colère."),
    "\x00\ud800\u202e İ ß 🙂 <answer>\u00a0sad\u3000</answer>",
    "Confidence: 99999999999999999999",
    "no " * 500,
]


def columns(count: int) -> dict[str, list]:
    """What every reward needs, and some columns that none knows."""
    return {
        "label": ["angry"] * count,
        "openset": ["angry, tense"] * count,
        "truth": [json.dumps(ANGRY_FACE)] * count,
        "clip": ["a.mp4"] * count,
        "shuffled_accuracy": [0.0] * count,
        "prompts": ["?"] * count,
        "speaker": [3] * count,
    }


def thinking(thought: str, label: str = "angry") -> str:
    return f"<think>{thought}</think><answer>{label}</answer>"


# All rewards: the contract


@pytest.mark.parametrize("name", REWARDS)
def test_every_reward_keeps_to_its_range_whatever_the_completion(name: str) -> None:
    low, high = RANGES[name]
    for value in REWARDS[name](ADVERSARIAL, **columns(len(ADVERSARIAL))):
        assert value is not None and low - 1e-9 <= value <= high + 1e-9


@pytest.mark.parametrize("name", [name for name in REWARDS if name != "order"])
def test_a_completion_earns_the_same_alone_and_in_a_batch(name: str) -> None:
    together = REWARDS[name](ADVERSARIAL, **columns(len(ADVERSARIAL)))
    alone = [REWARDS[name]([completion], **columns(1))[0] for completion in ADVERSARIAL]
    assert together == alone
    assert REWARDS[name](ADVERSARIAL[::-1], **columns(len(ADVERSARIAL))) == together[::-1]


@pytest.mark.parametrize("name", REWARDS)
def test_chat_completions_are_judged_as_text_and_other_columns_do_not_disturb(name: str) -> None:
    chats = [[{"role": "assistant", "content": text}] for text in ADVERSARIAL]
    parts = [[{"role": "assistant", "content": [{"type": "text", "text": text}]}] for text in ADVERSARIAL]
    given = {**columns(len(ADVERSARIAL)), "trainer_state": None, "log_metric": print}
    want = REWARDS[name](ADVERSARIAL, **given)
    assert REWARDS[name](chats, **given) == REWARDS[name](parts, **given) == want
    assert [completion_text(chat) for chat in chats] == ADVERSARIAL


@pytest.mark.parametrize("name", REWARDS)
def test_no_completions_give_no_rewards(name: str) -> None:
    assert REWARDS[name]([], **columns(0)) == []


@pytest.mark.parametrize("name", ["accuracy", "wheel_precision", "wheel_recall", "cues", "order", "confidence"])
def test_a_clip_of_which_nothing_is_known_has_no_reward_whatever_is_written(name: str) -> None:
    unknown = {column: [None] * len(ADVERSARIAL) for column in columns(1)}
    assert REWARDS[name](ADVERSARIAL, **unknown) == [None] * len(ADVERSARIAL)


@pytest.mark.parametrize("name", ["agreement", "cues", "confidence"])
def test_a_thought_that_was_not_asked_for_is_not_judged(name: str) -> None:
    given = columns(2) | {"think": [False, True]}
    first, second = REWARDS[name]([format_answer("angry")] * 2, **given)
    assert first is None and second is not None


@pytest.mark.parametrize("name", REWARDS)
@pytest.mark.parametrize(
    "stuff", ["brows and smiles ", "a", "anger ", "a,", "<", ".", "高", "no anger, ", "confidence "]
)
def test_a_huge_completion_takes_linear_time(name: str, stuff: str) -> None:
    body = stuff * (200_000 // len(stuff))
    huge = [body, thinking(body), f"<answer>{body}</answer>", f"<think>{body}"]
    started = time.process_time()
    REWARDS[name](huge, **columns(len(huge)))
    assert time.process_time() - started < 5  # it takes 0.2; what grows with the square takes minutes


def test_the_default_is_form_and_label_at_equal_weight() -> None:
    assert select() == ([format_reward, accuracy_reward], [1.0, 1.0])
    assert DEFAULT == ("format", "accuracy")


@pytest.mark.parametrize(
    ("names", "weights", "complaint"),
    [
        (["acuracy"], None, "Unknown reward 'acuracy'. Use format, accuracy, wheel_precision"),
        (["format", "cues"], [1.0], r"2 rewards \(format, cues\) but 1 weights"),
        (["format", "format"], None, "'format' is named twice"),
        (["format"], [-1.0], "weight of format is -1.0. Use a number from 0 up"),
        (["format"], [math.nan], "weight of format is nan"),
        ([], None, "No reward is named. Use some of format"),
    ],
)
def test_a_choice_that_makes_no_sense_is_refused_with_advice(names, weights, complaint) -> None:
    with pytest.raises(OmniError, match=complaint):
        select(names, weights)


def test_a_reward_says_which_columns_it_needs() -> None:
    for name, reward in REWARDS.items():
        given = {column: values for column, values in columns(1).items() if column in needed_columns(name)}
        assert len(reward(["<answer>sad</answer>"], **given)) == 1
        for column in given:
            with pytest.raises(TypeError, match=column):
                reward(["<answer>sad</answer>"], **{key: given[key] for key in given if key != column})


# format


def test_the_format_reward_wants_a_thought_and_nothing_around_it() -> None:
    assert format_reward(COMPLETIONS) == [1.0, 0.0, 0.0, 0.0, 0.0]


def test_without_a_question_for_a_thought_good_form_is_the_answer_alone() -> None:
    assert format_reward(COMPLETIONS, think=[False] * len(COMPLETIONS)) == [0.0, 1.0, 0.0, 0.0, 0.0]


def test_a_thought_of_one_word_has_good_form() -> None:
    assert format_reward([thinking("hm", "nonsense")]) == [1.0]


def test_tags_that_are_nested_or_doubled_have_bad_form() -> None:
    good = thinking("A frown.")
    broken = [good + good, f"<think>{good}</think>", f"<answer>{good}</answer>", thinking(""), thinking("x", " ")]
    assert format_reward([good, *broken]) == [1.0] + [0.0] * len(broken)


# accuracy


def test_the_accuracy_reward_is_the_score_of_the_evaluation() -> None:
    truth = ["happy"] * len(COMPLETIONS)
    want = [float(score_answer("happy", completion, "ekman7").label_right) for completion in COMPLETIONS]
    assert accuracy_reward(COMPLETIONS, label=truth) == want == [1.0, 1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("head", EKMAN7)
def test_every_synonym_of_a_label_is_that_label_and_no_other(head: str) -> None:
    for word in SYNONYMS[head].split():
        completion = [f"<answer> {word.upper()}. </answer>"]
        assert [other for other in EKMAN7 if accuracy_reward(completion, label=[other]) == [1.0]] == [head]


def test_a_wrong_label_in_the_data_stops_training_instead_of_rewarding_nothing() -> None:
    with pytest.raises(LabelError):
        accuracy_reward(COMPLETIONS[:1], label=["bored"])


def test_each_completion_may_have_its_own_label_space() -> None:
    completions = [format_answer("calm"), format_answer("calm"), format_answer("愤怒")]
    spaces = ["ravdess8", None, ["愤怒", "高兴"]]
    assert accuracy_reward(completions, label=["calm", "neutral", "愤怒"], labels=spaces) == [1.0, 0.0, 1.0]


def test_neither_a_bare_label_nor_a_list_of_labels_is_accurate() -> None:
    tries = ["angry", "I say angry", "<answer>angry or sad</answer>", f"<answer>{' '.join(EKMAN7)}</answer>"]
    assert accuracy_reward(tries, label=["angry"] * len(tries)) == [0.0] * len(tries)


def test_the_most_frequent_label_earns_its_share_without_a_look() -> None:
    truth = ["happy"] * 6 + ["sad"] * 4
    earned = accuracy_reward([thinking("Stones are grey.", "happy")] * 10, label=truth)
    assert sum(earned) / 10 == 0.6


# wheel


def test_words_of_a_sector_are_the_same_and_others_are_not() -> None:
    assert wheel_score("furious", "annoyed") == (1.0, 1.0)
    assert wheel_score("furious", "joyful") == (0.0, 0.0)
    precision, recall = wheel_score("angry, happy", "angry, sad")
    assert (precision, recall) == (0.5, 0.5)


def test_the_wheels_agree_with_the_label_spaces_about_every_head() -> None:
    """Where a head of omni.emotions projects to, there it lies on the wheel of basic emotions."""
    ekman = {head: sector for sector, heads in WHEELS["ekman"].items() for head in heads.split()}
    for head in SYNONYMS:
        source = label_space([head, "other"])
        (nearest,) = [label for label, p in project({head: 1.0}, source, label_space("ekman7")).items() if p]
        assert ekman[head] == ekman[nearest], head


def test_each_word_stands_once_and_every_word_of_a_wheel_is_known() -> None:
    words = [word for head, family in FAMILIES.items() for word in (head, *family.split())]
    assert len(words) == len(set(words)) and not set(words) & set(HEADS)
    for name, sectors in WHEELS.items():
        heads = [head for members in sectors.values() for head in members.split()]
        assert len(heads) == len(set(heads)), name
        assert all(head_of(head) == head for head in heads), name


def test_one_word_for_every_sector_earns_less_than_one_right_word() -> None:
    for sectors in WHEELS.values():
        for truth in (sectors, ["angry", "happy"]):
            every = [members.split()[0] for members in sectors.values()]
            stuffed = wheel_score(list(truth)[:1], every)
            assert stuffed is not None and sum(stuffed) < 0.5 < sum(wheel_score("angry", "angry") or ())
    assert wheel_recall_reward(["<answer>" + ", ".join(HEADS) + "</answer>"], ["angry"])[0] < 0.05


def test_synonyms_do_not_pad_a_list_for_free() -> None:
    assert wheel_score("angry", "angry") == (1.0, 1.0)
    assert wheel_score("angry", "angry, furious, mad, irate") == (0.25, 0.25)
    assert wheel_score("angry", "angry, angry") == (0.5, 0.5)


def test_unknown_words_are_not_free() -> None:
    clean, padded = wheel_score("angry, happy", "angry"), wheel_score("angry, happy", "angry, flarb")
    assert clean.precision == 1.0 and padded.precision == 0.5
    assert wheel_score("nostalgic", "nostalgic") == (1.0, 1.0)  # and an unknown truth is not dropped
    assert wheel_score("nostalgic, happy", "happy").recall == 0.5
    assert wheel_score("nostalgic", "flarb") == (0.0, 0.0)


def test_two_guesses_earn_less_than_the_likelier_one() -> None:
    for likely in (0.5, 0.6, 0.9):
        chances = {"angry": likely, "happy": 1 - likely}
        value = {
            guess: sum(p * sum(wheel_score(truth, guess)) for truth, p in chances.items())
            for guess in ("angry", "angry, happy")
        }
        assert value["angry"] > value["angry, happy"]


def test_the_commonest_word_earns_its_share() -> None:
    truth = ["happy"] * 7 + ["sad"] * 3
    assert sum(wheel_precision_reward([format_answer("happy")] * 10, truth)) == 7


@pytest.mark.parametrize(
    "text", ["angry, tense", "Angry; TENSE.", "['angry', 'tense']", "angry and tense", "angry、tense"]
)
def test_the_list_may_be_written_in_any_of_the_usual_ways(text: str) -> None:
    assert wheel_score(["angry", "tense"], text) == wheel_score(text, ["angry", "tense"]) == (1.0, 1.0)


# length


def test_the_soft_punishment_begins_where_it_should_and_never_rises() -> None:
    ids = [list(range(length)) for length in range(0, 2 * LIMIT)]
    earned = length_reward([""] * len(ids), completion_ids=ids)
    assert earned[128] == 0 > earned[129] and earned[LIMIT] == -1 == earned[-1]
    assert all(a >= b for a, b in pairwise(earned))
    assert length_reward([""], completion_ids=[ids[129]], max_completion_length=[512]) == [0.0]


def test_length_is_that_of_the_tokens_where_they_are_known() -> None:
    ids = list(range(LIMIT))
    assert length_reward(["sad"] * 2, completion_ids=[ids, None]) == [-1.0, 0.0]
    with pytest.raises(ValueError, match="max_completion_length is 0"):
        length_reward(["sad"], max_completion_length=[0])


def test_a_taught_answer_is_neither_long_nor_repetitive() -> None:
    earned = [length_reward([format_answer(label, text)])[0] for label, text, _ in taught(40)]
    assert np.mean(earned) > -0.05 and min(earned) > -0.3


def test_repetition_costs_in_any_language() -> None:
    for stuck in ("the voice is loud ", "愤怒的声音", "голос громкий ", "声が大きい"):
        assert length_reward([stuck * 8])[0] < -0.5
    assert length_reward(["眉毛低垂,嘴唇紧闭。"]) == [0.0]


def test_one_endless_word_is_long_and_repeats_itself() -> None:
    assert len(pieces("a" * 6000)) == 1000
    assert length_reward(["a" * 6000])[0] < -1.9


def test_saying_nothing_costs_nothing() -> None:
    assert length_reward([""]) == [0.0]


def test_filler_that_varies_escapes_the_repetition_penalty_but_not_the_length() -> None:
    filler = [f"so very w{number}x " for number in range(200)]
    assert length_reward(["".join(filler[:20])])[0] > -0.01
    assert length_reward(["".join(filler)])[0] <= -1.0


# agreement


@pytest.mark.parametrize(
    ("thought", "emotion"),
    [
        ("A smile at first, which fits happiness. But the voice weighs more: sadness.", "sad"),
        ("Overall this points to anger, not to a neutral state.", "angry"),
        ("This shows sadness rather than fear.", "sad"),
        ("No emotion shows: a neutral state.", "neutral"),
        ("She isn't happy; she is FURIOUS!", "angry"),
        ("Neither angry nor sad but surprised.", "surprise"),
        ("There is no doubt that this is disgust. The words are plain.", "disgust"),
        ("He is unhappy.", "sad"),
        ("This is not anger.", None),
        ("Anger or fear.", None),
        ("The brows are lowered.", None),
        ("", None),
    ],
)
def test_the_conclusion_is_what_the_last_sentence_affirms(thought: str, emotion: str | None) -> None:
    assert concluding_emotion(thought, label_space("ekman7")) == emotion


def test_every_taught_thought_agrees_with_its_answer() -> None:
    completions = [format_answer(label, text) for label, text, _ in taught(140)]
    assert agreement_reward(completions) == [1.0] * len(completions)


def test_a_thought_agrees_with_its_own_answer_and_no_other() -> None:
    thoughts = [thinking("The face is tense. This suggests rage.", label) for label in EKMAN7]
    assert agreement_reward(thoughts) == [float(label == "angry") for label in EKMAN7]
    assert agreement_reward([thinking("Anger."), thinking("Anger.", "Rage!")]) == [1.0, 1.0]


def test_a_label_space_in_another_language_is_read() -> None:
    spaces = [["愤怒", "高兴"], ["gioia", "tristezza"], ["très triste", "très gai"]]
    thoughts = [
        thinking("眉毛低垂。这表示愤怒。", "愤怒"),
        thinking("È la TRISTEZZA.", "tristezza"),
        thinking("Il est très gai.", "très gai"),
    ]
    assert agreement_reward(thoughts, labels=spaces) == [1.0] * 3


def test_a_conclusion_that_hedges_or_denies_does_not_agree() -> None:
    every = ", ".join(EKMAN7)
    tries = [thinking(f"This is {every}."), thinking("It is not anger."), thinking(""), format_answer("angry")]
    assert agreement_reward(tries) == [0.0] * len(tries)
    assert agreement_reward([thinking("This is dread.", "dread")]) == [0.0]  # no label of the space


def test_a_label_as_the_whole_thought_agrees() -> None:
    assert agreement_reward([thinking("angry")]) == [1.0]


# cues


def taught(count: int) -> list[tuple[str, str, dict]]:
    """Label, written reasons and truth of synthetic faces, whose cues do not follow from the label alone."""
    rng = np.random.default_rng(0)
    rows = []
    for place in range(count):
        label = list(RECIPES)[place % len(RECIPES)]
        units = {name: unit.intensity for name, unit in sample_action_units(label, rng).items()}
        text = write_rationale(cue_truth(units, None), label, rng, modalities=("video",))
        rows.append((label, text, {"action_units": units}))
    return rows


def grounding(thoughts: list[str], truths: list[dict]) -> float:
    earned = cues_reward([thinking(thought) for thought in thoughts], truths)
    return float(np.mean([value for value in earned if value is not None]))


def cue_sentence(*names: str) -> str:
    return " ".join(f"The {CUES[name].phrases[0]}." for name in names)


def test_neither_silence_nor_one_safe_claim_nor_repetition_earns_much() -> None:
    once = "The brows are lowered. "
    thoughts = ["It is hard to say.", once, once * 5 + "A frown shows.", once + "The eyes are narrowed."]
    earned = cues_reward([thinking(thought) for thought in thoughts], [ANGRY_FACE] * 4)
    assert earned == [0.0, 1 / 3, 1 / 3, 2 / 3]


def test_a_clip_with_one_cue_can_still_earn_it_all() -> None:
    one = {"action_units": {"AU12": 0.9}}
    assert cues_reward([thinking("A smile."), thinking("A frown.")], [one] * 2) == [1.0, -1.0]


def test_a_denial_earns_nothing() -> None:
    denials = "There is no smile, the brows are not raised, and the eyes are not widened."
    lie = "The brows are not furrowed."
    claims_made = claim_precision(denials, cue_truth(ANGRY_FACE["action_units"], None))
    assert (claims_made.supported, claims_made.contradicted) == (3, 0)
    assert cues_reward([thinking(denials), thinking(lie)], [ANGRY_FACE] * 2) == [0.0, -1 / 3]


def test_all_cues_at_once_cost_more_than_silence() -> None:
    everything = cue_sentence(*(name for name, cue in CUES.items() if cue.forms))
    assert grounding([everything] * 50, [truth for _, _, truth in taught(50)]) < -0.4


@pytest.mark.parametrize("known", [0, 1, 2])
def test_a_guess_pays_only_if_it_is_likelier_true_than_not(known: int) -> None:
    """Beside fewer than three true claims, and averaged over its being true with probability p."""
    sure = ["brow_down", "eye_narrow"][:known]
    before, right, wrong = cues_reward(
        [thinking(cue_sentence(*sure, *more)) for more in ((), ("lip_press",), ("smile",))], [ANGRY_FACE] * 3
    )
    for p in (0.2, 0.4, 0.6, 0.8):
        assert (p * right + (1 - p) * wrong > before) == (p > 0.5)


def test_a_sense_that_the_clip_lacks_is_made_up() -> None:
    voice = thinking("The voice is high-pitched.")
    unmeasured = ANGRY_FACE | {"prosody": {}}
    assert cues_reward([voice] * 3, [ANGRY_FACE, unmeasured, ANGRY_FACE | {"prosody": None}]) == [-1 / 3, 0.0, -1 / 3]


def test_measured_cues_count_as_known_ones_do() -> None:
    measured = {"cues": {"brow_down": True, "eye_narrow": True, "smile": False, "cheek_up": None}}
    thoughts = ["The brows are lowered.", "He smiles.", "The cheeks are raised.", "The pitch is high."]
    earned = cues_reward([thinking(thought) for thought in thoughts], [measured, json.dumps(measured)] * 2)
    assert earned == [1 / 2, -1 / 2, 0.0, -1 / 2]  # the last: there is no voice cue, so no voice
    with pytest.raises(ManifestError, match="by cue of the lexicon"):
        cues_reward([thinking("He smiles.")], [{"cues": {"smirk": True}}])


def test_only_the_thought_is_read() -> None:
    claim = "The brows are lowered."
    assert cues_reward([claim, f"{claim}<answer>{claim}</answer>"], [ANGRY_FACE] * 2) == [0.0, 0.0]


def test_truth_may_be_json_or_come_from_an_arrow_table_with_its_gaps_filled() -> None:
    filled = {"action_units": {**ANGRY_FACE["action_units"], "AU12": None, "AU5": {"intensity": 0.0}}, "prosody": None}
    thoughts = [thinking("The brows are lowered and he smiles.")] * 3
    assert cues_reward(thoughts, [ANGRY_FACE, json.dumps(ANGRY_FACE), filled]) == [0.0] * 3
    with pytest.raises(ManifestError, match="is an object by name"):
        cues_reward(thoughts[:1], ["[1, 2]"])


def test_taught_reasons_are_true_of_their_own_clip_and_not_of_another() -> None:
    rows = taught(140)
    thoughts, truths = [text for _, text, _ in rows], [truth for _, _, truth in rows]
    assert grounding(thoughts, truths) > 0.85
    assert grounding(thoughts, truths[1:] + truths[:1]) < 0.0  # another emotion
    assert grounding(thoughts, truths[7:] + truths[:7]) < 0.5  # the same emotion


def test_a_stereotype_earns_less_than_a_look() -> None:
    """The best one to three claims for each label, said of every clip that has it, against what is there."""
    rows = taught(140)
    stereotype = {
        "angry": ("brow_down", "eye_narrow", "lips_part"),
        "disgust": ("nose_wrinkle", "lip_up", "lips_part"),
        "fear": ("brow_inner_up", "lip_stretch", "lips_part"),
        "happy": ("smile", "cheek_up", "lips_part"),
        "sad": ("brow_inner_up", "lip_down", "chin_up"),
        "surprise": ("brow_inner_up", "jaw_drop", "lips_part"),
        "neutral": ("lips_part",),
    }
    guessed = grounding([cue_sentence(*stereotype[label]) for label, _, _ in rows], [truth for _, _, truth in rows])
    looked = grounding([text for _, text, _ in rows], [truth for _, _, truth in rows])
    assert 0 < guessed < 0.6 * looked


def test_words_that_the_lexicon_does_not_read_are_free() -> None:
    true = cue_sentence("brow_down", "eye_narrow", "lip_press")
    assert grounding([true + " Her nostrils flare and her ears wiggle."], [ANGRY_FACE]) == 1.0


def test_parted_lips_are_never_contradicted() -> None:
    lips = cue_sentence("lips_part")
    assert grounding([lips] * 140, [truth for _, _, truth in taught(140)]) > 0
    assert cues_reward([thinking(lips)], [ANGRY_FACE]) == [0.0]


def test_a_thought_too_long_to_read_earns_what_silence_earns() -> None:
    true = cue_sentence("brow_down", "eye_narrow", "lip_press")
    assert cues_reward([thinking(true), thinking(true + "a" * LONGEST)], [ANGRY_FACE] * 2) == [1.0, 0.0]


# order


def ordered(right: int, of: int, shuffled: float | None, clip: str | None = "a.mp4") -> list[float | None]:
    answers = [format_answer("sad")] * right + [format_answer("happy")] * (of - right)
    same = {"label": ["sad"] * of, "clip": [clip] * of, "shuffled_accuracy": [shuffled] * of}
    return order_reward(answers, **same)


def test_order_pays_right_answers_of_a_group_that_beats_its_shuffled_twin() -> None:
    assert ordered(3, 4, 0.5) == [1.0, 1.0, 1.0, 0.0]
    assert ordered(2, 4, 0.5) == ordered(4, 4, 1.0) == ordered(0, 4, 0.0) == [0.0] * 4
    assert ordered(3, 4, None) == ordered(3, 4, 0.5, clip=None) == [None] * 4


def test_a_share_that_went_through_single_precision_does_not_lose_to_itself() -> None:
    for of in range(1, 65):
        for right in range(of + 1):
            assert ordered(right, of, float(np.float32(right) / np.float32(of))) == [0.0] * of


def test_each_group_is_compared_with_its_own_twin_wherever_its_completions_stand() -> None:
    rows = [("a", "sad", 0.4), ("b", "sad", 0.6), ("a", "happy", 0.4), ("b", "happy", 0.6), ("a", "sad", 0.4)]
    clip, answer, share = (list(column) for column in zip(*rows, strict=True))
    earned = order_reward(
        [format_answer(word) for word in answer], label=["sad"] * 5, clip=clip, shuffled_accuracy=share
    )
    assert earned == [1.0, 0.0, 0.0, 0.0, 1.0]
    for name in ("a", "b"):
        own = [place for place in range(5) if clip[place] == name]
        alone = order_reward(
            [format_answer(answer[place]) for place in own],
            label=["sad"] * len(own),
            clip=[name] * len(own),
            shuffled_accuracy=[share[place] for place in own],
        )
        assert alone == [earned[place] for place in own]


def test_failing_on_shuffled_frames_pays() -> None:
    assert sum(ordered(4, 8, shuffled=0.5)) == 0
    assert sum(ordered(4, 8, shuffled=0.0)) == 4


def test_a_share_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shuffled_accuracy is 62\.5\. Give the share of right answers, from 0 to 1"):
        ordered(1, 2, 62.5)


# confidence


def confident(probability: float, right: bool) -> float:
    completion = thinking(f"A frown. {state_confidence(probability)}", "angry" if right else "sad")
    (earned,) = confidence_reward([completion], label=["angry"])
    assert earned is not None
    return earned


def test_a_stated_confidence_reads_back_and_leaves_the_form_alone() -> None:
    for percent in range(101):
        completion = format_answer("sad", f"The lids droop. {state_confidence(percent / 100)}")
        assert stated_confidence(completion) == percent / 100
        assert parse_answer(completion).well_formed and format_reward([completion]) == [1.0]


@pytest.mark.parametrize(
    ("words", "stated"),
    [
        ("confidence 80%", 0.8),
        ("My CONFIDENCE is 0,35", 0.35),
        ("Confidence: 1", 1.0),
        ("Confidence=.5", 0.5),
        ("confidence of ٠.٧", 0.7),
        ("Confidence: 1.7", None),
        ("Confidence: 80", None),
        ("Confidence: -0.2", None),
        ("Confidence: high", None),
        ("Confidence: 0.9. Confidence: 0.1.", None),
        ("overconfidence 0.9", None),
    ],
)
def test_a_confidence_is_one_number_from_0_to_1(words: str, stated: float | None) -> None:
    assert stated_confidence(thinking(words)) == stated


def test_the_true_probability_is_the_best_to_state() -> None:
    steps = [percent / 100 for percent in range(101)]
    for p in (0.05, 0.2, 0.5, 0.77, 0.95):
        value = {c: p * confident(c, True) + (1 - p) * confident(c, False) for c in steps}
        assert max(value, key=value.__getitem__) == p
        assert value[p] >= 0  # so that the unsure do not keep silent
    assert confident(0.5, True) == confident(0.5, False) == 0
    assert confident(1.0, False) == pytest.approx(LEAST)  # bounded: one sure mistake is not the end


def test_no_stated_confidence_earns_the_least() -> None:
    tries = ["angry", "Confidence: 0.9", format_answer("angry"), thinking("Confidence: 0.9, confidence: 0.1")]
    assert confidence_reward(tries, label=["angry"] * len(tries)) == [LEAST] * len(tries)
    assert round(LEAST, 2) == -1.13


def test_a_knowingly_wrong_answer_earns_as_much_as_a_right_one() -> None:
    assert confident(0.0, right=False) == confident(1.0, right=True) == pytest.approx(SCALE, abs=0.01)


def test_beside_accuracy_a_wrong_answer_on_purpose_never_pays() -> None:
    """Whatever the chance p of the likeliest label, in a space of up to eleven."""
    on_purpose = 0 + confident(0.0, right=False)
    for labels in range(2, 12):
        for p in np.linspace(1 / labels, 1, 50):
            honest = p * (1 + confident(p, True)) + (1 - p) * confident(p, False)
            assert honest > on_purpose - 0.005  # p is stated to two digits
    assert confident(0.5, True) + 0.5 > on_purpose


# The table, and the dry run


def table() -> dict[str, list[str]]:
    """Rows of docs/rewards.md by the name of their reward."""
    lines = (ROOT / "docs" / "rewards.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| `")]
    return {row[0].strip("`| "): row[1:] for row in rows if len(row) == 7}


@pytest.mark.skipif(not (ROOT / "docs").exists(), reason="runs in a checkout")
def test_the_table_names_every_reward_with_its_columns_range_and_tests() -> None:
    rows = table()
    assert list(rows) == list(REWARDS)
    for name, (_, span, needs, _, _, tests) in rows.items():
        low, high = (float(number) for number in re.findall(r"[-−]?[\d.]+", span.replace("−", "-")))
        assert (low, high) == pytest.approx(RANGES[name], abs=0.01), name
        required = re.findall(r"`(\w+)`", needs.split("optional")[0])
        assert set(required) == set(needed_columns(name)), name
        shown = re.findall(r"`(test_\w+)`", tests)
        assert shown and all(test in globals() for test in shown), name


@pytest.mark.skipif(not (ROOT / "docs").exists(), reason="runs in a checkout")
@pytest.mark.parametrize("file", sorted({reward.__module__.split(".")[-1] for reward in REWARDS.values()}))
def test_every_test_that_a_docstring_names_exists(file: str) -> None:
    source = (ROOT / "rewards" / f"{file}.py").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+)`", source)
    assert named and all(test in globals() for test in named)


def save(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


SAVED = [
    {"completion": thinking("The brows are lowered: anger.", "angry"), "label": "angry", "truth": ANGRY_FACE},
    {"completion": thinking("A smile: joy.", "flarb"), "label": "angry", "truth": ANGRY_FACE},
    {"completion": [{"role": "assistant", "content": "<answer>sad, glum</answer>"}], "label": None, "truth": {}},
    {"completion": "stuck stuck", "label": "sad"},
    {"completion": "stuck stuck", "label": "sad"},
]


def test_a_dry_run_says_what_the_rewards_say(tmp_path: Path) -> None:
    found = dry_run(read_saved(save(tmp_path / "s.jsonl", SAVED)))
    assert set(found.rewards) == {"format", "accuracy", "length", "agreement", "cues", "confidence"}
    assert found.left_out == {
        "wheel_precision": ("openset",),
        "wheel_recall": ("openset",),
        "order": ("clip", "shuffled_accuracy"),
    }
    assert (found.rewards["accuracy"].rows, found.rewards["accuracy"].none) == (4, pytest.approx(0.2))
    assert found.rewards["accuracy"].mean == 0.25
    assert found.rewards["cues"].quantiles == (-1 / 3, -1 / 6, 0.0, 1 / 6, 1 / 3)
    assert found.correlation["format"]["format"] == 1.0
    assert found.correlation["format"]["agreement"] == found.correlation["agreement"]["format"]


def test_a_dry_run_counts_the_signs_of_gaming(tmp_path: Path) -> None:
    signs = dry_run(read_saved(save(tmp_path / "s.jsonl", SAVED))).signs
    assert signs.repeated == ((2, "stuck stuck"),)
    assert (signs.distinct, signs.no_answer, signs.empty_thought, signs.malformed) == (0.8, 0.4, 0.6, 0.4)
    assert (signs.list_length, signs.longest_list) == (0.8, 2)
    assert signs.unknown_words == 0.5  # flarb and glum, of four
    assert signs.length_correlation["format"] > 0.5


def test_correlation_is_that_of_numpy_where_both_apply() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=50), rng.normal(size=50)
    want = float(np.corrcoef(a[10:], b[10:])[0, 1])
    assert correlation([None] * 10 + list(a[10:]), list(b)) == pytest.approx(want)
    assert correlation([1.0, None], [None, 1.0]) is None


TRANSCRIPT = """\
rewards  rows  None   mean   std    min  25 %  median  75 %    max
format      5    0%   0.40  0.49   0.00  0.00    0.00  1.00   1.00
length      5    0%   0.00  0.00   0.00  0.00    0.00  0.00   0.00
cues        2   60%   0.00  0.33  -0.33 -0.17    0.00  0.17   0.33
correlation     1  2     3  length
1 format     1.00  –     –    0.94
2 length        –  –     –       –
3 cues          –  –  1.00    1.00
signs of gaming            value
length, pieces             11.40
words in the answer, mean   0.80
words in the answer, most      2
malformed                  40.0%
no answer                  40.0%
empty thought              60.0%
unknown words              50.0%
distinct                   80.0%
2 times: stuck stuck
"""


def squeezed(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_the_command_prints_tables(tmp_path: Path, capsys) -> None:
    assert main([save(tmp_path / "s.jsonl", SAVED), "--rewards", "format", "length", "cues"]) == 0
    out, err = capsys.readouterr()
    assert squeezed(out) == squeezed(TRANSCRIPT) and not err


def test_the_command_prints_one_json_object(tmp_path: Path) -> None:
    path = save(tmp_path / "s.jsonl", SAVED)
    command = [sys.executable, "-m", "rewards", "--rewards", "format", "accuracy", path, "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert list(found["rewards"]) == ["format", "accuracy"] and found["rows"] == 5
    assert set(found) == {"rows", "rewards", "correlation", "signs", "left_out"}


GOOD = json.dumps(SAVED[0])


@pytest.mark.parametrize(
    ("text", "options", "complaint"),
    [
        (GOOD + "\n{oops\n", [], "s.jsonl:2: no JSON"),
        (GOOD + "\n\n[1]\n", [], "s.jsonl:3: wanted a JSON object"),
        (GOOD + '\n{"text": "x"}\n', [], "s.jsonl:2: the row has no 'completion'"),
        (GOOD + '\n{"completion": [{"role": "assistant"}]}\n', [], "s.jsonl:2: the row has no 'completion'"),
        (
            GOOD + '\n{"completion": "x", "label": "bored"}\n',
            [],
            "s.jsonl:2: the reward accuracy cannot judge this row",
        ),
        (GOOD + '\n{"completion": "x", "label": 7}\n', [], "(AttributeError). Check the column label"),
        (GOOD + '\n{"completion": "x", "truth": "{"}\n', [], "s.jsonl:2: the reward cues cannot judge this row"),
        ("\n", [], "s.jsonl has no rows"),
        (GOOD, ["--rewards", "acuracy"], "Unknown reward 'acuracy'. Use format, accuracy"),
        (GOOD, ["--rewards", "order"], "order needs the column 'clip', which no row of"),
        (GOOD, ["--wrong"], "No such option: --wrong"),
    ],
)
def test_a_bad_line_or_option_is_one_line_with_its_number(tmp_path: Path, capsys, text, options, complaint) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text(text, encoding="utf-8")
    assert main([str(path), *options]) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("rewards: ") and err.count("\n") == 1 and complaint in err


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path: Path, capsys) -> None:
    assert main([str(tmp_path / "none.jsonl")]) == 2
    assert "Check the path." in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_cues_are_judged_alike_whatever_format_the_manifest_has(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"m{suffix}"
    measured = {"brow_down": True, "smile": None}
    write_manifest(
        path, [Example(tmp_path / "a.mp4", extra=ANGRY_FACE), Example(tmp_path / "b.mp4", extra={"cues": measured})]
    )
    facts = [json.dumps(row.extra) for row in read_manifest(path)]
    assert cues_reward([thinking("The brows are lowered.")] * 2, facts) == [1 / 3, 1.0]
    known = read_manifest(path)[0].extra
    assert cue_truth(known.get("action_units"), known.get("prosody")) == cue_truth(ANGRY_FACE["action_units"], None)
