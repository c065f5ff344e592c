"""The released layout: a tiny checkpoint with the reference's own numbers, read and run as it is.

`tests/assets/humanomni-tiny` was made with the public reference; its README says how and to what tolerance.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import train_grpo
import train_sft
from benchmarks.released_layout import write_released
from omni.clip import Clip, read_clip
from omni.emotions import label_space
from omni.errors import ModelError
from omni.features import encode_clip
from omni.generate import reason, reason_batch
from omni.import_weights import assemble, import_weights
from omni.loading import load
from omni.manifest import Example, write_manifest
from omni.released import LAYOUTS
from omni.rollout import Sampling, roll_out

TINY = Path(__file__).parent / "assets" / "humanomni-tiny"
FOLDERS = {"vision": TINY / "siglip", "audio": TINY / "whisper", "bert": TINY / "bert"}
FACTS = json.loads((TINY / "golden" / "golden.json").read_text())
GOLD = load_file(TINY / "golden" / "golden.safetensors")
CASES = ("video_audio", "video_only", "audio_only", "text_only", "batch2", "train_ragged")
FEATURES, LOGITS = 2e-4, 1e-3  # absolute, float32
OTHER = {
    "text": {
        "vocab_size": 259, "hidden_size": 48, "intermediate_size": 72, "num_hidden_layers": 3, "num_attention_heads": 6,
        "num_key_value_heads": 3, "rope_theta": 1e4, "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
    },
    "vision": {
        "hidden_size": 64, "intermediate_size": 40, "num_hidden_layers": 4, "num_attention_heads": 1, "image_size": 48,
        "patch_size": 8,
    },
    "audio": {
        "d_model": 64, "encoder_layers": 1, "encoder_attention_heads": 1, "encoder_ffn_dim": 24, "num_mel_bins": 80,
        "max_source_positions": 100,
    },
    "bert": {
        "vocab_size": 100, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 32,
        "max_position_embeddings": 256,
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=["upstream", "checkpoint"])
def released(request):
    """The model with its towers from their folders or from the checkpoint, its processor, and which of the two."""
    model, processor, _ = assemble(TINY / "checkpoint", towers=request.param, dtype=torch.float32, **FOLDERS)
    return model.eval(), processor, request.param


@pytest.fixture(scope="module")
def upstream():
    model, processor, _ = assemble(TINY / "checkpoint", towers="upstream", dtype=torch.float32, **FOLDERS)
    return model.eval(), processor


def expanded(config, ids):
    """The reference's placeholders as ours: one a soft token."""
    sizes = {-201: (config.video_token_id, 32), -202: (config.audio_token_id, 50)}
    rows = [[t for i in row for t in ([sizes[i][0]] * sizes[i][1] if i in sizes else [i])] for row in ids.tolist()]
    length = max(map(len, rows))
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    return torch.tensor([row + [0] * (length - len(row)) for row in rows]), mask


def inputs_of(config, case: str) -> dict:
    facts = FACTS["cases"][case]
    ids, mask = expanded(config, GOLD[f"{case}.in.input_ids"])
    seen = int(config.video_token_id in ids)
    out = {
        "input_ids": ids,
        "attention_mask": mask,
        "instruction_ids": GOLD[f"{case}.in.router_input_ids"],
        "instruction_mask": GOLD[f"{case}.in.router_attention_mask"],
    }
    if seen:
        out["pixel_values_videos"] = GOLD["in.frames"][facts["clips"]]
    if config.audio_token_id in ids:
        out["input_features"] = GOLD["in.mel"][facts["clips"]]
    return out


def near(ours, gold, tolerance: float) -> None:
    torch.testing.assert_close(ours, gold, atol=tolerance, rtol=0)


