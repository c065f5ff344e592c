"""Streams of a clip, encoded once and kept: the towers are frozen, so nothing is gained by encoding a clip again.

    <root>/<key>/<sha256 of the clip>-<senses>.safetensors      key = towers + recipe: no stale feature is ever read

Training, evaluation, chat and labelling share one cache. Features are kept in float16 (a two-second clip of the
default model takes about 50 kB) before the trainable fusion adapter, which must see gradients.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from .clip import RATE, Clip
from .cues.voice import FEATURES, VOICED_AT_LEAST
from .encoders import MEL_HZ, WINDOW, Streams, transcribe
from .journal import replacing

FORMAT = 2  # raise it by hand when the code makes other features of the same clip, or writes them otherwise
ANYHOW = ("_name_or_path", "architectures", "dtype", "transformers_version")  # settings that change no feature
STREAMS = {"video": ("video", "expression"), "audio": ("audio", "prosody")}  # sense → its streams


@dataclass(frozen=True)
class ClipFeatures:
    """One encoded clip.

    Attributes:
        features: streams {name: (T, D)}; a stream that the clip does not have is not a key.
        times: {name: (T,)} in seconds, NaN where a step is missing (a frame without a face).
        modalities: what the clip gives to go by: "video" only if something (a face) was seen in the picture.
        duration: seconds.
        sha256: of the clip's content.
        transcript: the words spoken, if the model writes them.
        warnings: the reader's, `no_face`, and `sound_cut` (longer than the model hears).
    """

    features: dict[str, Tensor]
    times: dict[str, Tensor]
    modalities: tuple[str, ...]
    duration: float
    sha256: str
    transcript: str | None = None
    warnings: tuple[str, ...] = ()

    def without(self, *names: str) -> "ClipFeatures":
        """The same clip with some streams left out; a sense of which none is left is gone too."""
        keep = [m for m in self.features if m not in names]
        return replace(
            self,
            features={m: self.features[m] for m in keep},
            times={m: self.times[m] for m in keep},
            modalities=tuple(sense for sense in self.modalities if {*STREAMS[sense]} & {*keep}),
        )

    def blind(self) -> "ClipFeatures":
        """The clip with its picture taken away."""
        return self.without(*STREAMS["video"])

    def mute(self) -> "ClipFeatures":
        """The clip with its sound, and the words in it, taken away."""
        return replace(self.without(*STREAMS["audio"]), transcript=None)

    def with_picture_of(self, other: "ClipFeatures") -> "ClipFeatures":
        """The clip with the picture of another one; its own sound and words stay."""
        return self._with("video", other)

    def with_sound_of(self, other: "ClipFeatures") -> "ClipFeatures":
        """The clip with the sound and the words of another one."""
        return replace(self._with("audio", other), transcript=other.transcript)

    def _with(self, sense: str, other: "ClipFeatures") -> "ClipFeatures":
        rest, theirs = self.without(*STREAMS[sense]), [m for m in STREAMS[sense] if m in other.features]
        has = {*rest.modalities} | ({sense} & {*other.modalities})
        return replace(
            rest,
            features=rest.features | {m: other.features[m] for m in theirs},
            times=rest.times | {m: other.times[m] for m in theirs},
            modalities=tuple(m for m in STREAMS if m in has),
        )

    def shuffled(self) -> "ClipFeatures":
        """The clip with every second frame first, at the times of the others."""
        pictures = {m: x for m, x in self.features.items() if m in STREAMS["video"]}
        return replace(self, features=self.features | {m: _interleaved(x, self.times[m]) for m, x in pictures.items()})


def _interleaved(values: Tensor, times: Tensor) -> Tensor:
    """Steps 1, 3, 5 … before 0, 2, 4 …, (T, D); steps without a time stay where they are."""
    seen = torch.nonzero(~times.isnan())[:, 0]
    moved = values.clone()
    moved[seen] = values[torch.cat([seen[1::2], seen[::2]])]
    return moved


def collate(rows: Sequence[ClipFeatures]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Right-pad B clips to {stream: (B, T, D)} and {stream: (B, T)}, NaN where a clip has nothing."""
    features, times = {}, {}
    for name in sorted({m for row in rows for m in row.features}):
        width = next(row.features[name].shape[1] for row in rows if name in row.features)
        length = max(1, max(len(row.features[name]) for row in rows if name in row.features))
        features[name], times[name] = (
            torch.zeros(len(rows), length, width),
            torch.full((len(rows), length), torch.nan),
        )
        for i, row in enumerate(rows):
            if name in row.features:
                steps = len(row.features[name])
                features[name][i, :steps], times[name][i, :steps] = (
                    row.features[name].float(),
                    row.times[name],
                )
    if not features:  # clips with nothing to see or hear still have a row
        features["prosody"], times["prosody"] = (
            torch.zeros(len(rows), 1, 1),
            torch.full((len(rows), 1), torch.nan),
        )
    return features, times


def to_device(value, device):
    """A tensor, or a dict of tensors such as `collate` makes, on a device."""
    return {k: to_device(v, device) for k, v in value.items()} if isinstance(value, dict) else value.to(device)


def encode_clip(model, processor, clip: Clip, transcript: str | None = None) -> ClipFeatures:
    """Run the towers over one clip, and write down its words where the model can and they are not known already."""
    return encode_clips(model, processor, [clip], [transcript])[0]


