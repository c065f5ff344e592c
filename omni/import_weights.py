"""Released R1-Omni and HumanOmni folders to ours.

    model.embed_tokens, layers, norm, lm_head            -> model.language_model, lm_head
    model.mm_projector, audio_projector, bert_*          -> model.fusion             (`fusion/released.py`)
    model.vision_tower.vision_tower, or a SigLIP folder  -> model.vision_tower
    model.audio_tower.audio_tower, or a Whisper folder   -> model.audio_tower

The layout is that of class `HumanOmniQwen2ForCausalLM` with the projector `all_in_one_small`: R1-Omni-0.5B,
HumanOmni-0.5B, EMER-SFT and MAFW-DFEW-SFT. The released loader takes the towers from folders that its source names and
ignores the copies in the checkpoint; we take the copies (`towers="checkpoint"`), or folders (`towers="upstream"`).

Every size is read from a configuration or from the shape of a weight. Two things are in neither when a tower comes
from the checkpoint: the number of attention heads, and BERT's word list. They are taken from the folder of the tower,
given or found where the checkpoint's configuration names it; heads are else those of the published towers, 64 wide.

The output of the vision tower is a hidden state before its end (`mm_vision_select_layer`), so the layers behind it are
left out, as are Whisper's classifier, SigLIP's head and BERT's pooler, which nothing reads.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import (
    AutoTokenizer,
    BertConfig,
    Qwen2Config,
    SiglipVisionConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
)

from .config import OmniConfig
from .errors import ModelError
from .model import OmniForConditionalGeneration
from .quiet import quiet
from .released import FITS, LAYOUTS, ReleasedProcessor, one_of

KIND = "HumanOmni_qwen2"  # model_type of the released configurations
PROJECTOR = "all_in_one_small"
TOWERS = ("checkpoint", "upstream")
HEAD_SIZE = 64  # of the published SigLIP-base, Whisper and BERT
PLACEHOLDERS = ("<|clip|>", "<|clip_video|>", "<|clip_audio|>")
NAMES = {  # how the parts of a checkpoint are called -> how ours are
    r"model\.(embed_tokens|layers|norm)\.": r"model.language_model.\1.",
    r"lm_head\.": "lm_head.",
    r"model\.vision_tower\.vision_tower\.(?:vision_model\.)?": "model.vision_tower.",
    r"model\.audio_tower\.audio_tower\.encoder\.": "model.audio_tower.",
    r"model\.mm_projector\.(s1|s2|sampler|readout)_(video|body)\.": r"model.fusion.\2.\1.",
    r"model\.mm_projector\.mlp_2xgelu_face\.": "model.fusion.face.",
    r"model\.audio_projector\.": "model.fusion.audio.",
    r"model\.bert_model\.": "model.fusion.bert.",
    r"model\.bert_gate\.": "model.fusion.gate.",
}
UPSTREAM = {"vision": ("vision_model.", "model.vision_tower."), "audio": ("encoder.", "model.audio_tower.")}


@dataclass(frozen=True)
class Report:
    """What came from where: {part: (folder, tensors, parameters)}, and the tensors that nothing reads."""

    parts: dict[str, tuple[str, int, int]]
    left_out: tuple[str, ...]

    def lines(self) -> list[str]:
        """One line a part, then what was left out."""
        rows = [
            f"{part:16} {count:4} tensors {size / 1e6:9.3f} M parameters   from {source}"
            for part, (source, count, size) in self.parts.items()
        ]
        return [*rows, f"left out, since nothing reads them: {len(self.left_out)} tensors"]


@dataclass(frozen=True)
class Source:
    """A folder with weights: its tensors by name, read when asked for."""

    folder: Path
    files: dict[str, Path] = field(default_factory=dict)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        with safe_open(self.files[name], "pt") as file:
            return tuple(file.get_slice(name).get_shape())

    def tensor(self, name: str) -> Tensor:
        """A tensor, mapped from its file."""
        with safe_open(self.files[name], "pt") as file:
            return file.get_tensor(name)


def import_weights(
    source: str | Path,
    out: str | Path,
    *,
    towers: str = "checkpoint",
    vision: str | Path | None = None,
    audio: str | Path | None = None,
    bert: str | Path | None = None,
    layout: str = "inference",
    fit: str = "squeeze",
) -> Report:
    """Write a released folder as a model folder of ours: configuration, safetensors, processor.

    Args:
        source: the released folder.
        out: a folder that does not exist yet, or is empty.
        towers: "checkpoint" takes SigLIP's and Whisper's encoders from the checkpoint, "upstream" from their folders.
        vision, audio: folders of the towers; None takes those that the checkpoint's configuration names, if there.
        bert: folder of BERT, for its word list and its configuration; its weights always come from the checkpoint.
            None takes one that lies in or beside the released folder.
        layout: the prompt, one of `omni.released.LAYOUTS`.
        fit: how frames become square, one of `omni.released.FITS`.

    Raises:
        ModelError: the folder is not of that layout, or something is missing; says what to do.
    """
    out = Path(out)
    if out.exists() and any(out.iterdir()):
        raise ModelError(f"{out} is not empty. Give a new folder for the imported model.", code="exists")
    with quiet():
        model, processor, report = assemble(
            source, towers=towers, vision=vision, audio=audio, bert=bert, layout=layout, fit=fit
        )
        model.save_pretrained(out)
        processor.save_pretrained(out)
    return report


def assemble(
    source: str | Path,
    *,
    towers: str = "checkpoint",
    vision: str | Path | None = None,
    audio: str | Path | None = None,
    bert: str | Path | None = None,
    layout: str = "inference",
    fit: str = "squeeze",
    dtype: torch.dtype | None = None,
    **how: Any,
) -> tuple[OmniForConditionalGeneration, ReleasedProcessor, Report]:
    """`import_weights` without writing: the model, its processor, and what came from where.

    Args:
        dtype: of all weights; None keeps that of the checkpoint.
        how: for transformers' `from_pretrained`, such as a quantisation.
    """
    for what, value, known in (("towers", towers, TOWERS), ("layout", layout, LAYOUTS), ("fit", fit, FITS)):
        one_of(what, value, known)
    main = opened(source)
    facts = released_facts(main)
    folders = {
        "vision": tower_folder(main.folder, vision, facts.get("mm_vision_tower"), towers == "upstream", "vision"),
        "audio": tower_folder(main.folder, audio, facts.get("mm_audio_tower"), towers == "upstream", "audio"),
        "bert": bert_folder(main, bert),
    }
    names = {name: renamed(name) for name in main.files}
    config = configuration(main, facts, folders, names)
    wanted = wanted_names(config)
    chosen = {new: (main, name) for name, new in names.items() if new in wanted}
    if towers == "upstream":
        for part in ("vision", "audio"):
            chosen |= upstream(opened(folders[part]), part, wanted)
    missing = sorted(wanted - set(chosen) - {"lm_head.weight"})
    if missing:
        raise ModelError(
            f"{main.folder} lacks {len(missing)} tensors, the first is {missing[0]}. If they are of a tower, give its "
            "folder with --towers upstream --vision DIR --audio DIR; else the download is incomplete.",
            code="missing_weights",
        )
    processor = make_processor(main.folder, facts, config, folders, layout, fit)
    config.video_token_id, config.audio_token_id = processor.tokenizer.convert_tokens_to_ids(list(PLACEHOLDERS[1:]))
    model = build(config, {new: source.tensor(name) for new, (source, name) in chosen.items()}, dtype, how)
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    taken = {name for source, name in chosen.values() if source is main}
    left_out = tuple(name for name in names if name not in taken)
    return model, processor, Report(sources(chosen), left_out)


# ---- reading the folders ----


def opened(folder: str | Path | None) -> Source:
    """A folder's tensors by name.

    Raises:
        ModelError: no such folder, no safetensors in it, or a damaged one.
    """
    folder = Path(folder or "")
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    if not files:
        raise ModelError(
            f"{folder} holds no *.safetensors. Give the folder of a downloaded checkpoint; weights of another format "
            "are not read.",
            code="no_weights",
        )
    names: dict[str, Path] = {}
    for file in files:
        with open_weights(file) as weights:
            names |= dict.fromkeys(weights.keys(), file)
    return Source(folder, names)


def released_facts(main: Source) -> dict[str, Any]:
    """The released configuration, if it is one that we know."""
    facts = read_json(main.folder / "config.json")
    kind, projector = facts.get("model_type"), facts.get("mm_projector_type")
    if kind != KIND or projector != PROJECTOR:
        raise ModelError(
            f"{main.folder} is a {kind!r} model with the projector {projector!r}; a {KIND!r} model with {PROJECTOR!r} "
            "can be imported (R1-Omni-0.5B, HumanOmni-0.5B, EMER-SFT, MAFW-DFEW-SFT).",
            code="kind",
        )
    return facts


@contextmanager
def undamaged(path: Path) -> Iterator[None]:
    """Around the reading of a file of a model: a missing or damaged one is a `ModelError` that names it."""
    if not path.is_file():
        raise ModelError(f"There is no {path.name} in {path.parent}. Copy the whole folder.", code="not_found")
    try:
        yield
    except (SafetensorError, ValueError, TypeError, OSError) as err:
        raise ModelError(f"{path} is damaged or of another format ({err}). Copy it again.", code="damaged") from err


def open_weights(path: Path) -> Any:
    """A safetensors file, opened."""
    with undamaged(path):
        return safe_open(path, "pt")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file with an object."""
    with undamaged(path):
        return dict(json.loads(path.read_text(encoding="utf-8")))


