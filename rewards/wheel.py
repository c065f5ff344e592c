"""An open vocabulary: the answer's words against the true ones, on emotion wheels, as precision and recall.

    Y, A         true words, answered words; g_k(w) the sector of a word on wheel k, G_k the sectors of a list
    n, m         words answered, repeated ones too; distinct true words

    precision = min(1, m/n) · mean_k |G_k(Y) ∩ G_k(A)| / |G_k(A)|        range [0, 1]
    recall    = min(1, m/n) · mean_k |G_k(Y) ∩ G_k(A)| / |G_k(Y)|        range [0, 1]

Wheels: the basic emotions of Ekman 1992, Plutchik's eight (1980; a mixture of two lies with the first), and the six
families of Shaver et al. 1987. A word without a sector, and a word that we do not know, is a sector of its own: it
counts in both denominators, and an exact match still counts. The answer is a list of words ("angry, anxious and
sad"); a phrase ("a bit angry") is a word that we do not know.

Columns: `openset`, the true words, as a list or as text with commas; None where there are none.

Source: the emotion-wheel metric of MER2025 and AffectGPT (arXiv 2501.16566), as a reward with a list-length penalty in
AffectGPT-R1 (arXiv 2508.01318), and split into two rewards, to be normalised apart, in MER-R1 (arXiv 2606.27652; TRL:
`multi_objective_aggregation="normalize_then_sum"`). Ours is strict where the metric has holes: there unknown words
are free, synonyms cost nothing, and one word for each sector has full recall. Not comparable with published numbers:
the official five wheels are not shipped, since their licence is for non-commercial use.

How it is gamed: the most frequent word earns its share, as in accuracy: `test_the_commonest_word_earns_its_share`.
Closed: `test_one_word_for_every_sector_earns_less_than_one_right_word`, `test_synonyms_do_not_pad_a_list_for_free`,
`test_unknown_words_are_not_free` and `test_two_guesses_earn_less_than_the_likelier_one`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from statistics import fmean
from typing import NamedTuple

from omni.answer import parse_answer
from omni.emotions import HEADS

from .format import Completion, completion_text

# Head → words that mean it: what an open vocabulary has beyond omni.emotions. Each word stands once (a test keeps it).
FAMILIES: dict[str, str] = {
    "love": "loving loved affection affectionate fond fondness tender tenderness adoration adoring caring",
    "trust": "trusting trustful acceptance accepting admiration admiring",
    "excited": "excitement excitedly thrilled thrill enthusiastic enthusiasm exhilarated euphoric euphoria ecstatic",
    "proud": "pride proudly triumphant triumph",
    "content": "contented contentment satisfied satisfaction",
    "relieved": "relief",
    "grateful": "gratitude thankful",
    "hopeful": "hope hoping optimistic optimism eager eagerness",
    "interested": "interest curious curiosity expectant anticipation attentive",
    "confused": "confusion puzzled bewildered perplexed",
    "bored": "boredom",
    "frustrated": "frustration exasperated exasperation aggravated",
    "hateful": "hate hatred hostile hostility resentful resentment bitter bitterness",
    "jealous": "jealousy envious envy",
    "ashamed": "shame embarrassed embarrassment humiliated humiliation",
    "guilty": "guilt remorse remorseful regret regretful",
    "lonely": "loneliness isolated rejected",
    "hurt": "pained suffering anguish anguished",
    "sympathetic": "sympathy pity compassion compassionate",
    "pensive": "pensiveness thoughtful",
    "apprehensive": "apprehension dread alarmed alarm distressed distress",
}
WHEELS: dict[str, dict[str, str]] = {
    "ekman": {
        "anger": "angry frustrated hateful jealous",
        "disgust": "disgust contemptuous",
        "fear": "fear anxious worried apprehensive",
        "joy": "happy excited proud content relieved grateful hopeful love",
        "sadness": "sad disappointed helpless lonely hurt ashamed guilty",
        "surprise": "surprise confused",
        "neutral": "neutral calm",
    },
    "plutchik": {
        "joy": "happy excited content calm love relieved grateful proud",
        "trust": "trust",
        "fear": "fear anxious worried apprehensive",
        "surprise": "surprise confused",
        "sadness": "sad disappointed helpless lonely hurt ashamed guilty pensive sympathetic",
        "disgust": "disgust contemptuous bored",
        "anger": "angry frustrated hateful jealous",
        "anticipation": "interested hopeful",
    },
    "shaver": {
        "love": "love",
        "joy": "happy excited proud content relieved hopeful",
        "surprise": "surprise",
        "anger": "angry frustrated hateful jealous disgust contemptuous",
        "sadness": "sad disappointed helpless lonely hurt ashamed guilty sympathetic",
        "fear": "fear anxious worried apprehensive",
    },
}
_SEPARATOR = re.compile(r"[,;/|&+\n、，；]|\s(?:and|or)\s")
_AROUND = " \t\r\n.,;:!?\"'*_`()[]。！？"

Words = str | Sequence[str] | None


class WheelScore(NamedTuple):
    """Precision and recall of a list of words, both in [0, 1], after the penalty on its length."""

    precision: float
    recall: float


def wheel_precision_reward(
    completions: Sequence[Completion], openset: Sequence[Words], **columns: object
) -> list[float | None]:
    """How much of the answer is true, in [0, 1]; None where no true words are known.

    >>> wheel_precision_reward(["<answer>furious</answer>", "<answer>angry, happy</answer>"], ["angry, tense"] * 2)
    [1.0, 0.5]
    """
    return [None if score is None else score.precision for score in _scores(completions, openset)]


def wheel_recall_reward(
    completions: Sequence[Completion], openset: Sequence[Words], **columns: object
) -> list[float | None]:
    """How much of the truth is answered, in [0, 1]; None where no true words are known.

    >>> wheel_recall_reward(["<answer>furious</answer>", "<answer>angry, nervous</answer>"], ["angry, tense"] * 2)
    [0.5, 1.0]
    """
    return [None if score is None else score.recall for score in _scores(completions, openset)]


def wheel_score(truth: Words, prediction: Words) -> WheelScore | None:
    """Precision and recall of a list of words; None if there is no true word.

    >>> wheel_score("happy", "joyful, glad")
    WheelScore(precision=0.5, recall=0.5)
    """
    true, answered = emotion_words(truth), emotion_words(prediction)
    if not true:
        return None
    if not answered:
        return WheelScore(0.0, 0.0)
    brevity = min(1.0, len(set(true)) / len(answered))
    pairs = [(_sectors(true, wheel), _sectors(answered, wheel)) for wheel in WHEELS]
    return WheelScore(
        brevity * fmean(len(want & got) / len(got) for want, got in pairs),
        brevity * fmean(len(want & got) / len(want) for want, got in pairs),
    )


def emotion_words(words: Words) -> list[str]:
    """The words of a list or of its text, in lower case, without what stands around them.

    >>> emotion_words("Angry, anxious and sad."), emotion_words("['happy', 'calm']"), emotion_words(None)
    (['angry', 'anxious', 'sad'], ['happy', 'calm'], [])
    """
    parts = _SEPARATOR.split(words.lower()) if isinstance(words, str) else [word.lower() for word in words or ()]
    cleaned = (" ".join(part.split()).strip(_AROUND) for part in parts)
    return [word for word in cleaned if word]


def head_of(word: str) -> str | None:
    """The head that a word belongs to, or None for a word that we do not know.

    >>> head_of("furious"), head_of("curiosity"), head_of("flabbergasted")
    ('angry', 'interested', None)
    """
    return _heads().get(word)


def _scores(completions: Sequence[Completion], openset: Sequence[Words]) -> list[WheelScore | None]:
    return [
        wheel_score(truth, parse_answer(completion_text(completion)).label)
        for completion, truth in zip(completions, openset, strict=True)
    ]


def _sectors(words: Sequence[str], wheel: str) -> set[str]:
    heads = (head_of(word) or word for word in words)
    return {_sector_of(wheel).get(head, f"={head}") for head in heads}  # "=love" is no sector "love"


@cache
def _heads() -> dict[str, str]:
    return HEADS | {word: head for head, words in FAMILIES.items() for word in (head, *words.split())}


@cache
def _sector_of(wheel: str) -> dict[str, str]:
    return {head: sector for sector, heads in WHEELS[wheel].items() for head in heads.split()}
