"""Sampling many completions of a few clips, as fast as the processor allows: what a GRPO step spends most time on.

    prefill of U prompts ─► keys, values ─► copied to B completions ─► one token a step, with packed weights

A prompt is run once, however many completions it gets. On a processor, a step of `generate` is bound by products of
a few rows with every weight of the model, for which plain kernels unpack the weight anew each time; here each weight is
merged with its LoRA and laid out once for oneDNN. Rows that have ended leave the batch. On a GPU, or for decoders that
are not built like Llama, `can_roll_out` is False and the trainer calls `generate`.

Letters: `U` prompts, `B` completions, `P` prompt tokens, `S` sampled tokens, `H` heads, `K` key heads, `D` head size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, GenerationConfig

LLAMA_LIKE = ("llama", "qwen2")  # pre-norm, rotary, gated feed-forward, no norm of queries and keys


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        length: at most this many tokens.
        ends: token ids that end a completion; they are part of it.
        temperature: 0 takes the most probable token.
        top_k: draw from the most probable so many tokens; 0 from all.
        top_p: draw from the smallest set of tokens with this probability; 1 from all.
        never: token ids that are not drawn, such as the clip placeholder.
    """

    length: int
    ends: tuple[int, ...]
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    never: tuple[int, ...] = ()


def can_roll_out(model) -> bool:
    """Whether `roll_out` knows this decoder: on a processor, built like Llama, weights not quantised."""
    text = model.config.get_text_config()
    weights = (module.weight for module in model.modules() if isinstance(module, nn.Linear))
    return (
        model.device.type == "cpu"
        and text.model_type in LLAMA_LIKE
        and all(weight.is_floating_point() for weight in weights)
    )


class Prefilled(NamedTuple):
    """U prompts that were run: keys and values of their tokens, the hidden state after the last (U, E), mask (U, P)."""

    cache: DynamicCache
    hidden: Tensor
    mask: Tensor


@torch.no_grad()
def prefill(model, prompts: dict) -> Prefilled:
    """Run left-padded prompts, as the processor makes them."""
    model, mask = unwrapped(model), prompts["attention_mask"]
    cache = DynamicCache(config=model.config.get_text_config())
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    out = model.model(**prompts, position_ids=positions, past_key_values=cache, use_cache=True)
    return Prefilled(cache, out.last_hidden_state[:, -1], mask)


@torch.no_grad()
def roll_out(
    model,
    prompts: dict | Prefilled,
    copies: Sequence[int],
    sampling: Sampling,
    generator: torch.Generator | None = None,
) -> list[list[int]]:
    """Sample one completion for every entry of `copies`.

    Args:
        model: an `OmniForConditionalGeneration`, or a `PeftModel` around it, in eval mode.
        prompts: left-padded inputs of U prompts, as the processor makes them, or what `prefill` made of them.
        copies: for each of B completions, which prompt it continues.

    Returns:
        B lists of token ids, each ending with one of `sampling.ends` or cut at `sampling.length`.
    """
    model = unwrapped(model)
    cache, first, mask = prompts if isinstance(prompts, Prefilled) else prefill(model, prompts)
    rows = torch.tensor(list(copies))
    decoder = Decoder(model, [(layer.keys, layer.values) for layer in cache.layers], rows, mask, sampling.length)
    hidden = first[rows]  # (B, E)

    written: list[list[int]] = [[] for _ in rows]
    alive = torch.arange(len(rows))
    ends = torch.tensor(sampling.ends)
    for step in range(sampling.length):
        tokens = draw(decoder.head(hidden).float(), sampling, generator)  # (alive,)
        for row, token in zip(alive.tolist(), tokens.tolist(), strict=True):
            written[row].append(token)
        going = ~torch.isin(tokens, ends)
        if step + 1 == sampling.length or not bool(going.any()):
            break
        if int(going.sum()) <= 0.75 * len(going):  # copying the keys costs, so not for a single row
            decoder.keep(going)
            alive, tokens = alive[going], tokens[going]
        hidden = decoder.step(tokens)
    return [_cut(ids, sampling.ends) for ids in written]


