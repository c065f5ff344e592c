"""MAFW, Multi-modal Affective Faces in the Wild: clips of films, television and short videos from many countries.

    MAFW/data/clips/00025.mp4
    MAFW/Train & Test Set/single/no_caption/set_1/train.txt     03747.mp4 anger
    MAFW/Train & Test Set/single/no_caption/set_1/test.txt      00025.mp4 anger

    anger disgust fear happiness neutral sadness surprise contempt anxiety helplessness disappointment

Size: 10,045 clips, of which 9,172 have a single label and are in these files. Protocol: five folds, a test part is
1,831 to 1,839 clips and the five of them are the whole. 21 of the clips have no sound that can be extracted.
Licence: non-commercial research, by a signed form from a university (mafw-database.github.io/MAFW).
Cite: Liu et al., "MAFW: A Large-scale, Multi-modal, Compound Affective Database for Dynamic Facial Expression
Recognition in the Wild", ACM MM 2022.

Left out: the compound labels, the descriptions in two languages, and the spreadsheets in `Labels`, which say the
same.
Not verified on the archives themselves, which need the form: layout and lines are those that several public readers
of them agree on; the sizes are those of public copies of the split files.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from omni.errors import ManifestError
from omni.manifest import Example

from .corpus import Found, clip_named, clips_below, in_folds, label_in, read_text


def read_mafw(root: Path, fold: int | None = None, split: str = "all", clips: Path | None = None) -> list[Example]:
    """Lists MAFW: all single-labelled clips, or a fold of them.

    Args:
        root: the folder with `data` and `Train & Test Set`.
        fold: 1 to 5; None lists each clip once, with the fold in whose test part it is.
        split: train or test of that fold, or all.
        clips: where the clips are, if not in `data/clips`.

    Returns:
        Examples with a label of mafw11 and, in `extra`: fold, and split if a fold was asked for.

    Raises:
        OmniError: a missing file, an unknown label, a clip that stands twice, an empty fold.
    """
    folder = clips or root / "data" / "clips"
    return in_folds(partial(_part, root, folder, clips_below(folder)), fold, split, root)


def _part(root: Path, folder: Path, clips: Mapping[str, Path], fold: int, name: str) -> Iterator[Found]:
    table = root / "Train & Test Set" / "single" / "no_caption" / f"set_{fold}" / f"{name}.txt"
    lines = [
        (number, line.split()) for number, line in enumerate(read_text(table).splitlines(), start=1) if line.strip()
    ]
    if not lines:
        raise ManifestError(f"{table}:1: no clips. Take the owner's file.", code="empty_file")
    for number, words in lines:
        where = f"{table}:{number}"
        if len(words) != 2:
            raise ManifestError(
                f"{where}: wanted a clip and a label such as '00025.mp4 anger', got {len(words)} words. "
                "Take the owner's file.",
                code="bad_row",
            )
        key = Path(words[0]).stem
        yield Found(where, key, Example(clip_named(key, clips, where, folder), label_in("mafw11", words[1], where)))
