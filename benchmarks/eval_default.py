"""The default model on held-out clips: every number of `docs/results.md` about it comes from here.

    python benchmarks/eval_default.py TEST.jsonl OUT.json [--emodb MANIFEST] [--grid DIR] [--clip FILE=LABEL]

Held-out synthetic actors (no actor, voice or sentence of them was trained on): accuracy with both senses, without
sound, without picture, with another clip's sound, without the face's detail, without the expression net; cue claims of
the rationales against the truth of the clips; well-formed answers. Real clips: EmoDB's two speakers left out of
training (sound only), GRID (neutral speakers), single clips. Everything is encoded once and cached.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.progress import track

from omni.cues.lexicon import CUES
from omni.cues.lexicon import claims as cue_claims
from omni.cues.truth import claim_precision, cue_truth
from omni.emotions import EKMAN7, label_space
from omni.features import ClipFeatures, FeatureCache
from omni.generate import LABEL_AT, ask_text, build_inputs, reason_batch, score_labels, temperature_of
from omni.loading import load
from omni.manifest import Example, read_manifest
from omni.metrics import ece, uar, war

BATCH = 40
MODES = ("think", "no-think")


def predict_fast(model, processor, clips: Sequence[ClipFeatures]) -> list[dict[str, float]]:
    """Label probabilities without thinking: one prefill a clip."""
    space, out = label_space(EKMAN7), []
    for i in track(range(0, len(clips), BATCH), "labels"):
        batch = clips[i : i + BATCH]
        texts = [ask_text(processor, c, None, space, think=False) for c in batch]
        out += score_labels(
            model,
            processor,
            build_inputs(model, processor, batch, texts),
            [LABEL_AT] * len(batch),
            space,
            temperature_of(model, False),
        )
    return out


def predict_reasoned(model, processor, clips: Sequence[ClipFeatures]) -> list:
    """Whole answers, thinking first."""
    order = sorted(range(len(clips)), key=lambda i: len(clips[i].modalities))
    answers: dict[int, object] = {}
    for i in track(range(0, len(clips), BATCH), "answers"):
        rows = order[i : i + BATCH]
        answers |= dict(zip(rows, reason_batch(model, processor, [clips[j] for j in rows]), strict=True))
    return [answers[i] for i in range(len(clips))]


def top(probabilities: Sequence[dict[str, float]]) -> list[str]:
    """Most probable label of each."""
    return [max(p, key=p.__getitem__) for p in probabilities]


def accuracy(truth: Sequence[str], predicted: Sequence[str]) -> dict:
    """UAR, WAR and how many."""
    return {
        "uar": round(uar(truth, predicted, EKMAN7), 4),
        "war": round(war(truth, predicted, EKMAN7), 4),
        "clips": len(truth),
    }


def shuffled_sound(clips: Sequence[ClipFeatures], seed: int = 0) -> list[ClipFeatures]:
    """Every clip with the sound of another one."""
    donors = [c for c in clips if "audio" in c.modalities]
    ring = np.random.default_rng(seed).permutation(len(donors))
    order = np.empty_like(ring)
    order[ring] = np.roll(ring, 1)  # one cycle through all, so that no clip keeps its own
    swapped, sound = [], iter(order)
    for clip in clips:
        if "audio" not in clip.modalities:
            swapped.append(clip)
            continue
        swapped.append(clip.with_sound_of(donors[next(sound)]))
    return swapped


CONDITIONS: dict[str, Callable[[Sequence[ClipFeatures]], Sequence[ClipFeatures]]] = {
    "full": lambda clips: clips,
    "without sound": lambda clips: [c.mute() for c in clips],
    "without picture": lambda clips: [c.blind() for c in clips],
    "another clip's sound": shuffled_sound,
    "without face detail": lambda clips: [c.without("video") for c in clips],
    "without expression net": lambda clips: [c.without("expression") for c in clips],
}


def held_out(
    model,
    processor,
    rows: Sequence[tuple[Example, ClipFeatures]],
    modes: Sequence[str],
    conditions: Sequence[str],
    save: Callable[[dict], None],
) -> dict:
    """Measurements on synthetic clips with known truth; `save` gets what is known after each of them."""
    truth, clips = [e.label for e, _ in rows], [c for _, c in rows]
    both = [i for i, (_, c) in enumerate(rows) if c.modalities == ("video", "audio")]
    kinds = {
        "agree": [i for i in both if not rows[i][0].extra["conflict"]],
        "conflict": [i for i in both if rows[i][0].extra["conflict"]],
        "all": list(range(len(rows))),
    }
    groups = {name: keep for name, keep in kinds.items() if keep}

    def by_group(labels: Sequence[str]) -> dict:
        return {name: accuracy([truth[i] for i in keep], [labels[i] for i in keep]) for name, keep in groups.items()}

    def calibration(labels: Sequence[str], probabilities: Sequence[dict[str, float]]) -> float:
        right = [t == label for t, label in zip(truth, labels, strict=True)]
        return round(ece(right, [p[label] for label, p in zip(labels, probabilities, strict=True)]), 4)

    result: dict = {"ece": {}, "truth": truth, "sha256": [c.sha256 for c in clips]}
    if "think" in modes:
        answers = predict_reasoned(model, processor, clips)
        result["think"] = {"full": by_group([a.label for a in answers])}
        result["think labels"] = [a.label for a in answers]
        result["well formed"] = round(float(np.mean([a.well_formed for a in answers])), 4)
        result["claims"] = claims(rows, answers)
        result["ece"]["think"] = calibration([a.label for a in answers], [a.labels for a in answers])
        shown = list(zip(rows, answers, strict=True))[:12]
        result["examples"] = [
            {"clip": e.clip.name, "truth": e.label, "label": a.label, "thought": a.thought} for (e, _), a in shown
        ]
        save(result)
    if "no-think" in modes:
        labels: dict[str, list[str]] = {}
        result["no-think"] = {}
        for name in conditions:
            probabilities = predict_fast(model, processor, CONDITIONS[name](clips))
            labels[name] = top(probabilities)
            result["no-think"][name] = by_group(labels[name])
            if name == "full":
                result["no-think labels"] = labels[name]
                result["ece"]["no-think"] = calibration(labels[name], probabilities)
            save(result)
        if {"full", "another clip's sound"} <= labels.keys() and "conflict" in groups:
            changed = [labels["full"][i] != labels["another clip's sound"][i] for i in groups["conflict"]]
            result["answers changed by another clip's sound, conflict clips"] = round(float(np.mean(changed)), 4)
            save(result)
    return result


def claims(rows, answers) -> dict:
    """Cue claims of the rationales against the clips' truth."""
    scores = [
        claim_precision(a.thought, cue_truth(e.extra.get("action_units"), e.extra.get("prosody")))
        for (e, _), a in zip(rows, answers, strict=True)
    ]
    supported, contradicted = sum(s.supported for s in scores), sum(s.contradicted for s in scores)
    return {
        "per rationale": round(float(np.mean([s.total for s in scores])), 3),
        "precision": round(supported / max(1, supported + contradicted), 4),
        "supported": supported,
        "contradicted": contradicted,
        "uncheckable": sum(s.uncheckable for s in scores),
        "voice claims in mute clips": sum(
            CUES[claim.cue].modality == "voice"
            for (_, c), a in zip(rows, answers, strict=True)
            if "audio" not in c.modalities
            for claim in cue_claims(a.thought)
        ),
    }


