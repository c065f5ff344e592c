"""The configuration of an omni model: two frozen towers, a fusion adapter, a causal language model.

    OmniConfig(vision_config, audio_config, text_config, fusion)

A tower is any configuration that `AutoModel` knows: SigLIP, CLIP, ViT, DINOv2 or our face tower for vision, any
Whisper for audio; the language model is any causal LM. What a tower puts out is called a *stream*, a series of
feature vectors with their times in seconds; `stream_widths` says which streams a configuration has and how wide
they are. The fusion adapter turns all streams into `fusion["tokens"]` soft tokens, which take the places of
`clip_token_id` in the prompt.
"""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig, WhisperConfig
from transformers.configuration_utils import SubConfigSpec

from .cues.voice import FEATURES
from .faces import FaceTowerConfig

AutoConfig.register(FaceTowerConfig.model_type, FaceTowerConfig)  # before OmniConfig, which names it as a part


@strict
class OmniConfig(PreTrainedConfig):
    """Sizes and parts of an `OmniForConditionalGeneration`.

    Args:
        vision_config: configuration of the vision tower.
        audio_config: configuration of the audio tower, a Whisper.
        text_config: configuration of the causal language model.
        fusion: mechanism and options, e.g. `{"name": "concat", "tokens": 32, "width": 256}`; see `fusion/placement.py`.
        clip_token_id: the placeholder that clip tokens replace in `input_ids`.
        frames: frames sampled from a clip, at the middles of equal bins; 8 as in R1-Omni.
        audio_pool: encoder steps (20 ms) averaged into one audio feature; 5 gives 100 ms.
        transcribe: keep Whisper's decoder, so that the words spoken can go into the prompt.
        video_token_id, audio_token_id: placeholders of the released models, whose prompts name the two senses apart;
            None for ours, which have `clip_token_id`.
        vision_normed: take the vision tower's states after its final norm; the released models take them before.
        audio_padded: hear windows of 30 s, filled with silence, as the released models do, and not the sound's length.
        prosody: measure pitch, loudness and rate as one more stream.
        further_streams: widths of series that no tower makes, e.g. `{"physio": 3}` for EEG or heart rate; a clip brings
            them in its `ClipFeatures`.
    """

    model_type = "omni"
    sub_configs_defaults: ClassVar[dict] = {
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="omni_face"),
        "audio_config": SubConfigSpec(config_class=WhisperConfig),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama"),
    }

    vision_config: dict | PreTrainedConfig | None = None
    audio_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    fusion: dict[str, Any] | None = None
    clip_token_id: int = 0
    frames: int = 8
    audio_pool: int = 5
    transcribe: bool = False
    video_token_id: int | None = None
    audio_token_id: int | None = None
    vision_normed: bool = True
    audio_padded: bool = False
    prosody: bool = True
    further_streams: dict[str, int] | None = None
    tie_word_embeddings: bool = True

    @property
    def placeholders(self) -> dict[str, int]:
        """Token ids that the parts of a clip take the places of, in the order of the prompt."""
        if self.video_token_id is None or self.audio_token_id is None:
            return {"clip": self.clip_token_id}
        return {"video": self.video_token_id, "audio": self.audio_token_id}

    @property
    def image_token_id(self) -> int:
        """TRL asks every multimodal model for this name and keeps the token out of sampling."""
        return next(iter(self.placeholders.values()))

    @property
    def sees_faces(self) -> bool:
        """Whether the vision tower finds faces and reads expressions, or sees whole frames."""
        return self.vision_config.model_type == FaceTowerConfig.model_type

    @property
    def stream_widths(self) -> dict[str, int]:
        """Width of every stream that the towers put out, in the order in which fusion sees them."""
        if self.sees_faces:
            vision = {"expression": len(self.vision_config.labels), "video": self.vision_config.detail_size}
        else:
            vision = {"video": self.vision_config.hidden_size}
        prosody = {"prosody": len(FEATURES)} if self.prosody else {}
        return {**vision, "audio": self.audio_config.d_model, **prosody, **(self.further_streams or {})}