@torch.no_grad()
def generate_shared(model, prompts: dict, copies: Sequence[int], config: GenerationConfig) -> list[list[int]]:
    """`roll_out` for any decoder and device: `generate`, with the prompts run once and their cache copied.

    Args:
        config: how to sample; the ids in its `eos_token_id` end a completion.
    """
    model = unwrapped(model)
    rows, mask = torch.tensor(list(copies), device=model.device), prompts["attention_mask"]
    cache = DynamicCache(config=model.config.get_text_config())
    head = {name: value for name, value in prompts.items() if name not in ("input_ids", "attention_mask")}
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    model.model(
        input_ids=prompts["input_ids"][:, :-1],  # generate runs the last token itself
        attention_mask=mask[:, :-1],
        position_ids=positions[:, :-1],
        past_key_values=cache,
        use_cache=True,
        **head,
    )
    cache.batch_select_indices(rows)
    out = model.generate(
        input_ids=prompts["input_ids"][rows],
        attention_mask=mask[rows],
        past_key_values=cache,
        generation_config=config,
    )
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    return [_cut(ids, ends) for ids in out[:, mask.shape[1] :].tolist()]


def unwrapped(model):
    """The omni model inside a `PeftModel`, its adapters in place."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _cut(ids: list[int], ends: Sequence[int]) -> list[int]:
    """Up to the first end; a row that stayed in the batch was written on after it."""
    stop = next((i + 1 for i, token in enumerate(ids) if token in ends), len(ids))
    return ids[:stop]


def draw(logits: Tensor, sampling: Sampling, generator: torch.Generator | None = None) -> Tensor:
    """Token ids (B,) from logits (B, V).

    >>> draw(torch.tensor([[0.0, 2.0, 1.0]]), Sampling(1, (), temperature=0, never=(1,)))
    tensor([2])
    """
    never = [token for token in sampling.never if token < logits.shape[-1]]  # the others have no logit
    if never:
        logits = logits.index_fill(-1, torch.tensor(never), -torch.inf)
    if sampling.temperature == 0:
        return logits.argmax(-1)
    logits = logits / sampling.temperature
    if sampling.top_k:
        logits = logits.masked_fill(logits < logits.topk(sampling.top_k).values[:, -1:], -torch.inf)
    if sampling.top_p < 1:
        ordered, order = logits.softmax(-1).sort(-1, descending=True)
        drop = ordered.cumsum(-1) - ordered >= sampling.top_p
        logits = logits.masked_fill(drop.scatter(-1, order, drop), -torch.inf)
    # by inversion, one number a row: `multinomial` draws one for every token of the vocabulary
    edges = logits.softmax(-1).cumsum(-1)
    at = torch.rand(len(edges), 1, generator=generator) * edges[:, -1:] * (1 - 1e-6)  # below the last edge when rounded
    return torch.searchsorted(edges, at, right=True)[:, 0]


class Decoder:
    """The decoder of a Llama-like model for one token a row at a time, its keys and values preallocated.

    Args:
        model: gives the weights; LoRA is merged into the copies made here.
        cache: keys and values (U, K, P, D) of every layer.
        rows: which prompt each of B rows continues, (B,).
        mask: 1 for tokens of the prompts, 0 for their padding, (U, P).
        length: tokens that will follow at most.
    """

    def __init__(self, model, cache: list[tuple[Tensor, Tensor]], rows: Tensor, mask: Tensor, length: int):
        language = model.model.language_model
        text = language.config
        self.heads, self.key_heads = text.num_attention_heads, text.num_key_value_heads
        self.size = getattr(text, "head_dim", None) or text.hidden_size // self.heads
        self.eps, self.rotary, self.embed = text.rms_norm_eps, language.rotary_emb, language.embed_tokens
        self.norm = language.norm.weight
        self.at = mask.shape[1]
        self.place = mask.sum(1)[rows]  # position of the next token, (B,)
        self.seen = F.pad(mask[rows].bool(), (0, length), value=True)  # (B, P + S)
        batch = len(rows)
        self.layers = [_Layer(layer, batch) for layer in language.layers]
        self.head = _Packed([model.get_output_embeddings()], batch)
        self.keys = [_room(keys, rows, length) for keys, _ in cache]
        self.values = [_room(values, rows, length) for _, values in cache]

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the rows only, (B,) bool."""
        self.place, self.seen = self.place[rows], self.seen[rows]
        self.keys = [x[rows] for x in self.keys]
        self.values = [x[rows] for x in self.values]

    def step(self, tokens: Tensor) -> Tensor:
        """Normed hidden states (B, E) after one more token in each row."""
        x = self.embed(tokens).to(self.norm.dtype)  # (B, E)
        cos, sin = self.rotary(x[:, None], self.place[:, None])  # (B, 1, D)
        past = torch.arange(self.seen.shape[1], device=x.device) <= self.at
        unseen = ~(self.seen & past)[:, None, None]  # (B, 1, 1, P + S)
        for layer, keys, values in zip(self.layers, self.keys, self.values, strict=True):
            mixed = layer.qkv(F.rms_norm(x, x.shape[-1:], layer.norm_in, self.eps))
            mixed = mixed.view(len(x), self.heads + 2 * self.key_heads, self.size)
            turned = rotate(mixed[:, : self.heads + self.key_heads], cos, sin)
            keys[:, :, self.at], values[:, :, self.at] = turned[:, self.heads :], mixed[:, -self.key_heads :]
            query = turned[:, : self.heads].view(len(x), self.key_heads, -1, self.size)  # (B, K, H / K, D)
            # products over all columns, the empty ones too: a slice would be copied, and sdpa takes three times as long
            scores = (query @ keys.transpose(-1, -2)).float() * self.size**-0.5
            read = scores.masked_fill(unseen, -torch.inf).softmax(-1).to(x.dtype) @ values
            x = x + layer.out(read.reshape(len(x), -1))
            gate, up = layer.gate_up(F.rms_norm(x, x.shape[-1:], layer.norm_mid, self.eps)).chunk(2, -1)
            x = x + layer.down(F.silu(gate) * up)
        self.at += 1
        self.place = self.place + 1
        return F.rms_norm(x, x.shape[-1:], self.norm, self.eps)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (arXiv 2104.09864) in Llama's halved layout; x (B, H, D), cos and sin (B, 1, D)."""
    left, right = x.chunk(2, -1)
    return x * cos + torch.cat([-right, left], -1) * sin


