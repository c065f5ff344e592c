"""A random model of every part, small enough for tests: widths 16 to 64, no file read, no network.

It has the shape of the real thing (vision tower, Whisper with decoder, fusion, causal LM, processor), so that what
holds for it by construction (merging, caching, batching, saving) holds for any sizes.
"""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
)

from .config import OmniConfig
from .faces import FaceTowerConfig
from .model import OmniForConditionalGeneration
from .processing import OmniProcessor

SPECIAL = ("<pad>", "<|im_start|>", "<|im_end|>", "<|clip|>")


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes as tokens, and the control tokens of ChatML: any text round-trips."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {t: i for i, t in enumerate([*SPECIAL, *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<|im_end|>", padding_side="left"
    )


def tiny(
    vision: str = "siglip",
    *,
    transcribe: bool = False,
    fusion: str = "concat",
    tokens: int = 8,
    seed: int = 0,
):
    """A random `(model, processor)`.

    Args:
        vision: "siglip", or "face" for the face tower.
        transcribe: give the audio tower its decoder.
        fusion: a key of `FUSIONS`.
        tokens: soft tokens of a clip.
    """
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    ids = tokenizer.convert_tokens_to_ids
    towers = {
        "siglip": SiglipVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=16,
        ),
        "face": FaceTowerConfig(),
    }
    frames = {
        "siglip": {"kind": "resize", "size": 32, "mean": [0.5] * 3, "std": [0.5] * 3},
        "face": {"kind": "letterbox", "size": 96},
    }
    config = OmniConfig(
        vision_config=towers[vision],
        audio_config=WhisperConfig(
            vocab_size=len(tokenizer),
            d_model=16,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            num_mel_bins=20,
            max_source_positions=100,
            max_target_positions=64,
            decoder_start_token_id=ids("<|im_start|>"),
            eos_token_id=ids("<|im_end|>"),
            pad_token_id=ids("<pad>"),
            bos_token_id=ids("<|im_start|>"),
            begin_suppress_tokens=None,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            pad_token_id=ids("<pad>"),
            bos_token_id=None,
            eos_token_id=ids("<|im_end|>"),
        ),
        fusion={"name": fusion, "tokens": tokens, "width": 16},
        clip_token_id=ids("<|clip|>"),
        frames=4,
        transcribe=transcribe,
    )
    model = OmniForConditionalGeneration(config).eval()
    mel = WhisperFeatureExtractor(feature_size=20, chunk_length=2)
    processor = OmniProcessor(mel, tokenizer, tokenizer, clip_tokens=tokens, frames=4, vision=frames[vision])
    return model, processor