def tower_folder(main: Path, given: str | Path | None, named: str | None, needed: bool, part: str) -> Path | None:
    """The folder of a tower: the one given, or the one that the checkpoint's configuration names, if it is there."""
    places = [Path(given)] if given else [main / named, main.parent / named] if named else []
    found = next((place for place in places if (place / "config.json").is_file()), None)
    if found is None and (given or needed):
        raise ModelError(
            f"The folder of the {part} tower is not at {given or named}. Give it with --{part} DIR (it holds "
            "config.json and *.safetensors), or take the tower from the checkpoint with --towers checkpoint.",
            code="not_found",
        )
    return found


def bert_folder(main: Source, given: str | Path | None) -> Path:
    """The folder of BERT: the one given, or one called bert* in or beside the checkpoint that has its sizes."""
    if given:
        if not (Path(given) / "vocab.txt").is_file():
            raise ModelError(f"There is no vocab.txt in {given}. Give BERT's folder with --bert.", code="not_found")
        return Path(given)
    sizes = main.shape("model.bert_model.embeddings.word_embeddings.weight")
    for place in (main.folder, main.folder.parent):
        for folder in sorted(place.glob("bert*")):
            if (folder / "vocab.txt").is_file() and (folder / "config.json").is_file():
                facts = read_json(folder / "config.json")
                if (facts.get("vocab_size"), facts.get("hidden_size")) == sizes:
                    return folder
    raise ModelError(
        f"{main.folder} comes without BERT's word list. Lay the folder bert-base-uncased (config.json, vocab.txt) "
        "beside it, or give it to omni import with --bert FOLDER.",
        code="no_words",
    )


