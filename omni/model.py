"""The omni model: towers -> fusion -> merge -> language model, as transformers models.

    OmniModel                       backbone: media (or their features) are merged into the token embeddings here
    OmniForConditionalGeneration    backbone + output head; generates

The merge stands in the backbone and not in the head model, because TRL's GRPO calls the backbone for log-probabilities;
with the merge outside, training runs without an error while fusion never moves. Placeholders without a clip raise.
The towers are frozen: their output, the streams of a clip, can be given instead of its media.

Letters: `B` rows, `L` tokens, `N` clip tokens, `E` the language model's width; for streams see `encoders.py`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    DynamicCache,
    GenerationMixin,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast, ModelOutput

from .calibration import Calibration
from .config import OmniConfig
from .encoders import MEL_HZ, Streams, audio_tower, hear, see, vision_tower
from .fusion import AUX, Fused, Instruction
from .fusion.placement import new_fusion
from .shared_prompt import SharedTree, Tree, sharing

MEDIA = ("pixel_values_videos", "video_times", "input_features", "audio_seconds", "prosody", "prosody_times")
CLIP_INPUTS = (*MEDIA, "clip_features", "clip_times", "instruction_ids", "instruction_mask")  # consumed by the prefill


class OmniPreTrainedModel(PreTrainedModel):
    """What both classes share: names that transformers and TRL look for."""

    config: OmniConfig
    base_model_prefix = "model"  # TRL calls model.model(...).last_hidden_state
    input_modalities = ("video", "audio", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = (
        "LlamaDecoderLayer",
        "Qwen2DecoderLayer",
        "WhisperEncoderLayer",
        "WhisperDecoderLayer",
        "FaceTower",
    )
    _supports_sdpa = True
    _supports_flash_attn = False  # it knows no mask as that of the labels in `generate.score_labels`
    _supports_attention_backend = True


class OmniModel(OmniPreTrainedModel):
    """Towers, fusion adapter and decoder; returns hidden states."""

    def __init__(self, config: OmniConfig):
        super().__init__(config)
        self.vision_tower = vision_tower(config.vision_config)
        self.audio_tower = audio_tower(config.audio_config, config.transcribe)
        self.fusion = new_fusion(config.fusion, config.stream_widths, config.text_config.hidden_size)
        self.language_model = AutoModel.from_config(config.text_config)
        for tower in (self.vision_tower, self.audio_tower):
            tower.requires_grad_(False)
        self.post_init()

    def train(self, mode: bool = True) -> "OmniModel":
        """Training mode for everything but the frozen towers."""
        super().train(mode)
        self.vision_tower.eval()
        self.audio_tower.eval()
        return self

    def get_input_embeddings(self) -> nn.Module:
        """The language model's token embeddings."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embeddings."""
        self.language_model.set_input_embeddings(value)

    @torch.no_grad()
    def encode(
        self,
        pixel_values_videos: Tensor | None = None,
        video_times: Tensor | None = None,
        input_features: Tensor | None = None,
        audio_seconds: Tensor | None = None,
        prosody: Tensor | None = None,
        prosody_times: Tensor | None = None,
    ) -> Streams:
        """Media of B clips to streams; what is not given is absent.

        Without `video_times` frames count as a second apart, and without `audio_seconds` the sound as long as its mel.
        """
        found = []
        if pixel_values_videos is not None:
            pixels = pixel_values_videos.to(next(self.vision_tower.parameters()).dtype)
            if video_times is None:
                video_times = torch.arange(pixels.shape[1], device=pixels.device).float().expand(pixels.shape[:2])
            found.append(see(self.vision_tower, pixels, video_times, self.config.vision_normed))
        if input_features is not None:
            if audio_seconds is None:
                audio_seconds = torch.full((len(input_features),), input_features.shape[-1] / MEL_HZ)
            found.append(
                hear(self.audio_tower, input_features, audio_seconds, self.config.audio_pool, self.config.audio_padded)
            )
        if prosody is not None:
            found.append(Streams({"prosody": prosody}, {"prosody": prosody_times}))
        features = {name: x for streams in found for name, x in streams.features.items()}
        times = {name: t for streams in found for name, t in streams.times.items()}
        return Streams(features, times, tuple(states for streams in found for states in streams.heard))

    def instruction(self, ids: Tensor | None, mask: Tensor | None) -> Instruction | None:
        """What is asked, with its frozen embeddings where the fusion adapter reads the language model's words."""
        if ids is None or mask is None:
            return None
        known = self.fusion.conditioned
        return Instruction(ids, mask, self.get_input_embeddings()(ids).detach() if known else None)

    def merge(self, input_ids: Tensor, embeds: Tensor, fused: Fused) -> Tensor:
        """Put the clip tokens of each row where its placeholders are: (B, L, E).

        Where a prompt names the senses apart, one without placeholders is left out of a row.
        """
        apart = len(self.config.placeholders) > 1
        for name, token in self.config.placeholders.items():
            tokens = fused.parts.get(name, embeds[:, :0])  # (B, N, E)
            there = fused.present.get(name, tokens.new_ones(tokens.shape[:2], dtype=torch.bool))  # (B, N)
            at = input_ids == token  # (B, L)
            counts, wanted = at.sum(1), there.sum(1)
            asked = (counts > 0) | (not apart)
            if not bool((counts == wanted)[asked].all()):
                raise ValueError(
                    f"The rows need {wanted.tolist()} {name} placeholders, got {counts.tolist()}: build inputs with "
                    "the model's processor."
                )
            embeds = embeds.masked_scatter(at[..., None], tokens[there & asked[:, None]].to(embeds.dtype))
        return embeds

    def completions(
        self, input_ids: Tensor, attention_mask: Tensor, groups: Tensor, length: int, **clips
    ) -> tuple[Tensor, Tree, Tensor | None]:
        """Hidden states that predict the completions of B rows, with gradients, and the auxiliary loss of U prompts.

        Each distinct prompt is run once, and so is every beginning that its completions have in common: the slopes of
        all that share it flow back into it. Equal to running every row whole, at a fraction of the tokens.

        Args:
            input_ids: left-padded prompts and right-padded completions, (B, P + length).
            attention_mask: (B, P + length).
            groups: which of U prompts each row has, (B,), numbered in the order of their first rows.
            clips: `clip_features`, `clip_times` and, where the fusion wants it, the instruction of the U prompts.

        Returns:
            States (N, E) that predict the N distinct tokens of the completions, their tree, the auxiliary loss.
        """
        first = torch.stack([(groups == g).nonzero()[0, 0] for g in range(int(groups.max()) + 1)])  # (U,)
        prompt = input_ids.shape[1] - length
        mask = attention_mask[first, :prompt]
        cache = DynamicCache(config=self.config.text_config)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        head = self(input_ids[first, :prompt], mask, positions, cache, use_cache=True, **clips)
        tree = Tree(input_ids[:, prompt:], attention_mask[:, prompt:], groups)
        shared = SharedTree(tree, [(layer.keys, layer.values) for layer in cache.layers], mask)
        with sharing(self.language_model):
            rest = self(
                tree.token[None, tree.run],
                mask.new_ones(1, 1, 1, 1, dtype=torch.bool),  # or else one of all nodes by all is made
                (mask.sum(1)[tree.group] + tree.depth)[None, tree.run],
                use_cache=False,
                shared=shared,
            )
        states = torch.cat([head.last_hidden_state[:, -1], rest.last_hidden_state[0]])  # (U + M, E)
        return states[tree.after], tree, head.aux_loss

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache=None,
        inputs_embeds: Tensor | None = None,
        clip_features: dict[str, Tensor] | None = None,
        clip_times: dict[str, Tensor] | None = None,
        instruction_ids: Tensor | None = None,
        instruction_mask: Tensor | None = None,
        **kwargs,
    ) -> "OmniOutput":
        """Hidden states (B, L, E) of a prompt with its clips, given as media (names in `MEDIA`) or as streams.

        `instruction_ids` and their mask are for mechanisms that are conditioned on what is asked.
        """
        media = {name: kwargs.pop(name) for name in MEDIA if name in kwargs}
        media = {name: value for name, value in media.items() if value is not None}
        if clip_features is None and media:
            streams = self.encode(**media)
            clip_features, clip_times = streams.features, streams.times
        aux: Tensor | float = 0.0
        if inputs_embeds is None:
            ids = torch.tensor(list(self.config.placeholders.values()), device=input_ids.device)
            places = torch.isin(input_ids, ids)  # which may lie beyond the vocabulary
            inputs_embeds = self.get_input_embeddings()(input_ids.masked_fill(places, 0))
            if clip_features is not None:
                asked = self.instruction(instruction_ids, instruction_mask)
                fused = self.fusion(clip_features, clip_times, asked)
                inputs_embeds, aux = self.merge(input_ids, inputs_embeds, fused), fused.aux
            elif bool(places.any()):
                raise ValueError(
                    "The prompt has clip placeholders but no clip was given: pass the processor's whole output."
                )
        out = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            **kwargs,
        )
        return OmniOutput(
            last_hidden_state=out.last_hidden_state,
            cache=out.cache,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
            aux_loss=aux if isinstance(aux, Tensor) else None,
        )