def real(model, processor, cache: FeatureCache, examples: Sequence[Example]) -> dict:
    """Accuracy and answers on real clips."""
    clips = [cache(processor.read(e.clip)) for e in examples]
    truth = [e.label for e in examples]
    fast = top(predict_fast(model, processor, clips))
    answers = predict_reasoned(model, processor, clips)
    labels = [a.label for a in answers]
    return {
        "no-think": accuracy(truth, fast),
        "think": accuracy(truth, labels),
        "answers": dict(Counter(labels)),
        "no-think answers": dict(Counter(fast)),
        "examples": [
            {
                "clip": e.clip.name,
                "truth": e.label,
                "label": a.label,
                "fast": f,
                "thought": a.thought,
                "modalities": a.modalities,
                "warnings": a.warnings,
            }
            for e, a, f in list(zip(examples, answers, fast, strict=True))[:12]
        ],
    }


def markdown(result: dict) -> str:
    """The measurements as the tables of `docs/results.md`."""
    lines = ["| answers | clip | UAR, face and voice agree | UAR, they conflict | UAR, all |", "|---|---|---|---|---|"]
    ours = result["held-out actors"]
    for mode in ("think", "no-think"):
        for name, groups in ours[mode].items():
            columns = [groups.get(g) for g in ("agree", "conflict", "all")]
            cells = (f"{group['uar']:.3f} ({group['clips']})" if group else "–" for group in columns)
            lines.append(f"| {mode} | {name} | {' | '.join(cells)} |")
    found = ours["claims"]
    changed = ours.get("answers changed by another clip's sound, conflict clips")
    swapped = (
        "" if changed is None else f" Another clip's sound changes {changed:.0%} of the answers to conflict clips."
    )
    lines += [
        "",
        f"Well formed: {ours['well formed']:.3f}. Cue claims: {found['per rationale']:.2f} a rationale, precision "
        f"{found['precision']:.3f} ({found['supported']} supported, {found['contradicted']} contradicted, "
        f"{found['uncheckable']} not checkable); in clips without sound {found['voice claims in mute clips']} about a "
        f"voice. Expected calibration error: {ours['ece']['think']:.3f} with thinking, {ours['ece']['no-think']:.3f} "
        f"without.{swapped}",
        "",
        "| real clips | number | accuracy, think | accuracy, no-think | answers, think |",
        "|---|---|---|---|---|",
    ]
    for name in ("emodb 15, 16", "grid", "clips"):
        if name in result:
            real_set = result[name]
            told = ", ".join(f"{label} {count}" for label, count in sorted(real_set["answers"].items()))
            think, fast = real_set["think"], real_set["no-think"]
            lines.append(f"| {name} | {think['clips']} | {think['war']:.2f} | {fast['war']:.2f} | {told} |")
    return "\n".join(lines)