def encode_clips(
    model, processor, clips: Sequence[Clip], transcripts: Sequence[str | None] | None = None
) -> list[ClipFeatures]:
    """`encode_clip` for several. Each goes through the towers alone; their words are written down together."""
    backbone = _backbone(model)
    media = [_media(model, processor, clip) for clip in clips]
    streams = [backbone.encode(**row) for row in media]
    encoded = [_features(processor, *pair) for pair in zip(clips, streams, strict=True)]
    known: list[str | None] = list(transcripts or [None] * len(clips))
    wanted = [
        i
        for i, clip in enumerate(encoded)
        if not known[i] and backbone.config.transcribe and "audio" in clip.modalities and _voiced(media[i])
    ]
    for i, words in zip(wanted, _words(backbone, processor, [streams[i].heard[0] for i in wanted]), strict=True):
        known[i] = words
    return [replace(clip, transcript=words or None) for clip, words in zip(encoded, known, strict=True)]


def _media(model, processor, clip: Clip) -> dict[str, Tensor]:
    device = next(_backbone(model).parameters()).device
    return {name: value.to(device) for name, value in processor.media([clip]).items()}


def _features(processor, clip: Clip, streams: Streams) -> ClipFeatures:
    """What the towers give of one clip, with what is known of it."""
    present = {m: bool((~t.isnan()).any()) for m, t in streams.times.items()}
    seen, heard = present.get("video", False), present.get("audio", False)
    faults = {
        "no_face": "video" in clip.modalities and not seen,
        "sound_cut": clip.wave is not None and len(clip.wave) > processor.hearing * RATE,
    }
    return ClipFeatures(
        {m: x[0].cpu() for m, x in streams.features.items() if present[m]},
        {m: t[0].cpu() for m, t in streams.times.items() if present[m]},
        tuple(m for m, there in (("video", seen), ("audio", heard)) if there),
        clip.duration,
        clip.sha256,
        warnings=clip.warnings + tuple(name for name, true in faults.items() if true),
    )


def _voiced(media: dict[str, Tensor]) -> bool:
    return float(media["prosody"][0, :, list(FEATURES).index("voiced")].mean()) >= VOICED_AT_LEAST


def _words(backbone, processor, heard: Sequence[Tensor]) -> list[str]:
    """The words of B sounds, as far as one window goes, from what the audio tower made of each, (T, Da)."""
    states = [row[: WINDOW // 2] for row in heard]
    seconds = [len(row) * 2 / MEL_HZ for row in states]
    found = transcribe(backbone.audio_tower, states, processor.transcript_prefix, seconds) if states else []
    return [processor.transcript(ids) for ids in found]


def _backbone(model):
    """The OmniModel inside a head model or a PEFT wrapper."""
    for module in model.modules():
        if type(module).__name__ == "OmniModel":
            return module
    raise TypeError(f"{type(model).__name__} holds no OmniModel.")


class FeatureCache:
    """Encoded clips on disk.

    Args:
        root: folder of the cache.
        model: gives the key together with `processor`.
    """

    def __init__(self, root: str | Path, model, processor):
        self.model, self.processor = model, processor
        self.folder = Path(root) / cache_key(model, processor)
        self.folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, clip: Clip, transcript: str | None = None) -> ClipFeatures:
        """The streams of a clip, from disk or encoded now; words that are known need not be recognised.

        A clip that came from no file has no hash to be known by, and is not kept.
        """
        if not clip.sha256:
            return encode_clip(self.model, self.processor, clip, transcript)
        path = self.path(clip, told=bool(transcript))
        if path.exists():
            encoded = read_features(path)
        else:
            encoded = encode_clip(self.model, self.processor, clip, transcript)
            write_features(path, encoded)
        return replace(encoded, transcript=transcript) if transcript else encoded

    def path(self, clip: Clip, told: bool = False) -> Path:
        """The file of a clip; muted and blinded copies have files of their own, and so has one whose words were told,
        so that nobody takes them for recognised."""
        senses = "+".join(clip.modalities) or "none"
        return self.folder / f"{clip.sha256}-{senses}{'-told' if told else ''}.safetensors"


def cache_key(model, processor) -> str:
    """Sixteen hex digits that change with the towers' weights and settings, the sampling and the preprocessing."""
    backbone, digest = _backbone(model), hashlib.sha256()
    for tower in (backbone.vision_tower, backbone.audio_tower):
        for name, value in sorted(tower.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    how = backbone.config
    recipe = [FORMAT, processor.vision, processor.frames, processor.sampling, getattr(processor, "fit", None)]
    recipe += [how.audio_pool, how.audio_padded, how.vision_normed, how.prosody]
    recipe += [_settings(part) for part in (how.vision_config, how.audio_config, processor.feature_extractor)]
    digest.update(json.dumps(recipe, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def _settings(part) -> dict:
    return {name: value for name, value in part.to_dict().items() if name not in ANYHOW}


def write_features(path: Path, clip: ClipFeatures) -> None:
    """Write one clip; the file appears under its name only when it is whole."""
    tensors = {f"features.{m}": x.half().contiguous() for m, x in clip.features.items()}
    tensors |= {f"times.{m}": t.float().clone() for m, t in clip.times.items()}  # streams may share their times
    facts = {"modalities": clip.modalities, "duration": clip.duration, "sha256": clip.sha256}
    facts |= {"transcript": clip.transcript, "warnings": clip.warnings}
    with replacing(path) as partial:
        save_file(tensors, partial, metadata={"clip": json.dumps(facts)})


def read_features(path: Path) -> ClipFeatures:
    """Inverse of `write_features`, to half precision."""
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["clip"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    parts: dict[str, dict[str, Tensor]] = {"features": {}, "times": {}}
    for name, value in tensors.items():
        kind, stream = name.split(".", 1)
        parts[kind][stream] = value.float()
    facts["modalities"], facts["warnings"] = tuple(facts["modalities"]), tuple(facts["warnings"])
    return ClipFeatures(**parts, **facts)
