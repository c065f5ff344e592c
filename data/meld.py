"""MELD, Multimodal EmotionLines Dataset: utterances of the series Friends, several people in the picture.

    MELD.Raw/train_sent_emo.csv             Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,…
                                            3,No don’t I beg of you!,Phoebe,fear,negative,1,1,…
    MELD.Raw/train_splits/dia1_utt1.mp4                  train.tar.gz
    MELD.Raw/dev_splits_complete/dia0_utt0.mp4           dev.tar.gz
    MELD.Raw/output_repeated_splits_test/dia0_utt0.mp4   test.tar.gz

    neutral surprise fear sadness joy disgust anger

The tables may also be in `data/MELD` (as in the repository) or beside the clips in `train`, `dev`, `test`, and the
clips in folders of these names.

Size: 9,989 train, 1,109 dev, 2,610 test utterances of 1,038, 114 and 280 dialogues. Protocol: the three splits; the
usual score is weighted F1. Two rows are left out: dev dia110_utt7 has no clip (the owners advise to go without it),
train dia125_utt3 is damaged. Clips of the test folder without a row (`final_videos_test…`) are not used. Some clips
are known to be cut wrongly.
Licence: the annotations are under GPL-3.0 (github.com/declare-lab/MELD), free to download; the clips are from a
television series, whose rights are not the owners'.
Cite: Poria et al., "MELD: A Multimodal Multi-Party Dataset for Emotion Recognition in Conversations", ACL 2019.

Verified: header, labels, sizes and that no utterance stands twice, on the owners' tables. Not verified: the clips'
folders, which are those that several public readers of the archive agree on.
"""

from collections.abc import Iterator
from pathlib import Path

from omni.errors import ManifestError
from omni.manifest import Example

from .corpus import Found, chosen, clip_named, clips_below, first_file, label_in, listed, read_table

FOLDERS = {
    "train": "train_splits",
    "dev": "dev_splits_complete",
    "test": "output_repeated_splits_test",
}
COLUMNS = ("Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID")
BROKEN = {"train": ("dia125_utt3",), "dev": ("dia110_utt7",), "test": ()}


def read_meld(root: Path, split: str = "all") -> list[Example]:
    """Lists MELD.

    Args:
        root: the unpacked `MELD.Raw`.
        split: train, dev, test or all.

    Returns:
        Examples with a label of meld7 and, in `extra`: split, dialogue, utterance (its number there), speaker, text
        (the words), sentiment.

    Raises:
        OmniError: a missing file, an unknown label, an utterance that stands twice, an empty split.
    """
    splits = chosen(split, FOLDERS)
    return [example for name in splits for example in listed(_split(root, name), root)]


def _split(root: Path, split: str) -> Iterator[Found]:
    name = f"{split}_sent_emo.csv"
    table = first_file(root, (name, f"{split}/{name}", f"data/MELD/{name}"))
    folder = _folder(root, split)
    clips = clips_below(folder)
    for where, row in read_table(table, COLUMNS):
        key = f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}"
        if key in BROKEN[split]:
            continue
        extra = {
            "split": split,
            "dialogue": row["Dialogue_ID"],
            "utterance": row["Utterance_ID"],
            "speaker": row["Speaker"],
            "text": row["Utterance"],
            "sentiment": row["Sentiment"],
        }
        label = label_in("meld7", row["Emotion"], where)
        yield Found(where, key, Example(clip_named(key, clips, where, folder), label, extra=extra))


def _folder(root: Path, split: str) -> Path:
    places = (root / FOLDERS[split], root / split)
    for folder in places:
        if folder.is_dir():
            return folder
    raise ManifestError(
        f"There is neither {places[0]} nor {places[1]}. Unpack {split}.tar.gz in {root}.", code="not_found"
    )
