"""Messages and clips to model inputs.

    [{"role": "user", "content": [{"type": "video", "video": clip}, {"type": "text", "text": "..."}]}]
        -> input_ids, attention_mask, and the clip as media tensors or as streams

A content part of type "video" is a whole clip, picture and sound: a media file, a `Clip`, or an encoded clip as
`ClipFeatures` or as the file that `features.py` wrote. Its placeholder becomes as many clip tokens as the fusion
adapter puts out, with or without picture or sound: a sense that is not there is filled by the adapter's learned absent
token. The part of an encoded file may name streams to leave out: `{"type": "video", "path": …, "without": ["video"]}`

Preprocessing is our own few lines on Pillow and numpy, because HF's video processors need torchvision, whose package
is built for CUDA and does not load beside a CPU torch. Text of users cannot write placeholders or control tokens:
`sanitize_control_tokens` encodes them as plain text.
"""

import os
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoProcessor, ProcessorMixin

from .answer import QUESTION, prompt
from .clip import Clip, read_clip
from .config import OmniConfig
from .cues.voice import prosody_track
from .emotions import LabelSpace
from .faces import letterbox
from .features import ClipFeatures, collate, read_features

RATE = 16_000  # Hz, what Whisper hears

CHAT_TEMPLATE = """{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.role == 'assistant' %}{% generation %}{{ message.content if message.content is string else message.content[0].text }}<|im_end|>{% endgeneration %}
{% else %}{% if message.content is string %}{{ message.content }}{% else %}{%- for part in message.content -%}
{% if part.type == 'video' %}{{ clip_token }}
{% elif part.type == 'text' %}{{ part.text }}{% endif %}{%- endfor -%}{% endif %}<|im_end|>
{% endif %}{%- endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif -%}"""  # noqa: E501


