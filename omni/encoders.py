"""The frozen towers: what turns frames and sound into streams of features with times.

Letters: `B` clips, `T` frames, `N` tokens of a frame, `Dv` and `Da` tower widths, `M` mel bins, `L` mel frames (10 ms).

A clip is encoded alone, at its own length: HF's Whisper encoder insists on 30 s, so that a two-second clip would
spend 93 % of its tokens on silence; we run the same layers over the frames there are, with the first positions of the
same position table (cosine to the padded run 0.97, a tenth of the time). Sound longer than 30 s goes through in
windows of 30 s. Encoding row by row also makes a batch give exactly what each clip gives alone.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoModel,
    DynamicCache,
    EncoderDecoderCache,
    PreTrainedConfig,
    WhisperConfig,
    WhisperForConditionalGeneration,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from .faces import FaceTower, FaceTowerConfig

MEL_HZ = 100  # log-mel frames per second
WINDOW = 3000  # mel frames that a Whisper encoder sees at once, 30 s
PHRASE = 4  # text tokens; a decoder that has said them before is going round in circles
WORDS_PER_SECOND = 8  # text tokens; fast speech has about 5, so that a stuck decoder ends soon


class Streams(NamedTuple):
    """What the towers give of B clips.

    Attributes:
        features: {name: (B, T, D)}.
        times: {name: (B, T)} in seconds, NaN where there is nothing.
        heard: the audio tower's states of each clip before they are averaged, (steps of 20 ms, Da); from these
            `transcribe` writes the words. Empty where no clip has sound.
    """

    features: dict[str, Tensor]
    times: dict[str, Tensor]
    heard: tuple[Tensor, ...] = ()


def vision_tower(config: PreTrainedConfig) -> nn.Module:
    """A vision tower for any configuration `AutoModel` knows."""
    return FaceTower(config) if config.model_type == FaceTowerConfig.model_type else AutoModel.from_config(config)


def audio_tower(config: WhisperConfig, transcribe: bool) -> nn.Module:
    """A Whisper: the encoder alone, or with the decoder that writes transcripts."""
    return WhisperForConditionalGeneration(config) if transcribe else WhisperEncoder(config)


@torch.no_grad()
def see(tower: nn.Module, pixel_values_videos: Tensor, video_times: Tensor, normed: bool = True) -> Streams:
    """Frames to streams.

    Args:
        pixel_values_videos: (B, T, 3, H, W), as the tower's preprocessing made them.
        video_times: (B, T) in seconds, NaN for a frame that is not there.
        normed: states after the tower's final norm, not before it.

    Returns:
        `video`, and for a face tower also `expression`, the log-probabilities of its seven classes. A frame without a
        face has no features: its time is NaN.
    """
    if isinstance(tower, FaceTower):
        seen = tower(pixel_values_videos)
        times = video_times.masked_fill(~seen.found, torch.nan)
        return Streams({"expression": seen.expression, "video": seen.detail}, {"expression": times, "video": times})
    out = tower(pixel_values_videos.flatten(0, 1), output_hidden_states=not normed)
    patches = out.last_hidden_state if normed else out.hidden_states[-1]  # (B·T, N, Dv)
    batch, tokens = len(pixel_values_videos), patches.shape[1]
    return Streams(
        {"video": patches.reshape(batch, -1, patches.shape[-1])},  # (B, T·N, Dv)
        {"video": video_times.repeat_interleave(tokens, 1)},
    )


@torch.no_grad()
def hear(tower: nn.Module, input_features: Tensor, seconds: Tensor, pool: int, padded: bool = False) -> Streams:
    """Log-mel frames to the stream `audio`.

    Args:
        input_features: (B, M, L), right-padded.
        seconds: (B,) length of the sound of each clip; 0 for a clip without sound.
        pool: encoder steps (20 ms) averaged into one feature.
        padded: go through all frames given, silence after the sound too; a last mean over fewer steps is dropped.
    """
    lengths = [input_features.shape[-1] / MEL_HZ * (s > 0) if padded else s for s in seconds.tolist()]
    rows = [encode_sound(tower, mel, seconds=s) for mel, s in zip(input_features, lengths, strict=True)]
    pooled = [_average(row[: len(row) // pool * pool] if padded else row, pool) for row in rows]
    length = max(1, max(len(row) for row in pooled))
    features = torch.stack([_pad(row, length, 0.0) for row in pooled])  # (B, T, Da)
    step = pool * 2 / MEL_HZ
    times = torch.stack(
        [_pad((torch.arange(len(row), device=row.device) + 0.5) * step, length, torch.nan) for row in pooled]
    )
    return Streams({"audio": features}, {"audio": times}, tuple(rows))


@torch.no_grad()
def encode_sound(tower: nn.Module, mel: Tensor, seconds: float) -> Tensor:
    """One clip's log-mel (M, L) through a Whisper encoder at its own length: (steps of 20 ms, Da)."""
    encoder = tower.model.encoder if isinstance(tower, WhisperForConditionalGeneration) else tower
    frames = min(mel.shape[-1], int(seconds * MEL_HZ + 1e-3))  # whole frames: one more would be a batch's padding
    window = min(WINDOW, encoder.embed_positions.num_embeddings * 2)
    parts = [_encode_window(encoder, mel[None, :, i : min(i + window, frames)]) for i in range(0, frames - 1, window)]
    return torch.cat(parts) if parts else mel.new_zeros(0, encoder.config.d_model)


