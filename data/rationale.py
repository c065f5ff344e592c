"""Writes the thought of a training answer from what is known to be true of the clip.

    [time] the face cue, the face cue and the face cue. The voice cue and the voice cue. [Words.] Conclusion.

A cue is said to be there if its truth is True, and not to be there if it is False and nothing else happens
in that part of the face; unknown ones are never named. Cues, order, frames, intensity and time words are
drawn from `rng`, stronger cues more often: by the square of their strength, since a reader who names what is
plain to see is right more often. Up to three face cues and two voice cues keep a thought below 60 tokens of a
language model: each token is paid for in training and in every answer.

Left out: loudness (no baseline to judge it by), quotes of the transcript (the sentence list would leak),
pronouns (a face does not tell them), and "feels": a clip shows an expression, not an inner state.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from omni.cues.lexicon import CUES, Cue, degree, spell

NOUNS = {
    "angry": "anger", "disgust": "disgust", "fear": "fear", "happy": "happiness", "sad": "sadness",
    "surprise": "surprise", "neutral": "a neutral state",
}  # fmt: skip
ADJECTIVES = {
    "angry": "angry", "disgust": "disgusted", "fear": "afraid", "happy": "happy", "sad": "sad",
    "surprise": "surprised", "neutral": "ordinary",
}  # fmt: skip
OVERALL = ("face as a whole looks {}", "expression as a whole looks {}", "face taken whole looks {}")
FRAMES = {
    "face": ("", "", "", "", "Visibly, ", "On screen, "),
    "voice": ("", "", "", "", "Audibly, ", "By ear, "),
}
OWNER = {"face": "the person's", "voice": "the speaker's"}
MISSING = {
    "face": ("No face is visible.", "There is no face to go by.", "The person is not visible."),
    "voice": ("There is no sound.", "There is no sound to go by.", "Nothing is heard."),
}
UNCLEAR = {
    "face": ("The face gives little away.", "The face is hard to read."),
    "voice": ("The voice gives little away.", "The voice is hard to place."),
}
WORDS = ("The words are neutral.", "The words themselves say little.", "The words alone settle nothing.")
CONCLUSIONS = ("This points to {}.", "This suggests {}.", "Overall this shows {}.", "This fits {}.")
JOINT_CONCLUSIONS = (
    "Together this points to {}.",
    "Together this suggests {}.",
    "Face and voice both suggest {}.",
)
PLAIN_CONCLUSIONS = (
    "Nothing stands out, so this shows {}.",
    "No emotion shows: {}.",
    "Overall this suggests {}.",
)
MIXED_CONCLUSIONS = ("No clear emotion forms: {}.", "Still, this amounts to {}.", "Overall this suggests {}.")
VERDICTS = (
    "The {winner} outweighs the {loser}, so this points to {noun}.",
    "The {winner} is the stronger sign: {noun}.",
    "The {winner} weighs more here, which suggests {noun}.",
)
EARLY, LATE, THEN = 0.15, 0.6, 0.15  # shares of the clip: within its start, near its end, a gap one sees

Truth = Mapping[str, bool | None]


class Clause(NamedTuple):
    """One cue in words, without its article: "brows are clearly raised"."""

    cue: str
    text: str
    active: bool  # says that something happens, not that nothing does


def write_rationale(
    truth: Truth,
    label: str,
    rng: np.random.Generator,
    *,
    intensities: Mapping[str, float] | None = None,
    times: Mapping[str, float] | None = None,
    transcript: str | None = None,
    modalities: Sequence[str] = ("video", "audio"),
    conflict: Mapping[str, str] | None = None,
    overall: str | None = None,
) -> str:
    """Writes one short rationale that is true of the clip and concludes with the label.

    Args:
        truth: what `omni.cues.truth.cue_truth` says; a sense without any cue in it counts as missing.
        label: the emotion of the answer.
        rng: all variation comes from it; the same state gives the same text.
        intensities: strength by cue, as `omni.cues.truth.cue_strength` gives it.
        times: onset by cue as a share of the clip in [0, 1], as `cue_onsets` gives it.
        transcript: what is said; named now and then, never quoted.
        modalities: the senses that the clip has, of "video" and "audio".
        conflict: {"face": emotion, "voice": emotion, "winner": "face" or "voice"} where they disagree.
        overall: the emotion of the face as a whole, said in place of its cues: for a reader who is given what the
            expression net makes of the face, and no detail of it.

    Raises:
        ValueError: the conflict's winner does not lead to the label.

    >>> from omni.cues.truth import cue_truth
    >>> truth = cue_truth({"AU4": 0.9, "AU24": 0.8}, None)
    >>> write_rationale(truth, "angry", np.random.default_rng(0), modalities=("video",))
    'The lips are tightened and the brow is furrowed. Nothing is heard. This suggests anger.'
    """
    if conflict and conflict[conflict["winner"]] != label:
        raise ValueError(
            f"The {conflict['winner']} wins this conflict with {conflict[conflict['winner']]!r}, "
            f"but the label is {label!r}. Change the winner or the label."
        )
    truth = {name: there for name, there in truth.items() if _sense(name) in _senses(modalities)}
    if overall and "face" in _present(truth):
        face = [Clause("", _choose(rng, OVERALL).format(ADJECTIVES[overall]), overall != "neutral")]
    else:
        face = _clauses(truth, "face", int(rng.integers(2, 4)), rng, intensities or {})
    voice = _clauses(truth, "voice", 1 + int(rng.random() < 0.6), rng, intensities or {})
    told = conflict and _shows(face, conflict["face"]) and _shows(voice, conflict["voice"])
    if not overall and not told and rng.random() < (0.6 if len(face) < 2 else 0.2):
        face += _denial(truth, rng)
    said = {
        "face": _sentence("face", face, truth, rng, times or {}),
        "voice": _sentence("voice", voice, truth, rng, {}),
    }
    if conflict and told:
        return _resolve(said, conflict, rng)
    body = _body(said, bool(face and voice), rng)
    if transcript and "voice" in _present(truth) and rng.random() < 0.2:
        body.insert(int(rng.integers(1, len(body) + 1)), _choose(rng, WORDS))
    return " ".join([*body, _conclusion(label, face, voice, rng, agree=not conflict)])


def cue_onsets(action_units: Mapping[str, Any], duration: float) -> dict[str, float]:
    """When each face cue begins, as a share of the clip, from action units with `.onset` in seconds.

    Args:
        action_units: as `data.expressions.sample_action_units` gives them.
        duration: seconds.

    >>> from types import SimpleNamespace
    >>> cue_onsets({"AU4": SimpleNamespace(onset=0.5), "AU12": SimpleNamespace(onset=1.5)}, 2.0)
    {'brow_down': 0.25, 'smile': 0.75}
    """
    onsets = {}
    for cue in CUES.values():
        units = [action_units[name] for name in cue.measures if name in action_units]
        if cue.modality == "face" and cue.direction and units:
            onsets[cue.name] = min(unit.onset for unit in units) / duration
    return onsets


def _senses(modalities: Sequence[str]) -> set[str]:
    return {{"video": "face", "audio": "voice"}[modality] for modality in modalities}


def _sense(name: str) -> str:
    return CUES[name].modality


def _present(truth: Truth) -> set[str]:
    return {_sense(name) for name in truth}


def _clauses(
    truth: Truth, sense: str, count: int, rng: np.random.Generator, strengths: Mapping[str, float]
) -> list[Clause]:
    """Up to `count` true cues of one sense, those of rest ("the pace is moderate") last."""
    true = (CUES[name] for name, there in truth.items() if there and _sense(name) == sense)
    cues = [cue for cue in true if cue.forms]
    drawn = _draw(cues, [strengths.get(cue.name, 1.0) ** 2 for cue in cues], rng)
    chosen: list[Cue] = []
    for cue in sorted(drawn, key=_rest_last):
        if len(chosen) < count and not any(_repeats(cue, other) for other in chosen):
            chosen.append(cue)
    clauses: list[Clause] = []
    for cue in chosen:
        clauses.append(Clause(cue.name, _phrase(cue, rng, strengths, said=clauses), bool(cue.direction)))
    return clauses


def _rest_last(cue: Cue) -> tuple[bool, int]:
    """Sorts what moves first, then what rests, wide statements ("the tone is plain") before narrow ones."""
    return (True, -len(cue.measures)) if cue.direction == 0 else (False, 0)


def _repeats(cue: Cue, other: Cue) -> bool:
    """Whether two cues say the same thing, or, both true in part, would read as a contradiction."""
    return cue.opposite == other.name or not set(cue.measures).isdisjoint(other.measures)


def _draw(cues: list[Cue], weights: list[float], rng: np.random.Generator) -> list[Cue]:
    """All cues in random order, heavy ones early (exponential clocks: Efraimidis and Spirakis 2006)."""
    clocks = rng.exponential(size=len(cues)) / np.asarray(weights)
    return [cues[index] for index in np.argsort(clocks)]


def _phrase(cue: Cue, rng: np.random.Generator, strengths: Mapping[str, float], *, said: list[Clause]) -> str:
    """One wording of the cue, if possible with a new subject: not "the pitch … and the pitch …"."""
    word = degree(strengths.get(cue.name, 0.0)) if rng.random() < 0.5 else ""
    subjects = {clause.text.split()[0] for clause in said}
    fresh = [form for form in cue.forms if form.split()[0] not in subjects]
    return spell(_choose(rng, fresh or cue.forms), word)


def _denial(truth: Truth, rng: np.random.Generator) -> list[Clause]:
    """One face cue that is surely absent, in a region where nothing may move: "the brows stay relaxed"."""
    busy = {CUES[name].region for name, there in truth.items() if there is not False}
    absent = (CUES[name] for name, there in truth.items() if there is False)
    quiet = [cue for cue in absent if cue.denials and cue.region not in busy]
    if not quiet:
        return []
    cue = quiet[int(rng.integers(len(quiet)))]
    return [Clause(cue.name, _choose(rng, cue.denials), active=False)]


def _sentence(
    sense: str, clauses: list[Clause], truth: Truth, rng: np.random.Generator, times: Mapping[str, float]
) -> str:
    if sense not in _present(truth):
        return _choose(rng, MISSING[sense])
    if not clauses:
        return _choose(rng, UNCLEAR[sense])
    if rng.random() < 0.5 and all(clause.active and clause.cue in times for clause in clauses):
        return _upper_first(_join(_in_time(clauses, times))) + "."
    owner = OWNER[sense] if rng.random() < 0.15 else "the"
    first, *rest = clauses
    return _upper_first(_join([f"{owner} {first.text}", *(f"the {clause.text}" for clause in rest)])) + "."


def _in_time(clauses: list[Clause], times: Mapping[str, float]) -> list[str]:
    """The clauses by onset, each with its time word."""
    parts, before = [], None
    for clause in sorted(clauses, key=lambda clause: times[clause.cue]):
        parts.append(f"{_time_word(times[clause.cue], before)}the {clause.text}")
        before = times[clause.cue]
    return parts


def _time_word(onset: float, before: float | None) -> str:
    if onset >= LATE and (before is None or before < LATE):
        return "towards the end "
    if before is None:
        return "from the start " if onset <= EARLY else ""
    return "then " if onset - before >= THEN else ""


def _body(said: Mapping[str, str], both: bool, rng: np.random.Generator) -> list[str]:
    """The sentences of face and voice, now and then as one.

    The face comes first, always: told in either order, a small model that writes greedily learned to begin with
    the voice, whose few nouns are likelier than the face's many, and forgot the face (`docs/log.md`).
    """
    order = ["face", "voice"]
    if both and rng.random() < 0.3:
        return [f"{said[order[0]][:-1]}, while {_lower_first(said[order[1]])}"]
    return [_framed(sense, said[sense], rng) if both else said[sense] for sense in order]


def _framed(sense: str, sentence: str, rng: np.random.Generator) -> str:
    frame = _choose(rng, FRAMES[sense]) if sentence.startswith("The ") else ""
    return frame + (_lower_first(sentence) if frame else sentence)


def _shows(clauses: list[Clause], emotion: str) -> bool:
    """Whether the clauses can stand as signs of the emotion; rest is a sign of neutral and nothing else."""
    return bool(clauses) and (emotion == "neutral") != any(clause.active for clause in clauses)


def _resolve(said: Mapping[str, str], conflict: Mapping[str, str], rng: np.random.Generator) -> str:
    """Both sides with what they suggest, then which one counts."""
    winner = conflict["winner"]
    loser = "voice" if winner == "face" else "face"
    first, second = "face", "voice"
    link = _choose(rng, ("which suggests {}", "which fits {}", "a sign of {}"))
    sides = [f"{said[sense][:-1]}, {link.format(_noun(conflict[sense]))}." for sense in (first, second)]
    verdict = _choose(rng, VERDICTS).format(winner=winner, loser=loser, noun=_noun(conflict[winner]))
    return f"{sides[0]} But {_lower_first(sides[1])} {verdict}"


def _conclusion(label: str, face: list[Clause], voice: list[Clause], rng: np.random.Generator, *, agree: bool) -> str:
    if label == "neutral":
        moved = any(clause.active for clause in face + voice)
        return _choose(rng, MIXED_CONCLUSIONS if moved else PLAIN_CONCLUSIONS).format(_noun(label))
    joint = JOINT_CONCLUSIONS if agree and face and voice else ()
    return _choose(rng, CONCLUSIONS + joint).format(_noun(label))


def _noun(label: str) -> str:
    return NOUNS.get(label, label)


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _choose(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def _upper_first(text: str) -> str:
    return text[0].upper() + text[1:]


def _lower_first(text: str) -> str:
    return text[0].lower() + text[1:]
