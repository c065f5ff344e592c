"""How true the default model's reasons are of held-out clips, as they are, mute and blind.

    python benchmarks/groundedness.py MANIFEST OUT.json [--features DIR] [--model default] [--limit N]

The manifest is one of `python -m data actors`. Each clip is asked three times: whole, without its sound, without its
picture (copies with both senses only). The claims of the reasons are checked twice: against what is measured of the
clip, as `omni ask --evidence` does, and against what is known of it. Also checked against the clips: the reasons of
another clip with the same answer, which is what a text earns that never looked.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import typer
from rich.progress import track

from omni.answer import Answer
from omni.cues.truth import cue_truth
from omni.evidence import ClipCues, check, measured
from omni.features import ClipFeatures, FeatureCache
from omni.generate import reason_batch
from omni.grounding import grounding
from omni.loading import load
from omni.manifest import Example, read_manifest

BATCH = 40
COPIES = {"whole": lambda clip: clip, "mute": ClipFeatures.mute, "blind": ClipFeatures.blind}


def known(example: Example, clip: ClipFeatures) -> ClipCues:
    """What a synthetic actor shows, of the senses that the clip has left."""
    units = example.extra["action_units"] if "video" in clip.modalities else None
    prosody = example.extra["prosody"] if "audio" in clip.modalities else None
    return ClipCues(cue_truth(units, prosody), {})


def answered(model, processor, clips: Sequence[ClipFeatures]) -> list[Answer]:
    """Whole answers, clips with the same senses together."""
    order = sorted(range(len(clips)), key=lambda i: clips[i].modalities)
    found: dict[int, Answer] = {}
    for i in track(range(0, len(clips), BATCH), "answers"):
        rows = order[i : i + BATCH]
        found |= dict(zip(rows, reason_batch(model, processor, [clips[j] for j in rows]), strict=True))
    return [found[i] for i in range(len(clips))]


def shares(clips: Sequence[ClipFeatures], thoughts: Sequence[str], cues: Sequence[ClipCues]) -> dict:
    """The shares of `omni.grounding`, as values and counts."""
    checked = [[asdict(claim) for claim in check(t, c)] for t, c in zip(thoughts, cues, strict=True)]
    return grounding(zip([clip.modalities for clip in clips], checked, strict=True)).values()


def strangers(answers: Sequence[Answer]) -> list[str]:
    """For each answer the thought of another clip with the same answer."""
    same = defaultdict(list)
    for i, answer in enumerate(answers):
        same[answer.label].append(i)
    after = {i: group[(k + 1) % len(group)] for group in same.values() for k, i in enumerate(group)}
    return [answers[after[i]].thought for i in range(len(answers))]


def main(manifest: Path, out: Path, features: Path = Path("features"), model: str = "default", limit: int = 0) -> None:
    """Ask, check and write one JSON file."""
    net, processor = load(model)
    cache = FeatureCache(features, net, processor)
    examples = read_manifest(manifest)[: limit or None]
    rows = [(e, cache(processor.read(e.clip))) for e in track(examples, "encoding")]
    both = [(e, c) for e, c in rows if c.modalities == ("video", "audio")]
    result: dict = {"manifest": manifest.name, "model": model, "clips": len(rows)}
    for name, copy in COPIES.items():
        chosen = rows if name == "whole" else both
        clips = [copy(clip) for _, clip in chosen]
        answers = answered(net, processor, clips)
        thoughts = [answer.thought for answer in answers]
        cues = [measured(clip) for clip in clips]
        facts = [known(e, clip) for (e, _), clip in zip(chosen, clips, strict=True)]
        result[name] = {"measured": shares(clips, thoughts, cues), "known": shares(clips, thoughts, facts)}
        if name == "whole":
            other = strangers(answers)
            result["another clip's reasons"] = {
                "measured": shares(clips, other, cues),
                "known": shares(clips, other, facts),
            }
        result[name]["examples"] = [a.to_dict() for a in answers[:5]]
        out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    typer.run(main)
