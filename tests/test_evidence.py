"""Evidence: the claims of a rationale against the cues of its clip."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from omni.cues.reader import reader
from omni.cues.voice import FEATURES
from omni.evidence import ClipCues, check, evidence_of, measured, told
from omni.features import ClipFeatures
from omni.generate import reason
from omni.grounding import grounding, measure_reasons, reasons_told
from omni.tiny import tiny

FACE = ClipCues({"brow_down": True, "smile": False, "eye_wide": None}, {"brow_down": (0.4, 1.2), "face": (0.1, 2.0)})


def features(units: dict[str, float] | None, voiced: float | None = None, seconds: float = 2.0) -> ClipFeatures:
    """A clip whose face shows units from its middle on, by turning the reader around; and a voice, if any."""
    found, times, senses = {}, {}, []
    if units is not None:
        at = torch.arange(8) * seconds / 8
        weight, bias = reader().face.weight, reader().face.bias
        wanted = np.tile(np.zeros(len(reader().units)), (8, 1))
        for name, value in units.items():
            wanted[4:, reader().units.index(name)] = value
        z = (wanted - bias) @ np.linalg.pinv(weight)
        found["video"] = torch.from_numpy(z * reader().face.scale + reader().face.mean)
        found["expression"] = torch.zeros(8, 7)
        times |= {"video": at, "expression": at}
        senses.append("video")
    if voiced is not None:
        track = torch.zeros(8, len(FEATURES))
        track[2:6, list(FEATURES).index("voiced")] = voiced
        track[:, list(FEATURES).index("clip_voiced")] = voiced
        found["prosody"], times["prosody"] = track, 0.125 + torch.arange(8) / 4
        senses.append("audio")
    return ClipFeatures(found, times, tuple(senses), seconds, "0")


def of(thought: str, cues: ClipCues) -> list[tuple[str, int, str]]:
    return [(e.cue, e.polarity, e.verdict) for e in check(thought, cues)]


def test_each_claim_gets_the_verdict_of_the_clip_and_the_time_of_its_cue() -> None:
    found = check("The brows are lowered, but he smiles. The eyes are not widened, there is no smile.", FACE)
    assert [(e.cue, e.polarity, e.verdict, e.t0, e.t1) for e in found] == [
        ("brow_down", 1, "supported", 0.4, 1.2),
        ("smile", 1, "contradicted", None, None),
        ("eye_wide", -1, "uncheckable", None, None),
        ("smile", -1, "supported", 0.1, 2.0),
    ]
    assert found[0].sentence == "The brows are lowered, but he smiles."


def test_what_is_said_of_a_sense_that_the_clip_lacks_is_contradicted_even_if_nobody_could_check_it() -> None:
    text = "The voice is loud. The pitch is not high."
    assert of(text, FACE) == [("loud", 1, "contradicted"), ("pitch_high", -1, "contradicted")]
    assert of(text, ClipCues({"loud": None, "pitch_high": None}, {})) == [
        ("loud", 1, "uncheckable"),
        ("pitch_high", -1, "uncheckable"),
    ]


def test_what_is_measured_of_a_clip_has_its_time() -> None:
    cues = measured(features({"AU4": 1.0, "AU12": -0.2}))
    assert (cues.there["brow_down"], cues.there["smile"]) == (True, False)
    assert cues.spans["face"] == (0.0, 1.75) and 0.7 < cues.spans["brow_down"][0] <= 1.0
    assert cues.spans["brow_down"][1] == 1.75 and "smile" not in cues.spans
    assert not {"pitch_high", "loud"} & cues.there.keys()


@pytest.mark.parametrize("taken", ["mute", "blind"])
def test_a_sense_that_is_taken_away_turns_its_claims_false(taken: str) -> None:
    clip = features({"AU4": 1.0}, voiced=0.5)
    gone, left = ("voice", "face") if taken == "mute" else ("face", "voice")
    text = "The brows are lowered. The voice is breathy."
    whole = {e.modality: e.verdict for e in evidence_of(text, clip)}
    assert whole == {"face": "supported", "voice": "uncheckable"}
    cut = {e.modality: e.verdict for e in evidence_of(text, getattr(clip, taken)())}
    assert cut == {gone: "contradicted", left: whole[left]}


def test_a_sound_without_a_voice_and_another_vision_tower_leave_their_claims_open() -> None:
    assert set(measured(features(None, voiced=0.01)).there.values()) == {None}
    foreign = features({"AU4": 1.0}).without("expression")
    assert {e.verdict for e in evidence_of("The brows are lowered. He smiles.", foreign)} == {"uncheckable"}


def test_a_model_s_own_thought_comes_with_its_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    from omni import generate
    from omni.looks import Looks

    text = "<think>The brows are lowered and the pitch is high.</think><answer>angry</answer>"
    monkeypatch.setattr(generate, "_write", lambda *_: ([text], None))
    clip = features({"AU4": 1.0})
    model, processor = tiny("face")
    monkeypatch.setattr(generate, "build_inputs", lambda *_: {})
    monkeypatch.setattr(generate, "warned", lambda _, clips, __: clips)
    monkeypatch.setattr(generate, "looks_of", lambda *_: [Looks()])
    monkeypatch.setattr(generate, "prefill", lambda *_: None)
    monkeypatch.setattr(generate, "score_labels", lambda *_: [{"angry": 0.9, "sad": 0.1}])
    answer = reason(model, processor, clip, labels=["angry", "sad"])
    assert [(e.cue, e.verdict) for e in answer.evidence] == [("brow_down", "supported"), ("pitch_high", "contradicted")]
    assert answer.to_dict()["evidence"][0]["verdict"] == "supported"


def test_sentences_without_a_claim_are_shown_too() -> None:
    thought = "The brows are lowered. Thus he is angry."
    assert told(thought, check(thought, FACE)) == ("The brows are lowered.\n  ✓ brow down 0.4–1.2 s\nThus he is angry.")
    assert told("", ()) == ""


def test_shares_of_nothing_are_none_and_claims_of_a_missing_sense_are_counted_by_clip() -> None:
    assert grounding([]).values()["groundedness"] is None
    lie = {"modality": "voice", "verdict": "contradicted"}
    found = grounding([(["video"], [lie, lie]), (["video"], []), (["video", "audio"], [lie])])
    assert found.hallucinated_sense == (1, 2) and found.coverage == (1, 4)


def test_known_cues_judge_beside_measured_ones_where_the_manifest_has_them() -> None:
    thought = "The brows are lowered and he smiles."
    row = {"thought": thought, "modalities": ["video"], "evidence": [{"modality": "face", "verdict": "supported"}]}
    known = {"action_units": {"AU4": {"intensity": 0.9}}, "prosody": None}
    found = measure_reasons([(row, known), ({"thought": ""}, {})])
    assert found is not None
    assert [found[way]["groundedness"]["value"] for way in ("measured", "known")] == [1.0, 0.5]
    assert reasons_told(found)[1].startswith("reasons, known cues: groundedness 0.500, contradicted 0.500")
    as_text = measure_reasons([(row, {"action_units": '{"AU4": 0.9}', "prosody": ""})])
    assert as_text is not None and as_text["known"]["groundedness"]["value"] == 0.5  # from a CSV
    heard = (row | {"modalities": ["audio"]}, {"prosody": '{"pitch_st": 9.0}'})  # a .csv leaves out what is null
    both = measure_reasons([(row, {"action_units": '{"AU4": 0.9}'}), heard, (row, {"action_units": "null"})])
    assert both is not None and both["known"]["answers"] == 3
    assert measure_reasons([(row, {})])["known"] is None and measure_reasons([({"thought": ""}, {})]) is None