@torch.no_grad()
def test_the_towers_and_branches_give_the_references_features(upstream):
    model, _ = upstream
    fusion, backbone, case = model.model.fusion, model.model, "video_audio"
    streams = backbone.encode(pixel_values_videos=GOLD["in.frames"][:1], input_features=GOLD["in.mel"][:1])
    seen = streams.features["video"].unflatten(1, (8, 16))[0]
    near(seen, GOLD[f"{case}.out.vision_features"], FEATURES)
    grid = streams.features["video"].unflatten(1, (-1, 4, 4))
    near(fusion.video(grid), GOLD[f"{case}.out.proj_branch0_video"], FEATURES)
    near(fusion.body(grid), GOLD[f"{case}.out.proj_branch1_body"], FEATURES)
    ids, mask = GOLD[f"{case}.in.router_input_ids"], GOLD[f"{case}.in.router_attention_mask"]
    fused = fusion(streams.features, streams.times, type("I", (), {"ids": ids, "mask": mask}))
    near(fused.gates, GOLD[f"{case}.out.router_probs"], FEATURES)
    near(fused.parts["video"], GOLD[f"{case}.out.video_tokens"], FEATURES)
    near(fused.parts["audio"], GOLD[f"{case}.out.audio_tokens"], FEATURES)


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_logits_and_spliced_embeddings_are_the_references(upstream, case):
    model, _ = upstream
    inputs, spliced = inputs_of(model.config, case), {}
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: spliced.update(x=kwargs["inputs_embeds"]), with_kwargs=True
    )
    logits = model(**inputs).logits
    hook.remove()
    mask = GOLD.get(f"{case}.out.attention_mask", inputs["attention_mask"]).bool() & inputs["attention_mask"].bool()
    near(spliced["x"][mask], GOLD[f"{case}.out.inputs_embeds"][mask], FEATURES)
    near(logits[mask], GOLD[f"{case}.out.logits"][mask], LOGITS)


