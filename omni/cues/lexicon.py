"""The words for cues: which visible and audible signs a rationale may name, and how free text names them.

The ontology is data (`lexicon.json`, read once): each cue has the action units or prosody deltas it rests
on, short phrases for writing, and patterns for reading. Every phrase parses back to its own cue alone.

    sentence → matches of all patterns → longest first; one inside a longer one with the same end is dropped
             → polarity: -1 if it denies ("the brows stay relaxed"), flipped by a negation in its clause

A cue counts once per polarity and text. Left out: irony, hypotheticals ("a smile would …"), and a negation
across a comma list ("no frown, smile or tear").
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal, NamedTuple

Modality = Literal["face", "voice"]


@dataclass(frozen=True)
class Cue:
    """One sign in face or voice. `forms` and `denials` are the templates that `spell` writes."""

    name: str
    modality: Modality
    region: str
    measures: tuple[str, ...]  # action units (any of them) or voice deltas; empty: nobody can check it
    direction: int  # +1 the measure is up, -1 it is down, 0 all measures are at rest
    forms: tuple[str, ...]
    denials: tuple[str, ...]
    patterns: tuple[str, ...]
    denied_by: tuple[str, ...]
    opposite: str | None = None
    provable_absence: bool = True

    @property
    def phrases(self) -> tuple[str, ...]:
        """The writing phrases without an intensity word, each a clause after "the"."""
        return tuple(spell(form) for form in self.forms)


class Claim(NamedTuple):
    cue: str
    modality: Modality
    polarity: int  # +1 the text says that the cue is there, -1 that it is not
    sentence: str
    start: int  # characters of the sentence that say so
    end: int


class _Reading(NamedTuple):
    cue: str
    polarity: int
    start: int
    end: int


class _Rule(NamedTuple):
    cue: str
    denial: bool
    own_negation: bool  # the pattern itself says "barely" or "nothing": not a negation of it
    regex: re.Pattern[str]


_SENTENCE = re.compile(r"(?<=[.!?;])\s+|\n+")
_CLAUSE = re.compile(r"[,;:\u2013\u2014]|\b(?:and|but|while|yet|although|though|whereas|however)\b", re.I)
_NEGATION = re.compile(
    r"\b(?:no(?! doubt)|not(?! only| just)|never|none|neither|nor|without|lacks?|lacking|absence of|free of"
    r"|nothing|hardly|barely|scarcely|rather than|instead of|fails? to)\b|n['\u2019]t\b",
    re.I,
)
_MISSING_AFTER = re.compile(
    r"\s+(?:is|are|remains?|was|were)\s+(?:absent|missing|lacking|not\s+(?:seen|visible|present|there|shown))\b",
    re.I,
)
_NEGATION_REACH = 60  # characters: about ten words, the longest clause that a negation governs in practice


def spell(form: str, degree: str = "") -> str:
    """Writes a phrase template with its intensity word.

    >>> spell("brows ~lift"), spell("brows ~lift", "strongly"), spell("pitch is ^high", "strongly")
    ('brows lift', 'brows strongly lift', 'pitch is very high')
    """
    if not degree:
        return form.translate({ord("~"): None, ord("^"): None})
    before_adjective = _data()["before_adjectives"].get(degree, degree)
    return form.replace("~", f"{degree} ").replace("^", f"{before_adjective} ")


def claims(text: str) -> list[Claim]:
    """Finds what a text says about cues, in reading order, each cue once per polarity.

    >>> [(c.cue, c.polarity) for c in claims("The brow is furrowed, there is no smile, the voice is flat.")]
    [('brow_down', 1), ('smile', -1), ('range_flat', 1)]
    """
    found: dict[tuple[str, int], Claim] = {}
    for sentence in sentences(text):
        for reading in _read(sentence):
            modality = CUES[reading.cue].modality
            claim = Claim(reading.cue, modality, reading.polarity, sentence, reading.start, reading.end)
            found.setdefault((reading.cue, reading.polarity), claim)
    return list(found.values())


def sentences(text: str) -> list[str]:
    """The sentences of a text, without the space around them.

    >>> sentences("A smile.  The pitch is high; so she is glad.")
    ['A smile.', 'The pitch is high;', 'so she is glad.']
    """
    return [sentence.strip() for sentence in _SENTENCE.split(text) if sentence.strip()]


def degree(strength: float) -> str:
    """The intensity word of a strength, in multiples of the threshold at which a cue counts as present.

    >>> degree(1.2), degree(2.0), degree(3.0), degree(0.5)
    ('slightly', 'clearly', 'strongly', '')
    """
    for word, (low, high) in _data()["degrees"].items():
        if low <= strength and (high is None or strength < high):
            return str(word)
    return ""


def _read(sentence: str) -> list[_Reading]:
    kept: list[tuple[_Reading, bool]] = []
    for reading, denial in sorted(_matches(sentence), key=lambda found: found[0].start - found[0].end):
        if not any(_swallows(longer, long_denial, reading) for longer, long_denial in kept):
            kept.append((reading, denial))
    return sorted((reading for reading, _ in kept), key=lambda reading: (reading.end, reading.start))


def _swallows(longer: _Reading, denial: bool, reading: _Reading) -> bool:
    inside = longer.start <= reading.start and reading.end <= longer.end
    return inside and (denial or longer.cue == reading.cue or longer.end == reading.end)


def _matches(sentence: str) -> Iterator[tuple[_Reading, bool]]:
    for rule in _rules():
        for match in rule.regex.finditer(sentence):
            flipped = _negated(sentence, match, own_negation=rule.own_negation)
            polarity = 1 if rule.denial == flipped else -1
            yield _Reading(rule.cue, polarity, match.start(), match.end()), rule.denial


def _negated(sentence: str, match: re.Match[str], *, own_negation: bool) -> bool:
    """Whether a negation governs the match: before its last word in the same clause, or right after it."""
    end = match.start() if own_negation else match.start() + len(match[0].rpartition(" ")[0])
    clause = _CLAUSE.split(sentence[:end])[-1][-_NEGATION_REACH:]
    return bool(_NEGATION.search(clause)) or bool(_MISSING_AFTER.match(sentence, match.end()))


@cache
def _data() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(resources.files("omni.cues").joinpath("lexicon.json").read_text("utf-8"))
    return data


def _cue(name: str, row: dict[str, Any]) -> Cue:
    lists = {key: tuple(row[key]) for key in ("measures", "denials", "patterns", "denied_by")}
    return Cue(
        name=name,
        modality=row["modality"],
        region=row["region"],
        direction=row["direction"],
        forms=tuple(row["phrases"]),
        opposite=row.get("opposite"),
        provable_absence=row.get("provable_absence", True),
        **lists,
    )


@cache
def _rules() -> tuple[_Rule, ...]:
    return tuple(
        _Rule(cue.name, denial, bool(_NEGATION.search(pattern)), re.compile(_expand(pattern), re.I))
        for cue in CUES.values()
        for denial, patterns in ((False, cue.patterns), (True, cue.denied_by))
        for pattern in patterns
    )


def _expand(pattern: str) -> str:
    """Replaces each @name by its macro, the longest name that fits: "@gapslant" is @gap and "slant"."""
    names = "|".join(sorted(_data()["macros"], key=len, reverse=True))
    while "@" in pattern:
        pattern = re.sub(rf"@({names})", lambda match: _data()["macros"][match[1]], pattern)
    return pattern


CUES: dict[str, Cue] = {name: _cue(name, row) for name, row in _data()["cues"].items()}
