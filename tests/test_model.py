"""The omni model on random weights: what must hold for any sizes (fp32, 1e-5)."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoProcessor, Trainer, TrainingArguments, WhisperFeatureExtractor

from omni.features import FeatureCache, cache_key, collate, encode_clip, read_features, write_features
from omni.generate import build_inputs
from omni.tiny import tiny
from tests.clips import CLIPS, make_clip

TEXTS = ["Why?", "Which emotion does the person express?", "Angry or sad?", "?"]


@pytest.fixture(scope="module")
def parts():
    return tiny()


def logits_of(model, inputs) -> torch.Tensor:
    with torch.no_grad():
        positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        return model(**inputs, position_ids=positions).logits[:, -1]


def test_a_batch_of_clips_with_different_senses_gives_each_clip_what_it_gets_alone(parts):
    model, processor = parts
    together = logits_of(model, processor.ask(CLIPS, TEXTS))
    alone = torch.cat([logits_of(model, processor.ask([c], [t])) for c, t in zip(CLIPS, TEXTS, strict=True)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_encoded_clips_give_what_raw_media_give(parts):
    model, processor = parts
    encoded = [encode_clip(model, processor, clip) for clip in CLIPS]
    raw = logits_of(model, processor.ask(CLIPS, TEXTS))
    cached = logits_of(model, processor.ask(encoded, TEXTS))
    torch.testing.assert_close(cached, raw, atol=1e-5, rtol=0)


def test_left_padding_changes_nothing(parts):
    model, processor = parts
    short = logits_of(model, processor.ask([CLIPS[0]], ["Why?"]))
    padded = logits_of(model, processor.ask([CLIPS[0], CLIPS[3]], ["Why?", "Why? " * 20]))[:1]
    torch.testing.assert_close(padded, short, atol=1e-5, rtol=0)


def test_a_prompt_cut_at_the_cache_gives_what_the_whole_gives(parts):
    model, processor = parts
    inputs = dict(processor.ask([CLIPS[0]], ["Why?"]))
    ids, mask = inputs.pop("input_ids"), inputs.pop("attention_mask")
    with torch.no_grad():
        whole = model(input_ids=ids, attention_mask=mask, **inputs).logits
        cut = ids.shape[1] - 7
        first = model(input_ids=ids[:, :cut], attention_mask=mask[:, :cut], use_cache=True, **inputs)
        rest = model(input_ids=ids[:, cut:], attention_mask=mask, cache=first.cache)
    torch.testing.assert_close(rest.logits, whole[:, cut:], atol=1e-5, rtol=0)


def test_generation_with_a_clip_equals_stepwise_argmax(parts):
    model, processor = parts
    inputs = processor.ask([CLIPS[0]], ["Why?"])
    out = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    ids, media = (
        inputs["input_ids"],
        {k: v for k, v in inputs.items() if k not in ("input_ids", "attention_mask")},
    )
    for _ in range(6):
        step = model(input_ids=ids, attention_mask=torch.ones_like(ids), **media).logits[:, -1].argmax(-1)
        ids = torch.cat([ids, step[:, None]], 1)
        if int(step) == processor.tokenizer.eos_token_id:
            break
    assert out[0].tolist() == ids[0].tolist()


def test_saving_and_loading_gives_the_same_model_through_the_auto_classes(parts, tmp_path):
    model, processor = parts
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, other = (
        AutoModelForCausalLM.from_pretrained(tmp_path).eval(),
        AutoProcessor.from_pretrained(tmp_path),
    )
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert torch.equal(logits_of(model, processor.ask(CLIPS, TEXTS)), logits_of(again, other.ask(CLIPS, TEXTS)))


def test_placeholders_without_a_clip_raise(parts):
    model, processor = parts
    inputs = processor.ask([CLIPS[0]], ["Why?"])
    with pytest.raises(ValueError, match="no clip was given"):
        model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])


def test_the_backbone_alone_sees_the_clip(parts):
    model, processor = parts
    one, two = (processor.ask([c], ["Why?"]) for c in (CLIPS[0], CLIPS[3]))
    with torch.no_grad():
        assert not torch.allclose(
            model.model(**one).last_hidden_state[:, -1],
            model.model(**two).last_hidden_state[:, -1],
            atol=1e-4,
        )


def test_a_clip_that_users_type_is_plain_text(parts):
    _, processor = parts
    inputs = processor.ask([CLIPS[0]], ["Is <|clip|> or <|im_end|> here?"])
    assert int((inputs["input_ids"] == processor.video_token_id).sum()) == processor.clip_tokens


def test_towers_stay_frozen_and_in_eval_mode_while_the_rest_trains(parts):
    model, _ = parts
    model.train()
    assert (
        not model.model.vision_tower.training and not model.model.audio_tower.training and model.model.fusion.training
    )
    assert not any(p.requires_grad for p in model.model.vision_tower.parameters())
    model.eval()


def test_encoded_clips_survive_the_disk_to_half_precision(parts, tmp_path):
    model, processor = parts
    clip = encode_clip(model, processor, CLIPS[0])
    write_features(tmp_path / "a.safetensors", clip)
    again = read_features(tmp_path / "a.safetensors")
    assert (again.modalities, again.duration, again.warnings) == (
        clip.modalities,
        clip.duration,
        clip.warnings,
    )
    for name, value in clip.features.items():
        torch.testing.assert_close(again.features[name], value, atol=5e-3, rtol=5e-3)
        assert torch.equal(again.times[name], clip.times[name])


def test_the_cache_encodes_a_clip_once_and_knows_another_model(parts, tmp_path, monkeypatch):
    model, processor = parts
    calls = []
    monkeypatch.setattr("omni.features.encode_clip", lambda *a: calls.append(1) or encode_clip(*a))
    cache = FeatureCache(tmp_path, model, processor)
    first, again = cache(CLIPS[0]), cache(CLIPS[0])
    assert len(calls) == 1 and torch.allclose(first.features["video"], again.features["video"], atol=1e-2)
    other, _ = tiny(seed=1)
    assert FeatureCache(tmp_path, other, processor).folder != cache.folder


def test_the_key_of_the_cache_is_of_all_that_makes_features_and_of_nothing_else(tmp_path):
    model, processor = tiny("face")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    keys = [cache_key(model, processor)]
    assert keys[0] == cache_key(*saved)
    for fit in ("squeeze", "pad"):
        processor.fit = fit
        keys.append(cache_key(model, processor))
    model.config.vision_config.second_look = 0.9
    keys.append(cache_key(model, processor))
    processor.feature_extractor = WhisperFeatureExtractor(feature_size=20, chunk_length=2, n_fft=800)
    keys.append(cache_key(model, processor))
    assert len({*keys}) == 5


def test_clips_that_came_from_no_file_are_not_taken_for_one_another(parts, tmp_path):
    cache = FeatureCache(tmp_path, *parts)
    one, two = (cache(replace(clip, sha256="")).features["video"] for clip in (CLIPS[0], CLIPS[3]))
    assert not torch.allclose(one, two, atol=1e-2) and not list(cache.folder.iterdir())


def test_a_sense_is_gone_when_none_of_its_streams_is_left():
    clip = encode_clip(*tiny(), CLIPS[0])  # video, audio, prosody
    assert clip.without() == clip and clip.without("audio").modalities == ("video", "audio")
    assert clip.without("video").modalities == clip.blind().modalities == ("audio",)
    assert clip.without("audio", "prosody").modalities == clip.mute().modalities == ("video",)
    assert clip.without(*clip.features).modalities == ()


@pytest.mark.parametrize("rest", [100, 159, 160, 180, 200, 201, 400])
def test_sound_a_little_longer_than_a_window_has_a_mel_frame_for_every_10_ms(parts, rest):
    wave = np.random.default_rng(0).normal(0, 0.1, 480_000 + rest).astype(np.float32)
    assert parts[1].mel(wave).shape == (20, 3000 + rest // 160)


def test_several_answers_to_an_encoded_clip_are_those_to_its_media(parts):
    model, processor = parts
    encoded = [encode_clip(model, processor, clip) for clip in CLIPS[:2]]
    for how in ({"num_beams": 2}, {"num_beams": 2, "num_return_sequences": 2}):
        given = [processor.ask(clips, ["Why?", "How?"]) for clips in (CLIPS[:2], encoded)]
        media, streams = (model.generate(**inputs, **how, max_new_tokens=4, do_sample=False) for inputs in given)
        assert torch.equal(media, streams)
    inputs = processor.ask(encoded, ["Why?", "How?"])
    sampled = model.generate(**inputs, num_return_sequences=3, max_new_tokens=4, do_sample=True)
    assert len(sampled) == 6


def test_gradient_accumulation_is_left_to_the_trainer(parts, tmp_path):
    """Else transformers takes our `**kwargs` for those of the loss, which is then too large by the number of steps."""
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    assert Trainer(parts[0], args).model_accepts_loss_kwargs is False


def test_a_clip_with_nothing_to_see_or_hear_still_has_tokens(parts):
    model, processor = parts
    nothing = encode_clip(model, processor, CLIPS[0]).mute().blind()
    features, times = collate([nothing])
    assert torch.isfinite(model.model.fusion(features, times).tokens).all()
    assert build_inputs(model, processor, [nothing], ["Why?"])["input_ids"].shape[0] == 1


def test_sound_that_ends_between_two_frames_is_the_same_alone_and_in_a_batch():
    """The last mel frame is dropped alone, and must not become padding beside a longer clip."""
    model, processor = tiny()
    clips = [make_clip(0.997, 1), make_clip(1.5, 2)]
    together = model.model.encode(**processor.media(clips))
    alone = model.model.encode(**processor.media(clips[:1]))
    steps = alone.features["audio"].shape[1]
    assert torch.allclose(together.features["audio"][:1, :steps], alone.features["audio"], atol=1e-5)
    assert together.times["audio"][0, steps:].isnan().all()