def renamed(name: str) -> str | None:
    """The name that a tensor of a checkpoint has in our model, None for one that we have no name for.

    >>> renamed("model.mm_projector.s1_body.b1.conv1.bn.weight")
    'model.fusion.body.s1.b1.conv1.bn.weight'
    """
    for pattern, ours in NAMES.items():
        if re.match(pattern, name):
            return modern(re.sub(pattern, ours, name, count=1))
    return None


def modern(name: str) -> str:
    """BERT's old names of a LayerNorm's weights.

    >>> modern("model.fusion.bert.embeddings.LayerNorm.gamma")
    'model.fusion.bert.embeddings.LayerNorm.weight'
    """
    return re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name))


def upstream(source: Source, part: str, wanted: set[str]) -> dict[str, tuple[Source, str]]:
    """Tensors of a published tower's folder by our names."""
    theirs, ours = UPSTREAM[part]
    found = {}
    for name in source.files:
        new = ours + name.removeprefix("model.").removeprefix(theirs)
        if name.removeprefix("model.").startswith(theirs) and new in wanted:
            found[new] = (source, name)
    return found


# ---- sizes ----


def configuration(
    main: Source, facts: dict[str, Any], folders: dict[str, Path | None], names: dict[str, str | None]
) -> OmniConfig:
    """Our configuration of a released model."""
    shapes = {new: main.shape(name) for name, new in names.items() if new}
    vision = vision_config(shapes, folders["vision"], facts["mm_vision_select_layer"])
    known = set(Qwen2Config().to_dict()) | {"rope_theta"}
    text = Qwen2Config(**{k: v for k, v in facts.items() if k in known and k not in ("model_type", "architectures")})
    return OmniConfig(
        vision_config=vision,
        audio_config=audio_config(shapes, folders["audio"]),
        text_config=text,
        fusion={
            "name": "instruction_routed",
            "side": vision.image_size // vision.patch_size,
            "router": bert_config(shapes, folders["bert"]),
        },
        frames=facts.get("num_frames", 8),
        audio_pool=3,
        video_token_id=0,
        audio_token_id=0,
        vision_normed=False,
        audio_padded=True,
        prosody=False,
        tie_word_embeddings="lm_head.weight" not in main.files,
    )