def _room(x: Tensor, rows: Tensor, length: int) -> Tensor:
    """Keys or values (U, K, P, D) of each row's prompt with room for what follows: (B, K, P + length, D)."""
    return F.pad(x[rows], (0, 0, 0, length))


class _Layer:
    def __init__(self, layer, batch: int):
        attention, feed = layer.self_attn, layer.mlp
        self.norm_in, self.norm_mid = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
        self.qkv = _Packed([attention.q_proj, attention.k_proj, attention.v_proj], batch)
        self.out = _Packed([attention.o_proj], batch)
        self.gate_up = _Packed([feed.gate_proj, feed.up_proj], batch)
        self.down = _Packed([feed.down_proj], batch)


class _Packed:
    """Some linear layers as one, merged with their LoRA and laid out for products of `batch` rows."""

    def __init__(self, modules: Sequence[nn.Module], batch: int):
        weight = torch.cat([merged(module) for module in modules])
        biases = [getattr(module, "base_layer", module).bias for module in modules]
        self.bias = None if biases[0] is None else torch.cat(biases)
        self.packed = packs(weight.dtype)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, batch) if self.packed else weight

    def __call__(self, x: Tensor) -> Tensor:
        if self.packed:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return F.linear(x, self.weight, self.bias)


def packs(dtype: torch.dtype) -> bool:
    """Whether this processor and build of torch gain from weights laid out in advance: with AVX-512."""
    return (
        dtype in (torch.bfloat16, torch.float32)
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and "AVX512" in torch.backends.cpu.get_cpu_capability()
    )


def merged(module: nn.Module) -> Tensor:
    """The weight of a linear layer with the LoRA that is switched on: W + scale · B A."""
    weight = getattr(module, "base_layer", module).weight
    active = [] if getattr(module, "disable_adapters", True) else module.active_adapters
    for name in active:
        if name in module.lora_A:
            weight = (weight.float() + module.get_delta_weight(name).float()).to(weight.dtype)
    return weight.detach().contiguous()