@torch.no_grad()
@pytest.mark.parametrize("case", [c for c in CASES if f"{c}.out.greedy_ids" in GOLD])
def test_greedy_words_are_the_references_by_generate_and_by_our_decoder(upstream, case):
    model, _ = upstream
    inputs, gold = inputs_of(model.config, case), GOLD[f"{case}.out.greedy_ids"][0].tolist()
    written = model.generate(**inputs, max_new_tokens=16, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert written.tolist() == gold
    ours = roll_out(model, inputs, [0], Sampling(16, (model.generation_config.eos_token_id,), temperature=0))
    assert ours == [gold]


@torch.no_grad()
def test_towers_of_the_checkpoint_give_their_own_numbers(released):
    model, _, towers = released
    case = "video_audio" if towers == "upstream" else "video_audio__towers_from_checkpoint"
    inputs = inputs_of(model.config, case)
    written = model.generate(**inputs, max_new_tokens=16, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert written.tolist() == GOLD[f"{case}.out.greedy_ids"][0].tolist()


def test_frames_pixels_and_sound_are_prepared_as_the_reference_does(upstream):
    _, processor = upstream
    clip = processor.read(TINY / "clip.mp4")
    assert np.abs(clip.frames.astype(int) - GOLD["pre.frames_rgb_u8"].numpy()).mean() < 1.5  # decoders differ a little
    frames = GOLD["pre.frames_rgb_u8"].numpy()
    near(processor.pixels(frames), GOLD["pre.pixels_squeeze"], 1e-6)
    padded = replace_fit(processor, "pad")
    near(padded.pixels(frames), GOLD["pre.pixels_pad"], 1e-6)
    near(processor.mel(GOLD["pre.waveform_16k"].numpy())[None], GOLD["pre.mel_tiny"], 1e-4)


def replace_fit(processor, fit: str):
    """The same processor with another way to make frames square."""
    import copy

    changed = copy.copy(processor)
    changed.fit = fit
    return changed


def prepared() -> Clip:
    """The fixture's clip as the reference decoded it."""
    return Clip(
        frames=GOLD["pre.frames_rgb_u8"].numpy(),
        times=np.linspace(0.2, 2.8, 8),
        wave=GOLD["pre.waveform_16k"].numpy(),
        duration=3.0,
        sha256="f" * 64,
    )


@torch.no_grad()
def test_a_clip_and_a_question_become_the_references_prompt_and_words(upstream):
    model, processor = upstream
    question = FACTS["cases"]["file_end_to_end"]["router_text"][0]
    inputs = processor.ask([prepared()], [question])
    ids, _ = expanded(model.config, GOLD["file_end_to_end.in.input_ids"])
    assert inputs["input_ids"].tolist() == ids.tolist()
    assert inputs["instruction_ids"].tolist() == GOLD["file_end_to_end.in.router_input_ids"].tolist()
    near(model(**inputs).logits, GOLD["file_end_to_end.out.logits"], LOGITS)
    assert processor.prompt(None, label_space("dfew7")) == question


def test_sound_beyond_the_window_is_cut_and_said_to_be(upstream):
    whole = prepared()
    long = replace(whole, wave=np.tile(whole.wave, 2), sha256="4" * 64)
    assert "sound_cut" in encode_clip(*upstream, long).warnings
    assert "sound_cut" not in encode_clip(*upstream, replace(whole, wave=whole.wave[:16_000])).warnings


def test_layouts_differ_as_their_stages_did(upstream):
    _, processor = upstream
    import copy

    clip, texts = prepared(), {}
    for layout in LAYOUTS:
        changed = copy.copy(processor)
        changed.layout = layout
        texts[layout] = (
            changed.written(clip).replace(processor.video_placeholder, "").replace(processor.audio_placeholder, "")
        )
    both = "<vi_start><vi_end>\n<au_start><au_end>\n"
    assert texts == {
        "inference": both,
        "cold_start": both + "\n\n",
        "rl": "<|vision_start|><|video_pad|><|vision_end|>" + both,
    }


def test_users_cannot_write_placeholders_or_markers_of_turns(upstream):
    model, processor = upstream
    nasty = f"<video> <audio> {processor.video_placeholder} <|im_end|> {processor.clip_token}"
    ids = processor.ask([prepared()], [nasty])["input_ids"][0].tolist()
    plain = processor.ask([prepared()], ["Why?"])["input_ids"][0].tolist()
    for token in (model.config.video_token_id, model.config.audio_token_id, processor.tokenizer.eos_token_id):
        assert ids.count(token) == plain.count(token)


@torch.no_grad()
def test_clips_of_any_senses_and_lengths_give_in_a_batch_what_they_give_alone(upstream):
    whole = prepared()
    still = replace(whole, frames=whole.frames[:1], times=whole.times[:1], wave=None, sha256="1" * 64)
    mute = replace(whole, wave=None, sha256="2" * 64)
    blind = replace(whole, frames=None, times=np.zeros(0), sha256="3" * 64, wave=whole.wave[:9000])
    clips = [whole, still, mute, blind]
    together = reason_batch(*upstream, clips, max_new_tokens=6)
    for clip, answer in zip(clips, together, strict=True):
        alone = reason(*upstream, clip, max_new_tokens=6)
        assert (alone.text, alone.modalities) == (answer.text, answer.modalities)
        assert max(abs(alone.labels[k] - p) for k, p in answer.labels.items()) < 1e-3
    encoded = [encode_clip(*upstream, clip) for clip in clips]
    assert [a.text for a in reason_batch(*upstream, encoded, max_new_tokens=6)] == [a.text for a in together]


@torch.no_grad()
def test_an_imported_folder_is_the_released_one(tmp_path, upstream):
    model, _ = upstream
    report = import_weights(TINY / "checkpoint", tmp_path / "ours", towers="upstream", **FOLDERS)
    assert report.parts["vision_tower"][0] == str(TINY / "siglip")
    assert report.parts["language_model"][0] == str(TINY / "checkpoint")
    again, processor = load(tmp_path / "ours", dtype="float32")
    case = "video_audio"
    near(again(**inputs_of(again.config, case)).logits, GOLD[f"{case}.out.logits"], LOGITS)
    question = FACTS["cases"]["file_end_to_end"]["router_text"][0]
    inputs = processor.ask([prepared()], [question])
    near(again(**inputs).logits, model(**inputs).logits, 1e-5)
    with pytest.raises(ModelError, match="not empty"):
        import_weights(TINY / "checkpoint", tmp_path / "ours", **FOLDERS)


@torch.no_grad()
@pytest.mark.parametrize("select", [-2, -1])
def test_other_sizes_load_straight_from_the_released_folder_and_after_import(tmp_path, select):
    write_released(tmp_path / "released", OTHER, select)
    straight, processor = load(tmp_path / "released", dtype="float32")
    assert straight.config.vision_config.num_hidden_layers == 5 + select
    clip = prepared()
    inputs = processor.ask([clip], ["why?"])
    ids = inputs["input_ids"][0].tolist()
    assert ids.count(straight.config.video_token_id) == 8 * 3 * 3  # 6 patches on a side
    assert ids.count(straight.config.audio_token_id) == 33
    import_weights(tmp_path / "released", tmp_path / "ours")
    imported, other = load(tmp_path / "ours", dtype="float32")
    near(imported(**other.ask([clip], ["why?"])).logits, straight(**inputs).logits, 1e-5)


def test_what_cannot_be_imported_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(ModelError, match="holds no"):
        assemble(tmp_path)
    with pytest.raises(ModelError, match="--vision DIR"):
        assemble(TINY / "checkpoint", towers="upstream", vision=tmp_path)
    with pytest.raises(ModelError, match="--bert"):
        assemble(TINY / "checkpoint", bert=tmp_path)
    write_released(tmp_path / "released", OTHER)
    for how, advice in ({"layout": "zz"}, "inference, cold_start, rl"), ({"fit": "zz"}, "squeeze, pad"):
        with pytest.raises(ModelError, match=f"'zz'. Choose one of: {advice}"):
            import_weights(tmp_path / "released", tmp_path / "ours", **how)
    import_weights(tmp_path / "released", tmp_path / "ours")
    settings = tmp_path / "ours" / "processor_config.json"  # as imported by an older version
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"instruction": None}))
    with pytest.raises(ModelError, match="--bert FOLDER"):
        load(tmp_path / "ours")
    (tmp_path / "bert" / "vocab.txt").unlink()
    for refused in (load, lambda folder: import_weights(folder, tmp_path / "new")):
        with pytest.raises(ModelError, match=r"bert-base-uncased \(config.json, vocab.txt\) beside it.*--bert FOLDER"):
            refused(tmp_path / "released")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer_config.json"])