def _encode_window(encoder: WhisperEncoder, mel: Tensor) -> Tensor:
    mel = mel.to(encoder.conv1.weight.dtype)
    x = nn.functional.gelu(encoder.conv2(nn.functional.gelu(encoder.conv1(mel)))).transpose(1, 2)  # (1, L/2, Da)
    x = x + encoder.embed_positions.weight[: x.shape[1]]
    for layer in encoder.layers:
        out = layer(x, None)
        x = out[0] if isinstance(out, tuple) else out
    return encoder.layer_norm(x)[0]


def _average(x: Tensor, size: int) -> Tensor:
    """Means of `size` steps, (T, D) -> (ceil(T / size), D); the last mean may be over fewer."""
    return torch.stack([part.mean(0) for part in x.split(size)]) if len(x) else x


def _pad(x: Tensor, length: int, value: float) -> Tensor:
    return torch.cat([x, x.new_full((length - len(x), *x.shape[1:]), value)])


@torch.no_grad()
def transcribe(
    tower: WhisperForConditionalGeneration, states: Sequence[Tensor], prefix: Sequence[int], seconds: Sequence[float]
) -> list[list[int]]:
    """Greedy text ids of encoder states of B clips, each (T, Da), without timestamps; written together.

    HF's `generate` for Whisper wants padded 30 s windows; this is its inner loop over the states there are, which its
    own decoder takes from clips of one length only, so that the layers are called here. Without the padding the decoder
    often misses that speech is over and says everything again: a repeated phrase ends the text.

    Args:
        prefix: start-of-transcript ids, as the tokenizer gives them.
        seconds: length of each sound, which bounds its text at `WORDS_PER_SECOND`.
    """
    config, decoder = tower.generation_config, tower.model.decoder
    heard = pad_sequence(list(states), batch_first=True)  # (B, T, Da)
    lengths = torch.tensor([len(row) for row in states], device=heard.device)
    beyond = torch.arange(heard.shape[1], device=heard.device) >= lengths[:, None]
    mask = torch.zeros(beyond.shape, dtype=heard.dtype, device=heard.device)
    mask = mask.masked_fill(beyond, torch.finfo(heard.dtype).min)[:, None, None]  # (B, 1, 1, T)
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())

    def run(tokens: Sequence[int], at: int) -> Tensor:
        ids = torch.tensor(tokens, device=heard.device)[:, None]
        x = decoder.embed_tokens(ids) * decoder.embed_scale + decoder.embed_positions.weight[at]
        for layer in decoder.layers:
            x = layer(x, None, heard, mask, cache)
        return tower.proj_out(decoder.layer_norm(x)[:, 0]).float()  # (B, V)

    quiet = torch.tensor(sorted({*(config.suppress_tokens or []), *prefix[1:]}), dtype=torch.long)
    first = torch.tensor(config.begin_suppress_tokens or [], dtype=torch.long)
    ends = {config.eos_token_id, tower.config.eos_token_id}
    most = tower.config.max_target_positions - len(prefix) - 1
    texts = [_Text(min(round(s * WORDS_PER_SECOND) + 4, most)) for s in seconds]
    for at, token in enumerate(prefix):
        logits = run([token] * len(states), at)
    logits[:, first] = -torch.inf
    for step in range(max(text.room for text in texts)):
        logits[:, quiet] = -torch.inf
        tokens = logits.argmax(-1).tolist()
        for text, token in zip(texts, tokens, strict=True):
            text.take(token, ends)
        if all(text.ended for text in texts):
            break
        logits = run(tokens, len(prefix) + step)
    return [text.ids for text in texts]


@dataclass
class _Text:
    """Ids as they are written, at most `room`."""

    room: int
    ids: list[int] = field(default_factory=list)
    said: set[tuple[int, ...]] = field(default_factory=set)
    ended: bool = False

    def take(self, token: int, ends: Collection[int]) -> None:
        """One more token, unless the text has ended."""
        self.ended = self.ended or token in ends or len(self.ids) == self.room
        if self.ended:
            return
        self.ids.append(token)
        phrase = tuple(self.ids[-PHRASE:])
        if phrase in self.said:
            self.ids, self.ended = self.ids[:-PHRASE], True
        self.said.add(phrase)
