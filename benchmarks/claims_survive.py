"""Which claims survive a neutral face or voice in the place of the clip's own: what that part of a receipt tells.

    python benchmarks/claims_survive.py MANIFEST OUT.json [--features DIR] [--model default] [--limit 100]

The manifest is one of `python -m data actors`; its clips with both senses are asked, thinking. Claims are told apart by
what is known of the clip: true, false, or neither. Beside the reasons of the model stand those that it gave of another
clip with the same answer: a text that was never about this clip.
"""

import json
from collections import defaultdict
from dataclasses import replace
from itertools import islice
from pathlib import Path

import typer
from groundedness import answered, known, strangers
from rich.progress import track

from omni.evidence import check
from omni.faithfulness import receipt_of
from omni.features import FeatureCache
from omni.grounding import Portion
from omni.loading import load
from omni.manifest import read_manifest

SAID = {"supported": "true", "contradicted": "false", "uncheckable": "neither"}


def main(
    manifest: Path, out: Path, features: Path = Path("features"), model: str = "default", limit: int = 100
) -> None:
    """Ask, try every claim, and write one JSON file."""
    net, processor = load(model)
    cache = FeatureCache(features, net, processor)
    encoded = ((e, cache(processor.read(e.clip))) for e in read_manifest(manifest))
    rows = list(islice(((e, clip) for e, clip in encoded if clip.modalities == ("video", "audio")), limit))
    clips = [clip for _, clip in rows]
    answers = answered(net, processor, clips)
    tried: dict[str, dict[str, list[bool]]] = {}
    for name, thoughts in {"own": [a.thought for a in answers], "another clip's": strangers(answers)}.items():
        found = defaultdict(list)
        for (example, clip), answer, thought in track(
            list(zip(rows, answers, thoughts, strict=True)), f"{name} reasons"
        ):
            said = replace(answer, thought=thought, evidence=check(thought, known(example, clip)))
            for claim in receipt_of(net, processor, clip, said).claims:
                found[f"{claim.modality}, {SAID[claim.verdict]}"].append(claim.survives)
        tried[name] = dict(sorted(found.items()))
    result = {
        name: {
            kind: {"claims": len(all_of), "survive": Portion(sum(all_of), len(all_of)).estimate()}
            for kind, all_of in kinds.items()
        }
        for name, kinds in tried.items()
    }
    out.write_text(json.dumps({"model": model, "clips": len(clips)} | result, indent=1))
    for name, kinds in result.items():
        for kind, one in kinds.items():
            typer.echo(f"{name} reasons, {kind}: {one['survive']['value']:.2f} of {one['claims']} survive")


if __name__ == "__main__":
    typer.run(main)
