"""EmoDB, the Berlin database of emotional speech: ten actors, ten German sentences, real acted voices.

    03a01Wa.opus ─► speaker 03, sentence a01, W = Wut = angry, take a

Source: Burkhardt et al., "A database of German emotional speech", Interspeech 2005; CC0-1.0; 16 kHz mono.
WAV, FLAC and Opus are read. Bored utterances (L) are left out, since boredom is in none of our label spaces:
454 of 535 remain. Speakers 15 (male) and 16 (female) are the test split, all others train. The levels look
normalised, so loudness is no cue here.
"""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from omni.clip import read_clip
from omni.cues.voice import Prosody, measure
from omni.errors import ManifestError
from omni.manifest import Example

EMOTIONS = {"W": "angry", "E": "disgust", "A": "fear", "F": "happy", "T": "sad", "N": "neutral"}
SPEAKERS = {"03": "male", "08": "female", "09": "female", "10": "male", "11": "male"} | {
    "12": "male", "13": "female", "14": "female", "15": "male", "16": "female"
}  # fmt: skip
TEST_SPEAKERS = ("15", "16")
SUFFIXES = (".opus", ".wav", ".flac")


def read_emodb(folder: str | Path) -> list[Example]:
    """Lists the utterances of a folder, in the order of their names.

    Args:
        folder: where the sound files lie, named as the makers named them.

    Returns:
        Examples with a label and, in `extra`: speaker, sex, sentence, take, split ("train" or "test").

    Raises:
        ManifestError: the folder has no EmoDB file, or a file has a name that EmoDB does not have.
    """
    folder = Path(folder)
    clips = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
    if not clips:
        raise ManifestError(
            f"{folder} has no EmoDB utterance such as 03a01Wa.wav. Give the folder with the sound files.",
            code="no_clips",
        )
    return [_example(clip) for clip in clips if clip.stem[5:6] != "L"]


def utterance(example: Example) -> Prosody:
    """The prosody of one example.

    Raises:
        ClipError: the file has no readable sound.
    """
    wave = read_clip(example.clip, video=False).wave
    assert wave is not None  # without sound and picture read_clip raises
    return measure(wave)


def speaker_baselines(examples: Iterable[Example]) -> dict[str, Prosody]:
    """The neutral voice of each speaker: the median of every measure over their neutral utterances.

    >>> speaker_baselines([])
    {}
    """
    neutral = defaultdict(list)
    for example in examples:
        if example.label == "neutral":
            neutral[example.extra["speaker"]].append(utterance(example))
    return {speaker: Prosody(*np.nanmedian(takes, axis=0).tolist()) for speaker, takes in neutral.items()}


def _example(clip: Path) -> Example:
    speaker, sentence, letter, take = clip.stem[:2], clip.stem[2:5], clip.stem[5:6], clip.stem[6:7]
    if speaker not in SPEAKERS or letter not in EMOTIONS or len(clip.stem) != 7:
        raise ManifestError(
            f"{clip} is not an EmoDB name such as 03a01Wa (speaker, sentence, emotion, take). Move it.",
            code="bad_name",
        )
    split = "test" if speaker in TEST_SPEAKERS else "train"
    extra = {"speaker": speaker, "sex": SPEAKERS[speaker], "sentence": sentence, "take": take, "split": split}
    return Example(clip, EMOTIONS[letter], extra=extra)
