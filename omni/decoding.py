"""Answers written a token at a time, in rows that join and leave: what chat and the server stand on.

    ids of a conversation ─► what of it was run before is kept, the rest is run ─► Ran
    Ran ─► a row of Rows ─► step: one more token in every row ─► the row leaves with its keys and values ─► Past

What was run of a conversation is found again by its ids: their longest common prefix. So a later turn runs its own
words alone, whatever was dropped or written in between, and the clip is never run twice.

A row that joins is laid right-aligned beside the others, unseen columns to its left; all rows write into the same next
column. On a processor, for decoders that are built like Llama, the packed weights of `rollout.Decoder` make a token
three times cheaper than plain products do; elsewhere `_Plain` calls the model.

Left out: pages of keys and values (as vLLM has them). Joining copies what is there, a few milliseconds for 16 rows.

Letters: `B` rows, `P` tokens of a row, `W` columns, `K` key heads, `D` head size, `E` the decoder's width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache

from .model import CLIP_INPUTS
from .rollout import Decoder, Sampling, can_roll_out, draw, unwrapped

ROOM = 128  # columns that are made at once for tokens to come
PACKED_FOR = 8  # rows that the layout of the weights is chosen for; others are as right
Layers = list[tuple[Tensor, Tensor]]  # keys and values of every layer


class Past(NamedTuple):
    """Tokens of a conversation that were run.

    Attributes:
        clip: names the clip whose tokens stand at the placeholders; ids alone do not tell one from another.
        ids: (P,)
        layers: keys and values, each (1, K, P, D).
    """

    clip: str
    ids: list[int]
    layers: Layers

    @property
    def size(self) -> int:
        """Bytes of the keys and values."""
        return sum(x.numel() * x.element_size() for pair in self.layers for x in pair)


class Ran(NamedTuple):
    """A prompt that was run: what is known now, the hidden state after its last token (1, E), tokens not run again."""

    past: Past
    hidden: Tensor
    reused: int


class Token(NamedTuple):
    """A token with its log-probability, and the most probable ones with theirs."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids two sequences have in common at their start.

    >>> shared([1, 2, 3], [1, 2, 4, 5]), shared([], [1])
    (2, 0)
    """
    same = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        same += 1
    return same


def best_past(pasts: Sequence[Past], clip: str, ids: Sequence[int]) -> Past | None:
    """The past of this clip that has most of the ids."""
    return max((p for p in pasts if p.clip == clip), key=lambda past: shared(past.ids, ids), default=None)


def cache_of(layers: Layers, length: int) -> DynamicCache:
    """The first `length` columns as a cache of transformers."""
    cache = DynamicCache()  # without a configuration: sliding layers keep all their keys too, and can be cut anywhere
    for index, (keys, values) in enumerate(layers):
        cache.update(keys[:, :, :length], values[:, :, :length], index)
    return cache


@torch.inference_mode()
def advance(model, inputs: dict, clip: str, past: Past | None = None) -> Ran:
    """Run a prompt, but for what of it is in `past`.

    Args:
        inputs: of one prompt, as the processor makes them.
        clip: names the clip of the prompt, as `Past.clip`.
    """
    model = unwrapped(model)
    ids = inputs["input_ids"][0].tolist()
    known = min(shared(ids, past.ids), len(ids) - 1) if past is not None and past.clip == clip else 0
    if set(ids[known:]) & set(model.config.placeholders.values()):
        known = 0  # the tokens of a clip are merged all at once
    cache = cache_of(past.layers, known) if past is not None and known else DynamicCache()
    media = {} if known else {name: inputs[name] for name in CLIP_INPUTS if name in inputs}
    out = model.model(
        input_ids=inputs["input_ids"][:, known:],
        attention_mask=inputs["attention_mask"],
        position_ids=torch.arange(known, len(ids), device=inputs["input_ids"].device)[None],
        cache=cache,
        use_cache=True,
        **media,
    )
    layers = [(layer.keys, layer.values) for layer in cache.layers]
    return Ran(Past(clip, ids, layers), out.last_hidden_state[:, -1], known)


@dataclass(eq=False)
class Row:
    """One answer being written.

    Attributes:
        past: the prompt; its keys and values are those of `Rows` by now.
        sampling: how its tokens are drawn.
        top: with each token, so many of the most probable; None for no log-probabilities at all.
        written: token ids so far; the last one has not been run.
        token: the last one, with its log-probability if it was asked for.
    """

    past: Past
    sampling: Sampling
    generator: torch.Generator
    top: int | None = None
    written: list[int] = field(default_factory=list)
    token: Token = field(default=Token(-1, 0.0))

    def take(self, logits: Tensor, greedy: int) -> None:
        """Choose the next token from its logits (V,); `greedy` is what a temperature of 0 takes."""
        drawn = greedy
        if self.sampling.temperature > 0:
            drawn = int(draw(logits[None], self.sampling, self.generator)[0])
        self.written.append(drawn)
        self.token = Token(drawn, 0.0)
        if self.top is not None:
            logs = logits.log_softmax(-1)
            values, ids = logs.topk(self.top) if self.top else (logs[:0], logs[:0])
            self.token = Token(drawn, float(logs[drawn]), tuple(zip(map(int, ids), map(float, values), strict=True)))


class Rows:
    """Rows that are written together.

    Args:
        model: an `OmniForConditionalGeneration`, or a `PeftModel` around it, in eval mode.
        plain: do without packed weights.
    """

    def __init__(self, model, *, plain: bool = False):
        self.model = unwrapped(model)
        self.rows: list[Row] = []
        self.decoder: Decoder | _Plain | None = None
        self.plain = plain or not can_roll_out(self.model)
        known = self.model.lm_head.weight.shape[0]  # placeholders may lie beyond: they have no logit then
        self.never = torch.tensor([t for t in self.model.config.placeholders.values() if t < known], dtype=torch.long)

    def __len__(self) -> int:
        return len(self.rows)

    @torch.inference_mode()
    def join(self, ran: Ran, sampling: Sampling, *, seed: int = 0, top: int | None = None) -> Row:
        """A new row, which has its first token at once."""
        if self.decoder is None:
            self.decoder = _Plain(self.model) if self.plain else Decoder(self.model, PACKED_FOR)
        row = Row(ran.past, sampling, torch.Generator().manual_seed(seed), top)
        self._draw([row], ran.hidden)
        _lay_beside(self.decoder, ran.past, len(self.rows))
        self.rows.append(row)
        return row

    @torch.inference_mode()
    def step(self) -> None:
        """One more token in every row."""
        decoder = self.decoder
        assert decoder is not None, "a row joins before a step is made"
        if decoder.at == decoder.keys[0].shape[2]:
            decoder.keys, decoder.values = ([F.pad(x, (0, 0, 0, ROOM)) for x in xs] for xs in _state(decoder))
            decoder.seen = F.pad(decoder.seen, (0, ROOM), value=True)
        tokens = torch.tensor([row.token.id for row in self.rows], device=self.model.device)
        self._draw(self.rows, decoder.step(tokens))

    @torch.inference_mode()
    def leave(self, row: Row) -> Past:
        """Take a row out. What it ran: its prompt and all that it wrote but for the last token."""
        decoder, at = self.decoder, self.rows.index(row)
        assert decoder is not None
        columns = slice(decoder.at - int(decoder.place[at]), decoder.at)
        pairs = zip(*_state(decoder), strict=True)
        layers = [tuple(x[at : at + 1, :, columns].clone() for x in pair) for pair in pairs]
        decoder.keep(torch.arange(len(self.rows), device=decoder.place.device) != at)
        del self.rows[at]
        return Past(row.past.clip, row.past.ids + row.written[:-1], layers)

    def _draw(self, rows: Sequence[Row], hidden: Tensor) -> None:
        """The next token of each row from its hidden state, (B, E)."""
        assert self.decoder is not None
        logits = self.decoder.head(hidden).float().cpu().index_fill(-1, self.never, -torch.inf)  # (B, V)
        for row, own, greedy in zip(rows, logits, logits.argmax(-1).tolist(), strict=True):
            row.take(own, greedy)


def _state(decoder) -> tuple[list[Tensor], list[Tensor]]:
    return decoder.keys, decoder.values


def _lay_beside(decoder, past: Past, count: int) -> None:
    """Give a decoder of `count` rows one more; all end at the same column, and nothing lies left of the longest."""
    longest = int(decoder.place.max()) if count else 0
    end = max(longest, len(past.ids))

    def placed(rows: Tensor, new: Tensor) -> Tensor:
        old = F.pad(rows[:, :, decoder.at - longest : decoder.at], (0, 0, end - longest, ROOM))
        return torch.cat([old, F.pad(new, (0, 0, end - len(past.ids), ROOM))])

    if count:
        decoder.keys = [placed(rows, new) for rows, (new, _) in zip(decoder.keys, past.layers, strict=True)]
        decoder.values = [placed(rows, new) for rows, (_, new) in zip(decoder.values, past.layers, strict=True)]
    else:
        decoder.keys = [F.pad(keys, (0, 0, 0, ROOM)) for keys, _ in past.layers]
        decoder.values = [F.pad(values, (0, 0, 0, ROOM)) for _, values in past.layers]
    device = past.layers[0][0].device
    decoder.place = torch.cat([decoder.place[:count], torch.tensor([len(past.ids)])]).to(device)
    decoder.seen = torch.arange(end + ROOM, device=device) >= (end - decoder.place)[:, None]  # (B, W)
    decoder.at = end


class _Plain:
    """`rollout.Decoder` for any decoder and device, by calls of the model; its attributes mean the same."""

    def __init__(self, model):
        self.model, self.head, self.at = model, model.lm_head, 0
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.place = torch.zeros(0, dtype=torch.long)
        self.seen = torch.zeros(0, 0, dtype=torch.bool)

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the rows only, (B,) bool."""
        self.place, self.seen = self.place[rows], self.seen[rows]
        self.keys, self.values = [x[rows] for x in self.keys], [x[rows] for x in self.values]

    def step(self, tokens: Tensor) -> Tensor:
        """Normed hidden states (B, E) after one more token in each row."""
        end = self.at + 1
        cache = cache_of(list(zip(self.keys, self.values, strict=True)), self.at)
        where = {"attention_mask": self.seen[:, :end].long(), "position_ids": self.place[:, None]}
        out = self.model.model(input_ids=tokens[:, None], cache=cache, use_cache=True, **where)
        for layer, keys, values in zip(cache.layers, self.keys, self.values, strict=True):
            keys[:, :, self.at], values[:, :, self.at] = layer.keys[:, :, -1], layer.values[:, :, -1]
        self.at, self.place = end, self.place + 1
        return out.last_hidden_state[:, 0]
