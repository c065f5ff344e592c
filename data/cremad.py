"""CREMA-D, Crowd-sourced Emotional Multimodal Actors Dataset: 91 actors, twelve sentences, rated by 2,443 people.

    CREMA-D/VideoFlash/1001_DFA_ANG_XX.flv      with sound
    CREMA-D/AudioWAV/1001_DFA_ANG_XX.wav        16 kHz
                       │    │   │   └ intensity  LO low, MD medium, HI high, XX unspecified
                       │    │   └ emotion        ANG anger, DIS disgust, FEA fear, HAP happy, NEU neutral, SAD sad
                       │    └ sentence           twelve, see SENTENCES
                       └ actor                   1001 to 1091

Size: 7,442 clips, of which four are left out, because the owners say that they do not show what their name says
(BROKEN). The intensity was asked for in one sentence only (IEO); all other clips have XX.
Protocol: the owners give none. The folds are the speaker-independent ones of HiCMAE (Sun et al. 2024): 18 actors in
the order of their numbers, 19 in the last. The label is what the actor was asked to show, not what the raters saw,
which differs in many clips (`processedResults/summaryTable.csv`).
Licence: Open Database License 1.0, contents under the Database Contents License 1.0; free to clone with Git LFS
(github.com/CheyneyComputerScience/CREMA-D), 7.5 GB.
Cite: Cao et al., "CREMA-D: Crowd-sourced Emotional Multimodal Actors Dataset", IEEE Trans. Affective Computing 5(4),
2014.

A clone without Git LFS, or the zip file of the repository, has a line of text in place of each clip; that is an
error. The mp3 files, the raters' votes and the actors' age, sex and race (`VideoDemographics.csv`) are not read.
"""

import re
from pathlib import Path

from omni.errors import ManifestError
from omni.manifest import Example

from .corpus import FOLDS, Found, clips_below, coded, in_folds, label_in, speaker_folds

NAME = re.compile(r"(?P<actor>10\d\d)_(?P<sentence>[A-Z]{3})_(?P<emotion>[A-Z]{3})_(?P<intensity>[A-Z]{1,2})")
EMOTIONS = {
    "ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happy", "NEU": "neutral", "SAD": "sad",
}  # fmt: skip
INTENSITIES = {"LO": "low", "MD": "medium", "HI": "high", "XX": "unspecified", "X": "unspecified"}  # 1040_ITH_SAD_X
SENTENCES = {
    "IEO": "It's eleven o'clock",
    "TIE": "That is exactly what happened",
    "IOM": "I'm on my way to the meeting",
    "IWW": "I wonder what this is about",
    "TAI": "The airplane is almost full",
    "MTI": "Maybe tomorrow it will be cold",
    "IWL": "I would like a new alarm clock",
    "ITH": "I think I have a doctor's appointment",
    "DFA": "Don't forget a jacket",
    "ITS": "I think I've seen this before",
    "TSI": "The surface is slick",
    "WSI": "We'll stop in a couple of minutes",
}
BROKEN = ("1064_IEO_DIS_MD", "1064_TIE_SAD_XX", "1076_MTI_NEU_XX", "1076_MTI_SAD_XX")
FIRST, LAST = 1001, 1091
STARTS = (1001, 1019, 1037, 1055, 1073, LAST + 1)  # of the test parts
ACTORS = {fold: tuple(map(str, range(*STARTS[fold - 1 : fold + 1]))) for fold in FOLDS}
FOLDERS = {"av": ("VideoFlash", ".flv"), "audio": ("AudioWAV", ".wav")}
POINTER = b"version https://git-lfs"


def read_cremad(root: Path, fold: int | None = None, split: str = "all", modality: str = "av") -> list[Example]:
    """Lists CREMA-D.

    Args:
        root: the clone, with `VideoFlash` or `AudioWAV`.
        fold: 1 to 5; None lists each clip once, with the fold in whose test part it is.
        split: train or test of that fold, or all.
        modality: av or audio.

    Returns:
        Examples with a label of cremad6 and, in `extra`: actor, sentence, text (the words), intensity, fold, and split
        if a fold was asked for.

    Raises:
        OmniError: a name that CREMA-D does not have, a clip that is not there but in Git LFS, no clip, an empty fold.
    """
    if modality not in FOLDERS:
        raise ManifestError(f"Unknown modality '{modality}'. Use {', '.join(FOLDERS)}.", code="unknown_option")
    folder, suffix = FOLDERS[modality]
    clips = clips_below(root / folder, (suffix,))
    found = [_found(path) for name, path in clips.items() if name not in BROKEN]
    return in_folds(speaker_folds(found, ACTORS), fold, split, root / folder)


def _found(path: Path) -> Found:
    match = NAME.fullmatch(path.stem)
    if match is None or not FIRST <= int(match["actor"]) <= LAST:
        raise ManifestError(
            f"{path} is not a CREMA-D name such as 1001_DFA_ANG_XX (actor, sentence, emotion, intensity). Move it.",
            code="bad_name",
        )
    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise ManifestError(f"{path}:1: a pointer of Git LFS, no clip. Run: git lfs pull", code="no_clip")
    where = str(path)
    label = label_in("cremad6", coded(EMOTIONS, match["emotion"], "emotion", where), where)
    extra = {
        "actor": match["actor"],
        "sentence": match["sentence"],
        "text": coded(SENTENCES, match["sentence"], "sentence", where),
        "intensity": coded(INTENSITIES, match["intensity"], "intensity", where),
    }
    return Found(where, path.stem, Example(path, label, extra=extra))
