"""RAVDESS, Ryerson Audio-Visual Database of Emotional Speech and Song: 24 actors, two sentences, studio recordings.

    RAVDESS/Actor_12/01-01-06-01-02-01-12.mp4
                     │  │  │  │  │  │  └ actor        01 to 24; odd male, even female
                     │  │  │  │  │  └ repetition      01, 02
                     │  │  │  │  └ statement          01 Kids are talking by the door, 02 Dogs are sitting by the door
                     │  │  │  └ intensity             01 normal, 02 strong (neutral has none)
                     │  │  └ emotion                  01 neutral 02 calm 03 happy 04 sad 05 angry 06 fearful
                     │  │                             07 disgust 08 surprised
                     │  └ vocal channel               01 speech, 02 song
                     └ modality                       01 picture and sound (mp4), 02 picture (mp4), 03 sound (wav)

Size: 7,356 files, of which 1,440 are speech with picture and sound (60 an actor). Sung are six of the emotions,
without disgust and surprise, by 23 actors.
Protocol: the owners give none. The folds are the speaker-independent ones of Luna-Jiménez et al. 2021 (there 0 to 4),
five actors in each test part and four in the last. R1-Omni's numbers fit 300 clips, as in one of folds 1 to 4; which
actors is not published.
Licence: CC BY-NC-SA 4.0, free to download (zenodo.org/record/1188976); the owners sell commercial licences.
Cite: Livingstone and Russo, "The Ryerson Audio-Visual Database of Emotional Speech and Song", PLoS ONE 13(5), 2018.

The archives (`Video_Speech_Actor_01.zip` …, `Audio_Speech_Actors_01-24.zip`) unpack to `Actor_01` …; folders do not
matter, only names do. Whether all actors are there is checked where a fold is asked for.
"""

from pathlib import Path

from omni.errors import ManifestError
from omni.manifest import Example

from .corpus import VIDEO, Found, clips_below, coded, in_folds, label_in, speaker_folds

FIELDS = {
    "modality": {"01": "av", "02": "video", "03": "audio"},
    "channel": {"01": "speech", "02": "song"},
    "emotion": {
        "01": "neutral", "02": "calm", "03": "happy", "04": "sad",
        "05": "angry", "06": "fearful", "07": "disgust", "08": "surprised",
    },
    "intensity": {"01": "normal", "02": "strong"},
    "text": {"01": "Kids are talking by the door", "02": "Dogs are sitting by the door"},
    "repetition": {"01": "1", "02": "2"},
    "actor": {f"{number:02}": f"{number:02}" for number in range(1, 25)},
}  # fmt: skip
ACTORS = {
    1: ("02", "05", "14", "15", "16"),
    2: ("03", "06", "07", "13", "18"),
    3: ("10", "11", "12", "19", "20"),
    4: ("08", "17", "21", "23", "24"),
    5: ("01", "04", "09", "22"),
}


def read_ravdess(
    root: Path, fold: int | None = None, split: str = "all", modality: str = "av", channel: str = "speech"
) -> list[Example]:
    """Lists RAVDESS.

    Args:
        root: a folder with files of RAVDESS, or with folders of them.
        fold: 1 to 5; None lists each clip once, with the fold in whose test part it is.
        split: train or test of that fold, or all.
        modality: av, video or audio.
        channel: speech or song.

    Returns:
        Examples with a label of ravdess8 and, in `extra`: modality, channel, intensity, text (the words), repetition,
        actor, sex, fold, and split if a fold was asked for.

    Raises:
        OmniError: a name that RAVDESS does not have, a clip that stands twice, no clip, an empty fold.
    """
    for option, value in (("modality", modality), ("channel", channel)):
        if value not in FIELDS[option].values():
            known = ", ".join(FIELDS[option].values())
            raise ManifestError(f"Unknown {option} '{value}'. Use {known}.", code="unknown_option")
    every = [_found(path) for path in clips_below(root, (*VIDEO, ".wav")).values()]
    found = [
        one for one in every if (one.example.extra["modality"], one.example.extra["channel"]) == (modality, channel)
    ]
    return in_folds(speaker_folds(found, ACTORS), fold, split, root)


def decode(name: str, where: str) -> dict[str, str]:
    """What a file name says.

    Raises:
        OmniError: not a name of RAVDESS.

    >>> fields = decode("02-01-06-01-02-01-12", "02-01-06-01-02-01-12.mp4")
    >>> fields["modality"], fields["emotion"], fields["text"], fields["actor"]
    ('video', 'fearful', 'Dogs are sitting by the door', '12')
    """
    codes = name.split("-")
    if len(codes) != len(FIELDS):
        raise ManifestError(
            f"{where} is not a RAVDESS name such as 01-01-06-01-02-01-12 (modality, channel, emotion, intensity, "
            "statement, repetition, actor). Move it.",
            code="bad_name",
        )
    pairs = zip(FIELDS.items(), codes, strict=True)
    return {field: coded(meanings, code, field, where) for (field, meanings), code in pairs}


def _found(path: Path) -> Found:
    extra = decode(path.stem, str(path))
    label = label_in("ravdess8", extra.pop("emotion"), str(path))
    extra["sex"] = "male" if int(extra["actor"]) % 2 else "female"
    return Found(str(path), path.stem, Example(path, label, extra=extra))
