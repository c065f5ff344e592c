"""Sampling many completions of a few clips, as fast as the processor allows: what a GRPO step spends most time on.

    prefill of U prompts ─► keys, values ─► N beginnings ─► one token a step, with packed weights ─► B completions

A prompt is run once, however many completions it gets, and so is every beginning that completions have in common: those
that agree so far are one row, which parts where they draw different tokens. A policy that has learnt its format and is
sure of most answers writes sixteen bare labels as one or two rows. The draws are the same as from rows apart, since the
state depends on the tokens alone. Rows that have ended leave.

On a processor, a step of `generate` is bound by products of a few rows with every weight of the model, for which plain
kernels unpack the weight anew each time; here each weight is merged with its LoRA and laid out once for oneDNN. On a
GPU, or for decoders that are not built like Llama, `can_roll_out` is False and the trainer calls `generate`.

Letters: `U` prompts, `B` completions, `N` rows, `P` prompt tokens, `S` sampled tokens, `V` words, `H` heads, `K` key
heads, `D` head size, `E` the decoder's width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, GenerationConfig

from .shared_prompt import SharedPrompts

GREEDY_BELOW = 1e-5  # a temperature at which the most probable token is as good as certain
LLAMA_LIKE = ("llama", "qwen2")  # pre-norm, rotary, gated feed-forward, no norm of queries and keys


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        length: at most this many tokens.
        ends: token ids that end a completion; they are part of it.
        temperature: 0, or less than `GREEDY_BELOW`, takes the most probable token.
        top_k: draw from the most probable so many tokens; 0 from all.
        top_p: draw from the smallest set of tokens with this probability; 1 from all.
        min_p: draw from tokens with this share of the most probable one's probability (arXiv 2407.01082); 0 from all.
        never: token ids that are not drawn, such as the clip placeholder.
    """

    length: int
    ends: tuple[int, ...]
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
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
    out = model.model(**prompts, position_ids=positions, cache=cache, use_cache=True)
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
    prompts = prompts if isinstance(prompts, Prefilled) else prefill(model, prompts)
    alive, row = torch.arange(len(copies)), torch.tensor(list(copies))  # completions, and the row that each is in
    decoder = Branches(model, prompts, len(row), sampling.length)
    hidden = prompts.hidden  # (U, E)

    written: list[list[int]] = [[] for _ in copies]
    ends = torch.tensor(sampling.ends)
    for step in range(sampling.length):
        tokens = draw(decoder.head(hidden).float(), sampling, generator, row)  # (alive,)
        for completion, token in zip(alive.tolist(), tokens.tolist(), strict=True):
            written[completion].append(token)
        going = ~torch.isin(tokens, ends)
        if step + 1 == sampling.length or not bool(going.any()):
            break
        alive, pairs = alive[going], torch.stack([row[going], tokens[going]], 1)
        pairs, row = pairs.unique(dim=0, return_inverse=True)  # in the order of the rows, so prompts stay together
        decoder.keep(pairs[:, 0])
        hidden = decoder.step(pairs[:, 1])
    return written


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
    model(  # by its own forward, whose hooks gather the weights where they are shared out
        input_ids=prompts["input_ids"][:, :-1],  # generate runs the last token itself
        attention_mask=mask[:, :-1],
        position_ids=positions[:, :-1],
        cache=cache,
        use_cache=True,
        logits_to_keep=1,
        **head,
    )
    cache.batch_select_indices(rows)
    out = model.generate(
        input_ids=prompts["input_ids"][rows],
        attention_mask=mask[rows],
        cache=cache,
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


def draw(
    logits: Tensor, sampling: Sampling, generator: torch.Generator | None = None, row: Tensor | None = None
) -> Tensor:
    """Token ids (B,) from logits (N, V).

    Args:
        row: which row of the logits each of B tokens is drawn from; by default one from every row.

    >>> draw(torch.tensor([[0.0, 2.0, 1.0]]), Sampling(1, (), temperature=0, never=(1,)))
    tensor([2])
    """
    count, words = logits.shape
    row = torch.arange(count) if row is None else row
    never = [token for token in sampling.never if token < words]  # the others have no logit
    if never:
        logits = logits.index_fill(-1, torch.tensor(never), -torch.inf)
    if sampling.temperature < GREEDY_BELOW:
        return logits.argmax(-1)[row]
    logits = (logits - logits.amax(-1, keepdim=True)) / sampling.temperature
    if sampling.top_k:
        logits = logits.masked_fill(logits < logits.topk(sampling.top_k).values[:, -1:], -torch.inf)
    if sampling.top_p < 1:
        ordered, order = logits.softmax(-1).sort(-1, descending=True)
        drop = ordered.cumsum(-1) - ordered >= sampling.top_p
        logits = logits.masked_fill(drop.scatter(-1, order, drop), -torch.inf)
    if sampling.min_p:
        least = logits.amax(-1, keepdim=True) + math.log(sampling.min_p)
        logits = logits.masked_fill(logits < least, -torch.inf)
    # by inversion, one number a token: `multinomial` draws one for every word; row n's edges lie above 2 n
    edges = logits.softmax(-1).cumsum(-1, dtype=torch.float64)
    share = torch.rand(len(row), generator=generator, dtype=torch.float64) * (1 - 1e-12)  # below the last edge
    at = share * edges[row, -1] + 2 * row
    found = torch.searchsorted(edges.add_(2 * torch.arange(count)[:, None]).flatten(), at, right=True) - row * words
    return found.clamp(max=words - 1)  # beyond lies what NaN gives


class Decoder:
    """The decoder of a Llama-like model for one token a row at a time, in N rows with keys and values of their own.

    Args:
        model: gives the weights; LoRA is merged into the copies made here.
        batch: number of rows that the weights are laid out for; others are as right.

    Attributes:
        keys, values: of every layer, (N, K, W, D), with room for tokens to come; whoever makes rows fills them.
        at: the column that the next token is written to.
        place: position of the next token, (N,).
        seen: which columns a row sees as soon as they are written, (N, W).
    """

    def __init__(self, model, batch: int):
        language = model.model.language_model
        text = language.config
        self.heads, self.key_heads = text.num_attention_heads, text.num_key_value_heads
        self.size = getattr(text, "head_dim", None) or text.hidden_size // self.heads
        self.eps, self.rotary, self.embed = text.rms_norm_eps, language.rotary_emb, language.embed_tokens
        self.norm = language.norm.weight
        self.layers = [_Layer(layer, batch) for layer in language.layers]
        self.head = _Packed([model.get_output_embeddings()], batch)
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.at = 0
        self.place = torch.zeros(0, dtype=torch.long)
        self.seen = torch.zeros(0, 0, dtype=torch.bool)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows: (N,) bool, or their numbers, of which some may come twice."""
        self.place, self.seen = self.place[rows], self.seen[rows]
        self.keys = [x[rows] for x in self.keys]
        self.values = [x[rows] for x in self.values]

    def step(self, tokens: Tensor) -> Tensor:
        """Normed hidden states (N, E) after one more token in each row."""
        x = self.embed(tokens).to(self.norm.dtype)  # (N, E)
        cos, sin = self.rotary(x[:, None], self.place[:, None])  # (N, 1, D)
        unseen = self.unseen()
        for number, layer in enumerate(self.layers):
            keys, values = self.keys[number], self.values[number]
            mixed = layer.qkv(F.rms_norm(x, x.shape[-1:], layer.norm_in, self.eps))
            mixed = mixed.view(len(x), self.heads + 2 * self.key_heads, self.size)
            turned = rotate(mixed[:, : self.heads + self.key_heads], cos, sin)
            keys[:, :, self.at], values[:, :, self.at] = turned[:, self.heads :], mixed[:, -self.key_heads :]
            x = x + layer.out(self.read(turned[:, : self.heads], number, unseen).reshape(len(x), -1))
            gate, up = layer.gate_up(F.rms_norm(x, x.shape[-1:], layer.norm_mid, self.eps)).chunk(2, -1)
            x = x + layer.down(F.silu(gate) * up)
        self.at += 1
        self.place = self.place + 1
        return F.rms_norm(x, x.shape[-1:], self.norm, self.eps)

    def unseen(self) -> Tensor:
        """What rows do not see while the next token is run, (N, 1, 1, W)."""
        written = torch.arange(self.seen.shape[1], device=self.seen.device) <= self.at
        return ~(self.seen & written)[:, None, None]

    def read(self, query: Tensor, layer: int, unseen: Tensor) -> Tensor:
        """What queries (N, H, D) read of what their rows see in a layer."""
        keys, values = self.keys[layer], self.values[layer]
        query = query.view(len(query), self.key_heads, -1, self.size)  # (N, K, H / K, D)
        # products over all columns, the empty ones too: a slice would be copied, and sdpa takes three times as long
        scores = (query @ keys.transpose(-1, -2)).float() * self.size**-0.5
        return scores.masked_fill(unseen, -torch.inf).softmax(-1).to(query.dtype) @ values


class Branches(Decoder):
    """Rows that go on from a few prompts, whose keys and values they share (`shared_prompt.py`).

    At first there is a row to each prompt; `keep` says which rows there are next, those of a prompt side by side.

    Args:
        prompts: U prompts that were run.
        length: tokens that will follow at most.
    """

    def __init__(self, model, prompts: Prefilled, batch: int, length: int):
        super().__init__(model, batch)
        layers = [(layer.keys, layer.values) for layer in prompts.cache.layers]
        self.shared = SharedPrompts(layers, prompts.mask, torch.arange(len(prompts.mask)))
        self.mask, self.place, self.length = prompts.mask, prompts.mask.sum(1), length
        self.seen = torch.ones(len(prompts.mask), 0, dtype=torch.bool)  # nothing is hidden from a row
        self.keys, self.values = ([x[:, :, :0] for x in xs] for xs in zip(*layers, strict=True))

    def keep(self, rows: Tensor) -> None:
        """Go on with rows of these numbers, of which some may come twice."""
        if not torch.equal(rows, torch.arange(len(self.place))):
            super().keep(rows)
            self.shared = SharedPrompts(self.shared.layers, self.mask, self.shared.groups[rows])

    def step(self, tokens: Tensor) -> Tensor:
        """Normed hidden states (N, E) after one more token in each row."""
        if self.at == self.keys[0].shape[2]:  # a little room at a time, since `keep` copies it
            room = min(max(8, self.at), self.length - self.at)
            self.keys, self.values = ([F.pad(x, (0, 0, 0, room)) for x in xs] for xs in (self.keys, self.values))
        return super().step(tokens)

    def unseen(self) -> Tensor:
        """What rows do not see of their prompts and of what they wrote, (N, 1, 1, P + W)."""
        empty = torch.arange(self.keys[0].shape[2]) > self.at  # (W,)
        hidden = self.shared.padding[self.shared.groups]  # (N, P)
        return torch.cat([hidden, empty.expand(len(hidden), -1)], 1)[:, None, None]

    def read(self, query: Tensor, layer: int, unseen: Tensor) -> Tensor:
        """What queries (N, H, D) read of their prompts and of what was written since."""
        (keys, values), (of_prompt, value_of_prompt) = (self.keys[layer], self.values[layer]), self.shared.layers[layer]
        query = query.view(len(query), self.key_heads, -1, self.size) * self.size**-0.5  # (N, K, H / K, D)
        before = self.shared.rows(times(self.shared.grouped(query), of_prompt.transpose(-1, -2)))  # (N, K, H / K, P)
        scores = torch.cat([before, query @ keys.transpose(-1, -2)], -1).float()
        weights = scores.masked_fill_(unseen, -torch.inf).softmax(-1).to(query.dtype)
        here, own = weights.split([of_prompt.shape[2], keys.shape[2]], -1)
        return self.shared.rows(times(self.shared.grouped(here), value_of_prompt)) + own @ values


def times(rows: Tensor, shared: Tensor) -> Tensor:
    """Products of all rows (U, G, K, r, X) of a prompt with what they share, (U, K, X, Y): (U, G, K, r, Y)."""
    rows = rows.transpose(1, 2)  # (U, K, G, r, X)
    return (rows.flatten(2, 3) @ shared).unflatten(2, rows.shape[2:4]).transpose(1, 2)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (arXiv 2104.09864) in Llama's halved layout; x (B, H, D), cos and sin (B, 1, D)."""
    left, right = x.chunk(2, -1)
    return x * cos + torch.cat([-right, left], -1) * sin


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
