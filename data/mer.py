"""MER2023 and MER2024, the corpora of two challenges: Chinese films and series, one person speaking in each clip.

    MER2023/train-label.csv                name,discrete,valence
                                           sample_00000648,angry,-2.0
    MER2023/train/sample_00000648.avi
    MER2023/test1-label.csv, test1/        MER-MULTI
    MER2023/test2-label.csv, test2/        MER-NOISE: noise was added
    MER2023/test3-label.csv, test3/        MER-SEMI; has no valence

    MER2024/label-disdim.csv               name,discrete,valence
    MER2024/video-labeled/sample_00000648.mp4
    MER2024/reference-semi.csv, reference-noise.csv, video-unlabeled-with-test2noise/

    neutral angry happy sad worried surprise

Size: MER2023 has 3,373 labelled clips in train, 411, 412 and 834 in test1 to test3; MER2024's labelled part is, by
its paper, these 5,030 together, so one cannot be the test of the other, nor of EMER. Their many clips
without a label are not listed.
Protocol: train is what is trained and validated on, scored by weighted F1. The labels of the tests came after the
challenges, hence `--split train` is the default.
Licence: academic research only, by a form on the hub (MERChallenge/MER2023, and MERChallenge/MER2024, which adds
CC BY-NC 4.0).
Cite: Lian et al., "MER 2023: Multi-label Learning, Modality Robustness, and Semi-Supervised Learning", ACM MM 2023;
Lian et al., "MER 2024: Semi-Supervised Learning, Noise Robustness, and Open-Vocabulary Multimodal Emotion
Recognition", MRAC 2024.

Verified on the owners' own scripts: the names of tables, columns and folders of MER2023, and of the labelled part of
MER2024; the total on their list of clips. Not verified: the values of valence, the suffix of the clips (any of
`VIDEO` is taken), and the two reference tables of MER2024 with the place of their clips, which are as an evaluation
of others has them; `--clips` names another folder.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from omni.errors import ManifestError
from omni.manifest import Example

from .corpus import Found, chosen, clip_named, clips_below, label_in, listed, read_table


class Split(NamedTuple):
    """Where a split is: its table, and the folder of its clips."""

    table: str
    clips: str


MER2023 = {
    "train": Split("train-label.csv", "train"),
    "test1": Split("test1-label.csv", "test1"),
    "test2": Split("test2-label.csv", "test2"),
    "test3": Split("test3-label.csv", "test3"),
}
MER2024 = {
    "train": Split("label-disdim.csv", "video-labeled"),
    "semi": Split("reference-semi.csv", "video-unlabeled-with-test2noise"),
    "noise": Split("reference-noise.csv", "video-unlabeled-with-test2noise"),
}


def read_mer2023(root: Path, split: str = "train", clips: Path | None = None) -> list[Example]:
    """Lists MER2023.

    Args:
        root: the folder with `train-label.csv` and `train`.
        split: train, test1, test2, test3 or all.
        clips: where the clips are, if not in a folder with the name of the split.

    Returns:
        Examples with a label of mer6 and, in `extra`: split, and valence where the table has it.

    Raises:
        OmniError: a missing file, an unknown label, a clip that stands twice, an empty split.
    """
    return _read(MER2023, root, split, clips)


def read_mer2024(root: Path, split: str = "train", clips: Path | None = None) -> list[Example]:
    """Lists MER2024.

    Args:
        root: the folder with `label-disdim.csv` and `video-labeled`.
        split: train, semi, noise or all.
        clips: where the clips are, if not in `video-labeled` or `video-unlabeled-with-test2noise`.

    Returns:
        Examples with a label of mer6 and, in `extra`: split, and valence where the table has it.

    Raises:
        OmniError: a missing file, an unknown label, a clip that stands twice, an empty split.
    """
    return _read(MER2024, root, split, clips)


def _read(splits: Mapping[str, Split], root: Path, split: str, clips: Path | None) -> list[Example]:
    found = (one for name in chosen(split, splits) for one in _split(splits[name], root, name, clips))
    return listed(found, root)


def _split(split: Split, root: Path, name: str, clips: Path | None) -> Iterator[Found]:
    folder = clips or root / split.clips
    rows = read_table(root / split.table, ("name", "discrete"))
    known = clips_below(folder)
    for where, row in rows:
        label = label_in("mer6", row["discrete"], where)
        extra: dict[str, Any] = {"split": name}
        if row.get("valence"):
            extra["valence"] = _number(row["valence"], where)
        yield Found(where, row["name"], Example(clip_named(row["name"], known, where, folder), label, extra=extra))


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError as err:
        raise ManifestError(f"{where}: valence '{text}' is no number. Take the owner's file.", code="bad_row") from err
