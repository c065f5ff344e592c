"""Label spaces, the synonyms that lead into them, the projection between them, and the wheels of an open vocabulary.

A label space is an ordered tuple of words. The seven of `ekman7` are spelled as DFEW and MAFW spell them
(adjectives where the field uses adjectives), and every file of the project uses these spellings:

    name       labels                                                              source
    ekman7     angry disgust fear happy sad surprise neutral                       Ekman's six and neutral
    dfew7      the same words in DFEW's order                                      Jiang et al. 2020
    mafw11     angry disgust fear happy neutral sad surprise
               contemptuous anxious helpless disappointed                          Liu et al. 2022
    ravdess8   neutral calm happy sad angry fear disgust surprise                  Livingstone and Russo 2018
    mer6       angry happy neutral sad surprise worried                            MER2023, MER2024
    cremad6    angry disgust fear happy neutral sad                                Cao et al. 2014
    meld7      neutral surprise fear sad happy disgust angry                       Poria et al. 2019

A user's own space is a comma-separated list ("angry,happy") or a text file with one word per line.

Synonyms form a many-to-one table into heads ("furious" → "angry"); a word belongs to a space if its head
does. Words that are emotions of their own (contempt, anxiety) are never folded into a basic one by
`canonical`: only `project` does so, and says how.

An open vocabulary has no list of labels: any words may be answered, and a wheel says which of them are near each
other, by the sector in which they lie. Our three wheels: the basic emotions of Ekman 1992, Plutchik's eight (1980; a
mixture of two lies with the first), and the six families of Shaver et al. 1987. The five of MER2025 are not shipped,
since their licence is for non-commercial use; `read_wheels` takes them, or any others, from a JSON file:

    {"name": "mer2025", "words": {"furious": ["angry", "mad"], ...}, "wheels": {"wheel1": {"angry": "anger", ...}, ...}}

with, for each word and form of it, the words of the wheels that it can mean, and for each wheel the sector of its
words.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import LabelError

EKMAN7 = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
LABEL_LENGTH = 40  # characters; a longer "label" is a sentence that went into the wrong place


@dataclass(frozen=True)
class LabelSpace:
    """The words that an answer can take, in the order of the dataset.

    >>> space = label_space("ekman7")
    >>> space.labels[:2], len(space), "happy" in space
    (('angry', 'disgust'), 7, True)
    """

    name: str
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def __contains__(self, label: object) -> bool:
        return label in self.labels


SPACES: dict[str, LabelSpace] = {
    space.name: space
    for space in (
        LabelSpace("ekman7", EKMAN7),
        LabelSpace("dfew7", ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")),
        LabelSpace(
            "mafw11",
            (
                *("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"),
                *("contemptuous", "anxious", "helpless", "disappointed"),
            ),
        ),
        LabelSpace("ravdess8", ("neutral", "calm", "happy", "sad", "angry", "fear", "disgust", "surprise")),
        LabelSpace("mer6", ("angry", "happy", "neutral", "sad", "surprise", "worried")),
        LabelSpace("cremad6", ("angry", "disgust", "fear", "happy", "neutral", "sad")),
        LabelSpace("meld7", ("neutral", "surprise", "fear", "sad", "happy", "disgust", "angry")),
    )
}
ALIASES = {
    "ekman": "ekman7",
    "dfew": "dfew7",
    "mafw": "mafw11",
    "ravdess": "ravdess8",
    "mer2023": "mer6",
    "mer2024": "mer6",
    "cremad": "cremad6",
    "meld": "meld7",
}

# Head → words that mean it. Each word stands once (a test keeps it): with two heads, the order would decide.
SYNONYMS: dict[str, str] = {
    "angry": "anger angered angrily mad furious fury rage raging irritated annoyed irate enraged outraged",
    "disgust": "disgusted disgusting disgustedly revulsion revolted repulsed repulsion aversion loathing",
    "fear": "fearful feared afraid scared frightened fright terrified terror horrified panic panicked",
    "happy": "happiness happily joy joyful joyous glad cheerful delighted amused amusement pleased elated",
    "sad": "sadness sadly unhappy sorrow sorrowful grief grieving gloomy depressed miserable tearful",
    "surprise": "surprised surprising astonished astonishment amazed amazement startled shocked",
    "neutral": "neutrality impassive unemotional expressionless indifferent",
    "calm": "calmness calmly relaxed serene peaceful tranquil",
    "contemptuous": "contempt scorn scornful disdain disdainful",
    "anxious": "anxiety anxiously nervous nervousness uneasy tense",
    "worried": "worry worrying worriedly concerned",
    "helpless": "helplessness helplessly powerless desperate despair",
    "disappointed": "disappointment disappointedly disappointing let-down",
}
HEADS: dict[str, str] = {word: head for head, words in SYNONYMS.items() for word in (head, *words.split())}

# Where the mass of a label goes if the other space lacks it, step by step. The choice is ours (nearest by
# valence and arousal); a label without a route is dropped and the rest scaled.
NEAREST: dict[str, str] = {
    "contemptuous": "disgust",
    "anxious": "worried",
    "worried": "fear",
    "helpless": "sad",
    "disappointed": "sad",
    "calm": "neutral",
}

# Head → words that mean it: what an open vocabulary has beyond SYNONYMS. Each word stands once (a test keeps it).
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


def label_space(spec: str | Sequence[str] | Path | LabelSpace) -> LabelSpace:
    """The label space that a user means by a name, a list or a file.

    Args:
        spec: a name of `SPACES`, words separated by commas, a text file with one word per line
            (lines that start with # are comments), a sequence of words, or a space.

    Raises:
        LabelError: an unknown name (the message lists the known ones), fewer than two labels, a word twice.

    >>> label_space("angry, happy").labels
    ('angry', 'happy')
    >>> label_space("mer2023").name
    'mer6'
    >>> label_space("ekman9")
    Traceback (most recent call last):
    omni.errors.LabelError: Unknown label space 'ekman9'. Use one of ekman7, ...
    """
    if isinstance(spec, LabelSpace):
        return spec
    if isinstance(spec, Path):
        return _from_file(spec)
    if not isinstance(spec, str):
        return _space("custom", spec)
    key = spec.strip().lower()
    key = ALIASES.get(key, key)
    if key in SPACES:
        return SPACES[key]
    if "," in spec:
        return _space("custom", spec.split(","))
    if os.path.isfile(spec):  # not Path.is_file, which raises on an overlong name
        return _from_file(Path(spec))
    raise LabelError(
        f"Unknown label space '{spec}'. Use one of {', '.join(SPACES)}, words separated by commas "
        "(angry,happy), or a text file with one word per line.",
        code="unknown_label_space",
    )


def _from_file(path: Path) -> LabelSpace:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as err:
        raise LabelError(
            f"Cannot read the label file {path}. Give a text file with one word per line.",
            code="bad_label_file",
        ) from err
    return _space(path.stem, [line for line in lines if line.strip() and not line.lstrip().startswith("#")])


def _space(name: str, words: Sequence[str]) -> LabelSpace:
    labels = tuple(" ".join(word.split()).lower() for word in words)
    for label in labels:
        if not label or len(label) > LABEL_LENGTH or re.search(r"[<>\x00-\x1f]", label):
            raise LabelError(
                f"'{label[:LABEL_LENGTH]}' cannot be a label. Use words of 1 to {LABEL_LENGTH} characters "
                "without < and >.",
                code="bad_label",
            )
    if len(labels) < 2:
        raise LabelError(f"A label space needs at least two labels, got {len(labels)}.", code="bad_label_space")
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise LabelError(f"'{twice[0]}' stands twice in the label space. Remove one.", code="bad_label_space")
    return LabelSpace(name, labels)


def canonical(word: str, space: LabelSpace) -> str | None:
    """The label of the space that a word means, or None.

    Case, white space and punctuation around the word do not matter. The space's own spelling comes first, so
    a custom space may hold "joy" and "happy", or "angry (cold)" and "angry (hot)", as two labels.

    >>> canonical("Anger.", label_space("ekman7"))
    'angry'
    >>> canonical("joy", label_space("joy,anger")), canonical("happy", label_space("joy,anger"))
    ('joy', 'joy')
    >>> canonical("contempt", label_space("ekman7")) is None
    True
    """
    whole = " ".join(word.lower().split())
    key = whole.strip(_AROUND)
    for form in (whole, key):
        if form in space:
            return form
    stripped = [label for label in space.labels if key and label.strip(_AROUND) == key]
    if len(stripped) == 1:  # "Angry (cold)." has lost its bracket with the full stop
        return stripped[0]
    head = HEADS.get(key)
    if head is None:
        return None
    return next((label for label in space.labels if HEADS.get(label) == head), None)


def project(probabilities: Mapping[str, float], source: LabelSpace, target: LabelSpace) -> dict[str, float]:
    """Carry probabilities from one label space to another.

    Each label gives its mass to the same label (or synonym) of the target, else along `NEAREST` (contemptuous
    → disgust, worried → fear …); mass without a place is dropped and the rest is scaled to one. Labels of the
    target that nothing leads to get 0.

    Args:
        probabilities: label of the source → probability; labels left out count as 0.

    Returns:
        Label of the target → probability, in the target's order, summing to 1.

    Raises:
        LabelError: a label that is not in the source, or no mass with a place in the target.

    >>> mafw, ekman = label_space("mafw11"), label_space("ekman7")
    >>> p = project({"sad": 0.5, "helpless": 0.25, "happy": 0.25}, mafw, ekman)
    >>> p["sad"], p["happy"], p["fear"]
    (0.75, 0.25, 0.0)
    """
    carried = dict.fromkeys(target.labels, 0.0)
    for label, mass in probabilities.items():
        if label not in source:
            raise LabelError(
                f"'{label}' is not in {source.name}. Use {', '.join(source.labels)}.", code="unknown_label"
            )
        place = _place(label, target)
        if place is not None:
            carried[place] += mass
    total = sum(carried.values())
    if total <= 0:
        raise LabelError(
            f"Nothing of {source.name} has a place in {target.name}. Choose spaces with common labels.",
            code="no_common_label",
        )
    return {label: mass / total for label, mass in carried.items()}


def _place(label: str, target: LabelSpace) -> str | None:
    """The target's label for a source label: itself or a synonym, else along NEAREST."""
    seen: str | None = label
    while seen is not None:
        place = canonical(seen, target)
        if place is not None:
            return place
        seen = NEAREST.get(HEADS.get(seen, seen))
    return None


@dataclass(frozen=True)
class EmotionWheels:
    """Which words are near each other.

    Attributes:
        name: what a report calls them.
        words: a word → the words of the wheels that it can mean.
        wheels: name of a wheel → word of the wheel → its sector.

    >>> sorted(OUR_WHEELS.wheels), OUR_WHEELS.sectors("furious", "plutchik"), OUR_WHEELS.sectors("flarb", "plutchik")
    (['ekman', 'plutchik', 'shaver'], ('anger',), ())
    """

    name: str
    words: Mapping[str, tuple[str, ...]]
    wheels: Mapping[str, Mapping[str, str]]

    def sectors(self, word: str, wheel: str) -> tuple[str, ...]:
        """The sectors that a word can lie in, in the alphabetical order of what it can mean; () for an unknown word."""
        places = self.wheels[wheel]
        meant = (places[other] for other in sorted(self.words.get(word, ())) if other in places)
        return tuple(dict.fromkeys(meant))


def head_of(word: str) -> str | None:
    """The head that a word belongs to, or None for a word that we do not know.

    >>> head_of("furious"), head_of("curiosity"), head_of("flabbergasted")
    ('angry', 'interested', None)
    """
    return next(iter(OUR_WHEELS.words.get(word, ())), None)


def emotion_words(words: Words) -> list[str]:
    """The words of a list or of its text, in lower case, without what stands around them.

    >>> emotion_words("Angry, anxious and sad."), emotion_words("['happy', 'calm']"), emotion_words(None)
    (['angry', 'anxious', 'sad'], ['happy', 'calm'], [])
    """
    parts = _SEPARATOR.split(words.lower()) if isinstance(words, str) else [word.lower() for word in words or ()]
    cleaned = (" ".join(part.split()).strip(_AROUND) for part in parts)
    return [word for word in cleaned if word]


def read_wheels(path: str | Path) -> EmotionWheels:
    """Read wheels from a JSON file of the form above.

    Raises:
        LabelError: no such file, or another form.
    """
    try:
        given = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as err:
        raise LabelError(
            f"Cannot read the wheels {path}. Give a JSON file, see omni/emotions.py.", code="bad_wheels"
        ) from err
    if (
        not isinstance(given, dict)
        or not _is_table(given.get("words"), list)
        or not _is_table(given.get("wheels"), dict)
    ):
        raise LabelError(
            f'{path} holds no wheels. Give {{"words": {{word: [wheel words]}}, "wheels": {{name: {{word: sector}}}}}}.',
            code="bad_wheels",
        )
    words = {word.lower(): tuple(meanings) for word, meanings in given["words"].items()}
    return EmotionWheels(str(given.get("name", Path(path).stem)), words, given["wheels"])


def _is_table(value: Any, kind: type) -> bool:
    """Whether a value is a dict of lists, or of dicts, that is not empty and holds text."""
    rows = list(value.values()) if isinstance(value, dict) else []
    if not rows or not all(isinstance(row, kind) for row in rows):
        return False
    return all(isinstance(text, str) for row in rows for text in (row.values() if kind is dict else row))


OUR_WHEELS = EmotionWheels(
    "Ekman, Plutchik, Shaver",
    {word: (head,) for word, head in HEADS.items()}
    | {word: (head,) for head, words in FAMILIES.items() for word in (head, *words.split())},
    {
        wheel: {head: sector for sector, heads in sectors.items() for head in heads.split()}
        for wheel, sectors in WHEELS.items()
    },
)
