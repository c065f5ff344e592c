"""EMER, Explainable Multimodal Emotion Reasoning: reasons in words for clips of MER2023, as targets of a cold start.

    version   file of the owners                               columns                            clips
    v1        EMER/dataset-v1/gt-eng.csv                       names,emotions,subtitles,reasons     100
    v2        EMER/dataset-v2/final-EMER-reason.csv            name,chinese,english                 332
    ovmerd    mer2025-dataset/track3_train_ovmerd.csv          name,reason                          332
              mer2025-dataset/track2_train_ovmerd.csv          name,openset

    sample_00000648,angry,Don't talk to me about feelings anymore.,"In the video, he roared, spoke passionately, …"

v1 is a sentence or two by people. v2 (the default) is a paragraph on picture, sound and words, drafted by GPT-4V,
checked by people and merged by ChatGPT. ovmerd is EMER as MER2025 has it, with several true words for each clip
(`openset`). R1-Omni's cold start took 232 of these clips; which ones is not published. The Chinese reasons are not
read.

The clips, and for v2 and ovmerd the labels, are those of MER2023, MER2024 or MER2025: `--clips` names the unpacked
folder of one of them (default: the same as --root). The labels come from the tables there (`train-label.csv`,
`label-disdim.csv` …); reasons name finer emotions than these. `--no-labels` writes reasons without them, which no
training of ours can use, since an answer is a label.

Protocol: none; all clips are training data. They are labelled clips of MER2023, and of MER2024 with it, so a model that
has learned from them has seen clips of both.
Licence: none is stated for the tables (github.com/zeroQiaoba/AffectGPT); the clips are for academic research only, by
a form.
Cite: Lian et al., "Explainable Multimodal Emotion Reasoning", arXiv 2306.15401; for ovmerd, "OV-MER", arXiv
2410.01495.

Verified on the owners' tables of v1 and v2: columns, sizes, that no clip stands twice and that all are in MER2023.
Not verified: the two tables of ovmerd, whose names and columns are from the owners' code, and which of its label
tables a release of MER2025 has.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from omni.emotions import emotion_words
from omni.errors import ManifestError
from omni.manifest import Example

from .corpus import Found, Row, clip_named, clips_below, first_file, label_in, listed, read_table
from .mer import MER2023, MER2024, Split


class Version(NamedTuple):
    """Which file, and which columns of it hold the clip, the reasons and, perhaps, the label."""

    file: str
    name: str
    reason: str
    label: str | None = None


VERSIONS = {
    "v1": Version("dataset-v1/gt-eng.csv", "names", "reasons", "emotions"),
    "v2": Version("dataset-v2/final-EMER-reason.csv", "name", "english"),
    "ovmerd": Version("track3_train_ovmerd.csv", "name", "reason"),
}
OPENSET = "track2_train_ovmerd.csv"
MER2025 = Split("track1_train_disdim.csv", "video")
LABELLED = (*MER2023.values(), MER2024["train"], MER2025)  # where labels and clips of EMER are


def read_emer(root: Path, clips: Path | None = None, version: str = "v2", labels: bool = True) -> list[Example]:
    """Lists EMER.

    Args:
        root: the owners' folder `EMER`, one of its folders, or that of MER2025.
        clips: the unpacked MER2023, MER2024 or MER2025; None means `root`.
        version: v1, v2 or ovmerd.
        labels: write the label of each clip.

    Returns:
        Examples with the reasons as `rationale`, a label of mer6 and, in `extra`: version, subtitle (v1: the words in
        English), openset (ovmerd: a list of words).

    Raises:
        OmniError: a missing file, an unknown label, a clip that stands twice or has no reasons or no label.
    """
    if version not in VERSIONS:
        raise ManifestError(f"Unknown version '{version}'. Use {', '.join(VERSIONS)}.", code="unknown_option")
    kind, home = VERSIONS[version], clips or root
    columns = [kind.name, kind.reason, *([kind.label] if kind.label else [])]
    rows = read_table(first_file(root, (kind.file, f"EMER/{kind.file}", Path(kind.file).name)), columns)
    words = _words(home) if labels and kind.label is None else {}
    openset = _openset(root) if version == "ovmerd" else {}
    known = _clips(home)
    found = []
    for row in rows:
        where, values = row
        name = values[kind.name]
        if version == "ovmerd" and name not in openset:
            raise ManifestError(f"{where}: {OPENSET} has no row of '{name}'. Take the owners' files.", code="bad_row")
        label = _label(kind, row, words, home) if labels else None
        extra = {"version": version, "subtitle": values.get("subtitles"), "openset": openset.get(name)}
        example = Example(
            clip_named(name, known, where, home),
            label,
            _reasons(values[kind.reason], where),
            extra={key: value for key, value in extra.items() if value},
        )
        found.append(Found(where, name, example))
    return listed(found, root)


def _reasons(text: str, where: str) -> str:
    if not text:
        raise ManifestError(f"{where}: no reasons. Take the owner's file.", code="bad_row")
    return text


def _label(kind: Version, row: Row, words: Mapping[str, Row], home: Path) -> str:
    where, values = row
    if kind.label:
        return label_in("mer6", values[kind.label], where)
    name = values[kind.name]
    if name not in words:
        raise ManifestError(
            f"{where}: no table of {home} has a label of '{name}'. Name the whole of MER2023 or MER2024 with --clips, "
            "or give --no-labels.",
            code="no_label",
        )
    return label_in("mer6", words[name].values["discrete"], words[name].where)


def _words(home: Path) -> dict[str, Row]:
    """The rows of the label tables of MER, by clip."""
    tables = [home / split.table for split in LABELLED if (home / split.table).is_file()]
    if not tables:
        raise ManifestError(
            f"{home} has none of {', '.join(split.table for split in LABELLED)}, and this version of EMER has no "
            "labels. Name the folder of MER2023 or MER2024 with --clips, or give --no-labels.",
            code="not_found",
        )
    return {row.values["name"]: row for table in tables for row in read_table(table, ("name", "discrete"))}


def _openset(root: Path) -> dict[str, list[str]]:
    return {row["name"]: emotion_words(row["openset"]) for _, row in read_table(root / OPENSET, ("name", "openset"))}


def _clips(home: Path) -> dict[str, Path]:
    """The clips in the folders that MER2023, 2024 and 2025 have, or anywhere in the folder if it has none of them."""
    folders = [home / split.clips for split in LABELLED if (home / split.clips).is_dir()] or [home]
    return {name: path for folder in folders for name, path in clips_below(folder).items()}