class OmniForConditionalGeneration(OmniPreTrainedModel, GenerationMixin):
    """The backbone with a language-model head."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}  # noqa: RUF012 (transformers' name)
    accepts_loss_kwargs = False  # its loss is a mean: the Trainer divides it by the steps of gradient accumulation
    calibration = Calibration()  # of its label probabilities; `load` reads that of the folder

    def __init__(self, config: OmniConfig):
        super().__init__(config)
        self.model = OmniModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        """The output head."""
        return self.lm_head

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache=None,
        inputs_embeds: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        video_times: Tensor | None = None,
        input_features: Tensor | None = None,
        audio_seconds: Tensor | None = None,
        prosody: Tensor | None = None,
        prosody_times: Tensor | None = None,
        clip_features: dict[str, Tensor] | None = None,
        clip_times: dict[str, Tensor] | None = None,
        instruction_ids: Tensor | None = None,
        instruction_mask: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        groups: Tensor | None = None,
        completion: int = 0,
        temperature: float = 1.0,
        entropy: bool = True,
        **kwargs,
    ) -> "OmniCausalLMOutput | ScoredCompletions":
        """Logits (B, L or logits_to_keep, vocabulary) and, with labels, the loss.

        A boolean mask (B, L) as `logits_to_keep` gives the logits of those places alone, (places, vocabulary).
        With `groups`, the log-probabilities of the last `completion` tokens of every row, prompts shared as in
        `OmniModel.completions`. This too stands in forward, which is what data-parallel wrappers know.
        The clip inputs are named one by one because `generate` checks keyword names against this signature.
        """
        if groups is not None:
            if input_ids is None or attention_mask is None:
                raise ValueError("Completions are scored by their ids: give input_ids and attention_mask with groups.")
            clips: dict = {"clip_features": clip_features, "clip_times": clip_times}
            clips |= {"instruction_ids": instruction_ids, "instruction_mask": instruction_mask}
            hidden, tree, aux = self.model.completions(input_ids, attention_mask, groups, completion, **clips)
            scores, spreads = score_tokens(hidden, self.lm_head, tree.token, temperature, entropy=entropy)
            mask = attention_mask[:, -completion:]
            spread = None if spreads is None else spreads[tree.node] * mask
            return ScoredCompletions(scores[tree.node] * mask, spread, aux)
        out = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            pixel_values_videos=pixel_values_videos,
            video_times=video_times,
            input_features=input_features,
            audio_seconds=audio_seconds,
            prosody=prosody,
            prosody_times=prosody_times,
            clip_features=clip_features,
            clip_times=clip_times,
            instruction_ids=instruction_ids,
            instruction_mask=instruction_mask,
            **kwargs,
        )
        hidden = out.last_hidden_state
        if isinstance(logits_to_keep, int):
            kept = hidden[:, -logits_to_keep:].contiguous()  # else the head is copied once for every row
            logits = self.lm_head(kept)
        else:
            logits = self.lm_head(hidden[logits_to_keep] if logits_to_keep.ndim == 2 else hidden[:, logits_to_keep])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.text_config.vocab_size)
            if out.aux_loss is not None:
                loss = loss + AUX * out.aux_loss
        return OmniCausalLMOutput(
            loss=loss,
            logits=logits,
            cache=out.cache,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
            aux_loss=out.aux_loss,
        )

    def _expand_inputs_for_generation(self, expand_size: int = 1, *args, **kwargs) -> tuple:
        """As in transformers, which repeats the rows of tensors, and for encoded clips those of dicts of tensors."""
        for name in ("clip_features", "clip_times"):
            if kwargs.get(name) is not None:
                kwargs[name] = {m: x.repeat_interleave(expand_size, 0) for m, x in kwargs[name].items()}
        return super()._expand_inputs_for_generation(expand_size, *args, **kwargs)

    def prepare_inputs_for_generation(self, *args, is_first_iteration: bool = False, **kwargs) -> dict:
        """Drop the clip after the prefill: it is in the keys and values."""
        if not is_first_iteration:
            for name in CLIP_INPUTS:
                kwargs.pop(name, None)
        return super().prepare_inputs_for_generation(*args, is_first_iteration=is_first_iteration, **kwargs)


@dataclass
class OmniOutput(BaseModelOutputWithPast):
    """What the backbone gives; `aux_loss` is the fusion adapter's, unweighted, None where it has none."""

    aux_loss: Tensor | None = None