def test_a_damaged_file_of_a_released_folder_is_named(tmp_path, name):
    write_released(tmp_path / "released", OTHER)
    damaged = tmp_path / "released" / name
    damaged.write_bytes(damaged.read_bytes()[:9])
    with pytest.raises(ModelError, match=rf"{name} is damaged.* Copy it again"):
        import_weights(tmp_path / "released", tmp_path / "ours")


@torch.no_grad()
@pytest.mark.parametrize("how", [{"dtype": "bfloat16"}, {"four_bit": True}])
def test_half_precision_and_four_bits_load_and_answer(tmp_path, how):
    sizes = OTHER | {
        "text": OTHER["text"]
        | {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    }
    write_released(tmp_path / "released", sizes)
    model, processor = load(tmp_path / "released", **how)
    answer = reason(model, processor, prepared(), max_new_tokens=3)
    assert abs(sum(answer.labels.values()) - 1) < 1e-4


@pytest.mark.parametrize(
    ("script", "options"),
    [
        (train_sft, ["--config", "configs/sft_default.yaml", "--align_epochs", "0", "--warmup_steps", "0"]),
        (train_grpo, ["--config", "configs/r1_omni.yaml", "--max_completion_length", "6", "--rewards", "length"]),
    ],
)
def test_both_training_scripts_take_an_imported_model(tmp_path, monkeypatch, script, options):
    write_released(tmp_path / "released", OTHER)
    import_weights(tmp_path / "released", tmp_path / "ours")
    example = Example(TINY / "clip.mp4", "fear", "The brows are raised.")
    write_manifest(tmp_path / "train.jsonl", [example] * 2)
    command = [
        script.__name__, *options, "--train", str(tmp_path / "train.jsonl"), "--model", str(tmp_path / "ours"),
        "--features", str(tmp_path / "features"), "--output_dir", str(tmp_path / "out"), "--max_steps", "1",
        "--full", "true", "--bf16", "false", "--save_strategy", "no", "--learning_rate", "1e-2", "--report_to", "none",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", command)
    script.main()
    before, after = (load(tmp_path / name, dtype="float32")[0].state_dict() for name in ("ours", "out"))
    moved = {name.split(".")[1] for name, x in after.items() if not torch.equal(x, before[name])}
    assert {"fusion", "language_model"} <= moved and not moved & {"vision_tower", "audio_tower"}


def test_a_model_that_puts_out_nan_says_which_precision_to_use(upstream):
    model, processor = upstream
    norm = model.model.language_model.norm.weight
    kept = norm.detach().clone()
    with torch.no_grad():
        norm.fill_(torch.nan)
    try:
        with pytest.raises(ModelError, match="bfloat16"):
            reason(model, processor, read_clip(TINY / "clip.mp4"), max_new_tokens=2)
    finally:
        with torch.no_grad():
            norm.copy_(kept)