def vision_config(shapes: dict[str, tuple[int, ...]], folder: Path | None, select: int) -> SiglipVisionConfig:
    """SigLIP's configuration, up to the layer whose state is read."""
    if folder:
        facts = read_json(folder / "config.json")
        config = SiglipVisionConfig(**without_kind(facts.get("vision_config", facts)))
    else:
        tower = "model.vision_tower."
        width, _, patch, _ = shapes[f"{tower}embeddings.patch_embedding.weight"]
        side = round(shapes[f"{tower}embeddings.position_embedding.weight"][0] ** 0.5)
        config = SiglipVisionConfig(
            hidden_size=width,
            num_attention_heads=heads(width, "vision"),
            num_hidden_layers=layers(shapes, f"{tower}encoder.layers."),
            intermediate_size=shapes[f"{tower}encoder.layers.0.mlp.fc1.weight"][0],
            patch_size=patch,
            image_size=side * patch,
        )
    states = config.num_hidden_layers + 1
    config.num_hidden_layers = select if select >= 0 else states + select
    config.vision_use_head = False
    return config


def audio_config(shapes: dict[str, tuple[int, ...]], folder: Path | None) -> WhisperConfig:
    """The configuration of Whisper's encoder."""
    if folder:
        return WhisperConfig(**without_kind(read_json(folder / "config.json")))
    tower = "model.audio_tower."
    width, mels, _ = shapes[f"{tower}conv1.weight"]
    return WhisperConfig(
        d_model=width,
        encoder_attention_heads=heads(width, "audio"),
        encoder_layers=layers(shapes, f"{tower}layers."),
        encoder_ffn_dim=shapes[f"{tower}layers.0.fc1.weight"][0],
        num_mel_bins=mels,
        max_source_positions=shapes[f"{tower}embed_positions.weight"][0],
    )


def bert_config(shapes: dict[str, tuple[int, ...]], folder: Path | None) -> dict[str, Any]:
    """BERT's configuration: sizes from the checkpoint, the number of heads from its folder."""
    tower = "model.fusion.bert."
    words, width = shapes[f"{tower}embeddings.word_embeddings.weight"]
    told = read_json(folder / "config.json") if folder and (folder / "config.json").is_file() else {}
    config = BertConfig(
        vocab_size=words,
        hidden_size=width,
        num_hidden_layers=layers(shapes, f"{tower}encoder.layer."),
        num_attention_heads=told.get("num_attention_heads") or heads(width, "bert"),
        intermediate_size=shapes[f"{tower}encoder.layer.0.intermediate.dense.weight"][0],
        max_position_embeddings=shapes[f"{tower}embeddings.position_embeddings.weight"][0],
    )
    return config.to_diff_dict()


def without_kind(facts: dict[str, Any]) -> dict[str, Any]:
    """A tower's configuration without what says which class and dtype it had."""
    return {k: v for k, v in facts.items() if k not in ("model_type", "architectures", "torch_dtype", "dtype")}


def heads(width: int, part: str) -> int:
    """Attention heads of a published tower of that width.

    >>> heads(768, "vision"), heads(1280, "audio")
    (12, 20)
    """
    if width % HEAD_SIZE:
        raise ModelError(
            f"The {part} tower is {width} wide, which no published one is, so the number of its attention heads cannot "
            f"be told from its weights. Give its folder with --{part} DIR.",
            code="unknown_heads",
        )
    return width // HEAD_SIZE