def main(
    test: Path,
    out: Path,
    model: str = "default",
    features: Path = Path("features"),
    limit: int = 0,
    mode: Annotated[list[str] | None, typer.Option(help="think, no-think; default: both")] = None,
    condition: Annotated[
        list[str] | None, typer.Option(help=f"of: {', '.join(CONDITIONS)}; default: all, without thinking")
    ] = None,
    emodb: Annotated[Path | None, typer.Option(help="manifest of EmoDB; speakers 15 and 16 are used")] = None,
    grid: Annotated[Path | None, typer.Option(help="folder of GRID clips, all neutral")] = None,
    clip: Annotated[list[str] | None, typer.Option(help="FILE=LABEL, a single real clip")] = None,
) -> None:
    """Measure and write one JSON file."""
    began = time.time()
    net, processor = load(model)
    cache = FeatureCache(features, net, processor)
    result: dict = {"model": model}

    def save(part: dict, name: str = "held-out actors") -> None:
        result[name] = part
        result["seconds"] = round(time.time() - began)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1))

    sets = {"clips": [Example(Path(c.rsplit("=", 1)[0]), c.rsplit("=", 1)[1]) for c in clip or []]}
    if emodb:
        sets["emodb 15, 16"] = [e for e in read_manifest(emodb) if str(e.extra["speaker"]) in ("15", "16")]
    if grid:
        sets["grid"] = [Example(p, "neutral") for p in sorted(grid.iterdir())]
    for name, chosen in sets.items():
        if chosen:
            save(real(net, processor, cache, chosen), name)
    examples = read_manifest(test)[: limit or None]
    rows = [(e, cache(processor.read(e.clip))) for e in track(examples, "encoding")]
    held_out(net, processor, rows, mode or MODES, condition or list(CONDITIONS), save)
    typer.echo(out if mode or condition else markdown(result))


if __name__ == "__main__":
    typer.run(main)