class OmniProcessor(ProcessorMixin):
    """Tokenizer, mel extractor and frame preprocessing of one model.

    Args:
        feature_extractor: a `WhisperFeatureExtractor`.
        tokenizer: the language model's.
        transcript_tokenizer: the Whisper decoder's; a model without one gives the language model's again.
        chat_template: Jinja template; default ChatML with `clip_token`.
        clip_token: placeholder of a clip, a token that the tokenizer knows and text never holds.
        clip_tokens: how many soft tokens the fusion adapter puts out.
        frames: frames sampled from a clip.
        vision: frame preprocessing: `{"kind": "letterbox", "size": 288}` for the face tower, or
            `{"kind": "resize", "size": 224, "mean": [...], "std": [...]}` for a patch tower.
        sampling: which frames of a clip are taken, a key of `omni.clip.SAMPLINGS`.
        instructed: the fusion adapter reads what is asked (`Fusion.conditioned`).
    """

    def __init__(
        self,
        feature_extractor=None,
        tokenizer=None,
        transcript_tokenizer=None,
        chat_template: str | None = None,
        clip_token: str = "<|clip|>",
        clip_tokens: int = 32,
        frames: int = 8,
        vision: dict[str, Any] | None = None,
        sampling: str = "mid_bins",
        instructed: bool = False,
    ):
        self.instructed = instructed
        self.clip_token = self.video_token = clip_token
        self.video_token_id = tokenizer.convert_tokens_to_ids(clip_token)
        self.clip_tokens, self.frames, self.sampling = clip_tokens, frames, sampling
        self.vision = vision or {"kind": "letterbox", "size": 288}
        template = (chat_template or CHAT_TEMPLATE).replace("{{ clip_token }}", clip_token)
        super().__init__(feature_extractor, tokenizer, transcript_tokenizer, chat_template=template)

    @property
    def video_processor(self) -> "OmniProcessor":
        """What `ProcessorMixin` looks for before it handles videos; we handle them ourselves."""
        return self

    def read(self, path: "str | os.PathLike[str] | Clip", **options) -> Clip:
        """A clip with the frames that this model looks at; options as in `read_clip`."""
        return read_clip(path, frames=self.frames, sampling=self.sampling, **options)

    @property
    def hearing(self) -> float:
        """Seconds of sound that the model takes in; what is beyond is cut off, with the warning `sound_cut`."""
        return float("inf")

    @property
    def question(self) -> str:
        """What is asked where nothing else is."""
        return QUESTION

    def prompt(
        self,
        question: str | None,
        labels: LabelSpace | str | Sequence[str],
        *,
        think: bool = True,
        modalities: Sequence[str] = ("video", "audio"),
        transcript: str | None = None,
    ) -> str:
        """The text that this model is asked with, after the clip: `omni.answer.prompt`."""
        return prompt(question, labels, think=think, modalities=modalities, transcript=transcript)

    def instructions(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """What is asked of B clips, for fusion that reads it: instruction_ids and instruction_mask, (B, L)."""
        if not self.instructed:
            return {}
        found = self.tokenizer(list(texts), padding=True, padding_side="right", return_tensors="pt")
        return {"instruction_ids": found["input_ids"], "instruction_mask": found["attention_mask"]}

    def media(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """Clips to media tensors, the names in `omni.model.MEDIA`; what no clip has is left out."""
        out: dict[str, Tensor] = {}
        seen = [c for c in clips if "video" in c.modalities]
        heard = [c for c in clips if "audio" in c.modalities]
        if seen:
            pixels = [self.pixels(c.frames) if "video" in c.modalities else None for c in clips]
            out["pixel_values_videos"], out["video_times"] = _stack(pixels, [c.times for c in clips])
        if heard:
            mels = [self.mel(c.wave) if "audio" in c.modalities else None for c in clips]
            longest = max(m.shape[1] for m in mels if m is not None)
            bins = next(m.shape[0] for m in mels if m is not None)
            out["input_features"] = torch.stack([_right_pad(m, bins, longest) for m in mels])  # (B, M, L)
            out["audio_seconds"] = torch.tensor([len(c.wave) / RATE if "audio" in c.modalities else 0.0 for c in clips])
            tracks = [prosody_track(c.wave) if "audio" in c.modalities else None for c in clips]
            values = [None if t is None else torch.from_numpy(t.values).float() for t in tracks]
            out["prosody"], out["prosody_times"] = _stack(values, [() if t is None else t.times for t in tracks])
        return out

    def pixels(self, frames: np.ndarray) -> Tensor:
        """Frames uint8 (T, H, W, 3) to what the vision tower takes, (T, 3, S, S)."""
        size = self.vision["size"]
        if self.vision["kind"] == "letterbox":
            return letterbox(frames, size)
        resized = np.stack(
            [np.asarray(Image.fromarray(f).resize((size, size), Image.Resampling.BICUBIC)) for f in frames]
        )
        mean, std = (torch.tensor(self.vision[k]).view(3, 1, 1) for k in ("mean", "std"))
        return (torch.from_numpy(resized).permute(0, 3, 1, 2).float() / 255 - mean) / std

    def mel(self, wave: np.ndarray) -> Tensor:
        """Log-mel (M, L) of a wave at its own length, window by window of 30 s."""
        window = 30 * RATE
        wave = wave if len(wave) >= RATE // 10 else np.pad(wave, (0, RATE // 10 - len(wave)))
        least = self.feature_extractor.n_fft // 2 + 1  # samples; a rest that is shorter cannot be mirrored at its ends
        parts = [
            self.feature_extractor(
                np.pad(wave[i : i + window], (0, max(0, least - len(wave[i : i + window])))),
                sampling_rate=RATE,
                padding="do_not_pad",
                truncation=False,
                return_tensors="np",
            )["input_features"][0]
            for i in range(0, len(wave), window)
            if len(wave) - i >= RATE // 100 or i == 0
        ]
        return torch.from_numpy(np.concatenate(parts, 1)).float()

    @cached_property
    def transcript_prefix(self) -> list[int]:
        """Ids that start an English transcript without timestamps, for English and multilingual Whispers."""
        known = self.transcript_tokenizer.get_vocab()
        words = ("<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")
        multilingual = "<|zh|>" in known
        return [known[w] for w in words if w in known and (multilingual or w in (words[0], words[3]))]

    def transcript(self, ids: Sequence[int]) -> str:
        """Whisper ids to one line of text, without what it says of other sounds: "[Music]", "(sighs)"."""
        text = self.transcript_tokenizer.decode(ids, skip_special_tokens=True)
        return " ".join(re.sub(r"\[[^]]*\]|\([^)]*\)|\[[^]]*$|\([^)]*$", " ", text).split())

    def ask(self, clips: "Sequence[Clip | ClipFeatures]", texts: Sequence[str]) -> dict:
        """Left-padded model inputs of B questions, one about each clip."""
        messages = [
            [{"role": "user", "content": [{"type": "video", "video": clip}, {"type": "text", "text": text}]}]
            for clip, text in zip(clips, texts, strict=True)
        ]
        return self.inputs(messages)

    def inputs(self, conversations: Sequence[list[dict]]) -> dict:
        """Left-padded model inputs of B conversations, up to where the assistant's next answer begins."""
        return self.apply_chat_template(
            conversations,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
            sanitize_control_tokens=True,
            processor_kwargs={"padding": True, "padding_side": "left"},
        )

    def apply_chat_template(self, conversation, *args, **kwargs):
        """As in transformers; clips in the messages stay whole, and `return_dict` brings the instruction."""
        out = super().apply_chat_template(_whole(conversation), *args, **kwargs)
        if self.instructed and kwargs.get("return_dict"):
            conversations = [conversation] if isinstance(conversation[0], dict) else conversation
            texts = [next(text_of(m) for m in reversed(turns) if m["role"] == "user") for turns in conversations]
            out.update(self.instructions(texts))
        return out

    # --- what ProcessorMixin calls -----------------------------------------------------------------------------------

    def _multimodal_inputs_from_conversations(self, conversations, audio_loading_params, load_audio_from_video=False):
        clips = []
        for conversation in conversations:
            parts = [p for m in conversation if isinstance(m.get("content"), list) for p in m["content"]]
            clips.append([self.clip_of(p) for p in parts if p["type"] == "video"])
        return [[] for _ in conversations], clips, [], {}

    def clip_of(self, part: dict) -> "Clip | ClipFeatures":
        """The clip of a content part, read if it is a path."""
        clip = next(part[key] for key in ("video", "path") if part.get(key) is not None)
        clip = clip.clip if isinstance(clip, _Whole) else clip
        if isinstance(clip, (Clip, ClipFeatures)):
            return clip
        if Path(clip).suffix == ".safetensors":
            return read_features(Path(clip)).without(*(part.get("without") or ()))
        return self.read(clip)

    def prepare_inputs_layout(self, images=None, text=None, videos=None, audio=None, **kwargs):
        """Keep clips as they are; HF would fetch paths and URLs."""
        return None, [text] if isinstance(text, str) else list(text), videos, None

    def validate_inputs(self, images=None, text=None, videos=None, audio=None, **kwargs) -> None:
        """One clip for every placeholder."""
        wanted, given = sum(t.count(self.clip_token) for t in text), sum(len(row) for row in videos or [])
        if wanted != given:
            raise ValueError(f"The messages hold {wanted} clip placeholders and {given} clips; give one clip for each.")

    def _process_videos(self, videos, **kwargs):
        clips = [clip for row in videos for clip in row]
        if all(isinstance(clip, ClipFeatures) for clip in clips):
            features, times = collate(clips)
            data = {"clip_features": features, "clip_times": times}
        else:
            data = self.media(clips)
        return data, [self.clip_token * self.clip_tokens] * len(clips)


def text_of(message: dict) -> str:
    """The text parts of a message, one after the other."""
    content = message["content"]
    return content if isinstance(content, str) else "".join(p["text"] for p in content if p["type"] == "text")


class _Whole:
    """Holds a clip in a message: since 5.24 transformers takes dataclasses in messages apart."""

    def __init__(self, clip: "Clip | ClipFeatures"):
        self.clip = clip


def _whole(value):
    if isinstance(value, (Clip, ClipFeatures)):
        return _Whole(value)
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    return [_whole(item) for item in value] if isinstance(value, (list, tuple)) else value


def _stack(rows: list[Tensor | None], times: list) -> tuple[Tensor, Tensor]:
    """Right-pad rows (T, ...) to one length; times NaN where padded."""
    shape = next(r.shape[1:] for r in rows if r is not None)
    length = max(len(r) for r in rows if r is not None)
    values, clock = torch.zeros(len(rows), length, *shape), torch.full((len(rows), length), torch.nan)
    for i, (row, at) in enumerate(zip(rows, times, strict=True)):
        if row is not None:
            values[i, : len(row)] = row
            clock[i, : len(row)] = torch.as_tensor(np.asarray(at), dtype=torch.float32)
    return values, clock


def _right_pad(mel: Tensor | None, bins: int, length: int) -> Tensor:
    out = torch.zeros(bins, length)
    if mel is not None:
        out[:, : mel.shape[1]] = mel
    return out


AutoProcessor.register(OmniConfig, OmniProcessor)