def layers(shapes: Iterable[str], prefix: str) -> int:
    """How many layers there are under a prefix.

    >>> layers(["a.layers.0.w", "a.layers.1.w", "b.layers.2.w"], "a.layers.")
    2
    """
    return len({name.removeprefix(prefix).split(".")[0] for name in shapes if name.startswith(prefix)})


# ---- building ----


def wanted_names(config: OmniConfig) -> set[str]:
    """The tensors of our model, without those that the vision tower only has after the state that is read."""
    with torch.device("meta"):
        model = OmniForConditionalGeneration(config)
    return {name for name in model.state_dict() if not name.startswith("model.vision_tower.post_layernorm")}


def build(config: OmniConfig, tensors: dict[str, Tensor], dtype: torch.dtype | None, how: dict[str, Any]):
    """The model with its weights."""
    dtype = dtype or tensors["model.language_model.norm.weight"].dtype
    width = config.stream_widths["video"]
    tensors["model.vision_tower.post_layernorm.weight"] = torch.ones(width, dtype=dtype)  # nothing reads it
    tensors["model.vision_tower.post_layernorm.bias"] = torch.zeros(width, dtype=dtype)
    if "lm_head.weight" not in tensors:
        tensors["lm_head.weight"] = tensors["model.language_model.embed_tokens.weight"]
    return OmniForConditionalGeneration.from_pretrained(None, config=config, state_dict=tensors, dtype=dtype, **how)


def make_processor(
    folder: Path, facts: dict[str, Any], config: OmniConfig, folders: dict[str, Any], layout: str, fit: str
) -> ReleasedProcessor:
    """The processor of a released model."""
    for path in folder.glob("tokenizer*.json"):
        read_json(path)  # transformers does not say which one is damaged
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    template = tokenizer.chat_template
    if (folder / "chat_template.json").is_file():  # saved by the trainer of the last stage
        template = read_json(folder / "chat_template.json")["chat_template"]
    if not template:
        raise ModelError(f"{folder} has no chat template. Download the whole folder.", code="template")
    tokenizer.add_special_tokens({"additional_special_tokens": list(PLACEHOLDERS)}, replace_extra_special_tokens=False)
    sound: Any = config.audio_config
    vision: Any = config.vision_config
    window = sound.max_source_positions * 2  # mel frames of 10 ms
    mean, std = [0.5] * 3, [0.5] * 3
    if folders["vision"] and (folders["vision"] / "preprocessor_config.json").is_file():
        seen = read_json(folders["vision"] / "preprocessor_config.json")
        mean, std = seen.get("image_mean", mean), seen.get("image_std", std)
    return ReleasedProcessor(
        WhisperFeatureExtractor(feature_size=sound.num_mel_bins, chunk_length=window // 100),
        tokenizer,
        tokenizer,
        chat_template=template,
        frame_patches=(vision.image_size // vision.patch_size) ** 2,
        audio_tokens=sound.max_source_positions // config.audio_pool,
        frames=config.frames,
        vision={"kind": "resize", "size": vision.image_size, "mean": mean, "std": std},
        instruction=bert_words(folders["bert"]),
        layout=layout,
        fit=fit,
    )


def bert_words(folder: Path) -> dict[str, Any]:
    """BERT's word list and whether it is of lower case."""
    how = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    words = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    return {"words": words, "lower_case": how.get("do_lower_case", True)}


def sources(chosen: dict[str, tuple[Source, str]]) -> dict[str, tuple[str, int, int]]:
    """{part: (folder, tensors, parameters)} of what was taken."""
    out: dict[str, tuple[str, int, int]] = {}
    for new, (source, name) in chosen.items():
        part = new.split(".")[1] if new.startswith("model.") else new.split(".")[0]
        part = "bert, gate" if new.startswith(("model.fusion.bert", "model.fusion.gate")) else part
        _, count, total = out.get(part, ("", 0, 0))
        out[part] = (str(source.folder), count + 1, total + math.prod(source.shape(name)))
    return out