@dataclass
class OmniCausalLMOutput(CausalLMOutputWithPast):
    """What the model gives; `aux_loss` is in `loss` already, with weight `AUX`."""

    aux_loss: Tensor | None = None


@dataclass
class ScoredCompletions(ModelOutput):
    """Log-probabilities of completion tokens and, if asked for, entropies of their distributions, (B, C).

    `aux_loss` is the fusion adapter's over the distinct prompts, unweighted, None where it has none.
    """

    log_probs: Tensor | None = None
    entropy: Tensor | None = None
    aux_loss: Tensor | None = None


def score_tokens(
    hidden: Tensor,
    head: nn.Module,
    ids: Tensor,
    temperature: float = 1.0,
    chunk: int = 256,
    entropy: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities (N,) of tokens, and entropies (N,), without ever holding the logits of all of them.

    A frozen head is run once: the slope of each log-probability in its own state is taken on the way forward, when the
    logits of a chunk are there, and is all that the backward pass needs. A head that learns is run again there.

    Args:
        hidden: states that predict the tokens, (N, E).
        head: the output head.
        ids: the tokens, (N,).
        temperature: logits are divided by it.
        chunk: tokens at once; much more, and memory is asked of the system anew for each.
        entropy: give entropies too, without gradient.
    """
    learns = any(weight.requires_grad for weight in head.parameters())
    slopes = torch.is_grad_enabled() and hidden.requires_grad and not learns

    def once(states: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        own = states.detach().requires_grad_(slopes)
        with torch.set_grad_enabled(slopes):
            raw = head(own)  # (chunk, V)
        scores, spread, pull = token_scores(raw.detach(), tokens, temperature, entropy=entropy, pull=slopes)
        if pull is not None:  # a token's score depends on its own state alone
            (slope,) = torch.autograd.grad(raw, own, pull)
            scores = scores + ((states - own.detach()) * slope).sum(-1).float()
        return scores, spread

    def again(states: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        logs = head(states).float().div(temperature).log_softmax(-1)
        scores = logs.gather(-1, tokens[:, None])[:, 0]
        return scores, -(logs.detach().exp() * logs.detach()).sum(-1) if entropy else None

    parts = zip(hidden.split(chunk), ids.split(chunk), strict=True)
    found = [checkpoint(again, *part, use_reentrant=False) if learns else once(*part) for part in parts]
    scores, spreads = zip(*found, strict=True)
    return torch.cat(scores), torch.cat(spreads) if entropy else None


@torch.no_grad()
def token_scores(
    raw: Tensor, tokens: Tensor, temperature: float, *, entropy: bool, pull: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Log-probabilities of tokens, entropies of their distributions, and the slopes of the former in the logits.

    With z = raw / temperature:  log p = z_t - log Σ exp z,  H = log Σ exp z - Σ p z,  d log p / d raw = (1_t - p) / T.
    In one float32 copy of the logits, which log_softmax and its backward pass would make several of.

    Args:
        raw: logits as the head gives them, (N, V).
        tokens: (N,).
        entropy: give entropies, (N,).
        pull: give slopes, (N, V) in the precision of `raw`.

    >>> raw = torch.tensor([[0.0, 1.0, 2.0]])
    >>> scores, spread, pull = token_scores(raw, torch.tensor([2]), 1.0, entropy=True, pull=True)
    >>> bool(torch.isclose(scores, raw.log_softmax(-1)[:, 2])), [round(x, 3) for x in pull[0].tolist()]
    (True, [-0.09, -0.245, 0.335])
    """
    z = raw.to(torch.float32, copy=True)
    if temperature != 1.0:
        z /= temperature
    z -= z.amax(-1, keepdim=True)
    place = tokens[:, None]
    own = z.gather(-1, place)  # (N, 1)
    odds = z.exp()
    total = odds.sum(-1, keepdim=True)
    spread = None
    if entropy:
        spread = (total.log() - torch.bmm(odds[:, None], z[:, :, None])[:, :, 0] / total)[:, 0]
    slope = None
    if pull:
        odds /= -temperature * total
        slope = odds.scatter_add_(-1, place, torch.full_like(own, 1 / temperature)).to(raw.dtype)
    return (own - total.log())[:, 0], spread, slope


AutoConfig.register("omni", OmniConfig)
AutoModel.register(OmniConfig, OmniModel)
AutoModelForCausalLM.register(OmniConfig, OmniForConditionalGeneration)
AutoModelForImageTextToText.register(OmniConfig, OmniForConditionalGeneration)
