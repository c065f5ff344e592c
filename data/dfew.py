"""DFEW, Dynamic Facial Expression in the Wild: clips of more than 1,500 films, each labelled ten times.

    DFEW/Clip/original/part_1/1.mp4                             the clips, with sound; 11 parts of at most 1,600
    DFEW/EmoLabel_DataSplit/train(single-labeled)/set_1.csv     video_name,label
    DFEW/EmoLabel_DataSplit/test(single-labeled)/set_1.csv      1,2              (clip 1.mp4 is sad)

    label   1 happy   2 sad   3 neutral   4 angry   5 surprise   6 disgust   7 fear

Size: 16,372 clips, of which the split files hold the 11,697 that have a single label. Protocol: five folds, a test
part is 2,336 to 2,341 clips and the five of them are the whole; published numbers are means over the folds, or
R1-Omni's one.
Licence: non-commercial research, by e-mail to the owners, who send a password (dfew-dataset.github.io).
Cite: Jiang et al., "DFEW: A Large-Scale Database for Recognizing Dynamic Facial Expressions in the Wild", ACM MM
2020.

Left out: clips without a single label, and the face crops beside the clips (`Clip/clip_224x224…`: frames without
sound); `--clips` takes any other folder of numbered clips. Not verified on the archives themselves, which need the
password: the names of the part folders, which therefore do not matter. Layout, header and codes are those that
several public readers of the archives agree on; the sizes are those of public copies of the split files.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from omni.manifest import Example

from .corpus import Found, clip_named, clips_below, coded, in_folds, label_in, read_table

CODES = {"1": "happy", "2": "sad", "3": "neutral", "4": "angry", "5": "surprise", "6": "disgust", "7": "fear"}


def read_dfew(root: Path, fold: int | None = None, split: str = "all", clips: Path | None = None) -> list[Example]:
    """Lists DFEW: all single-labelled clips, or a fold of them.

    Args:
        root: the folder with `Clip` and `EmoLabel_DataSplit`.
        fold: 1 to 5; None lists each clip once, with the fold in whose test part it is.
        split: train or test of that fold, or all.
        clips: where the clips are, if not in `Clip/original`.

    Returns:
        Examples with a label of dfew7 and, in `extra`: fold, and split if a fold was asked for.

    Raises:
        OmniError: a missing file, an unknown label, a clip that stands twice, an empty fold.
    """
    folder = clips or root / "Clip" / "original"
    known = {name.lstrip("0"): path for name, path in clips_below(folder).items()}
    return in_folds(partial(_part, root, folder, known), fold, split, root)


def _part(root: Path, folder: Path, clips: Mapping[str, Path], fold: int, name: str) -> Iterator[Found]:
    table = root / "EmoLabel_DataSplit" / f"{name}(single-labeled)" / f"set_{fold}.csv"
    for where, row in read_table(table, ("video_name", "label")):
        number = row["video_name"].lstrip("0")
        label = label_in("dfew7", coded(CODES, row["label"], "label", where), where)
        yield Found(where, number, Example(clip_named(number, clips, where, folder), label))
