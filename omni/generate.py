"""A clip and a question in, an `Answer` out: the one way from media to text.

    prompt -> greedy (or sampled) text -> parse_answer
    p(label | clip, question)  ∝ exp Σ_t log p(token_t of "label</answer>" | prompt, "<answer>")         how likely
    label: the one that is written after the thought                                                    which

Label probabilities are scores of the whole label space, not sampled text: the prompt is run once for the text and the
scores, the continuations of all labels share its keys and values and those of the thought that was written, and each is
scored to its closing tag, so that a long label is not favoured or punished for its length.

The thought decides which label is given; how likely it is, is asked before the thought. After it nearly every label is
certain, also the wrong ones (docs/results.md). Where the two disagree the label has a low probability, as it should:
these clips go to a human first. Where no label of the space is written, it is the most probable one after the thought.
Without a thought it is the most probable one. The model's temperature (`calibration.py`) is applied in `rate_labels`.

`reason_batch` and `stream` are callers of the same few functions; chat, labelling, server and evaluation call these.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, TextIteratorStreamer

from .answer import TAG, Answer, Parsed, format_answer, parse_answer
from .clip import Clip
from .decoding import Past, Ran, Rows, shared
from .emotions import EKMAN7, LabelSpace, canonical, label_space
from .errors import ModelError
from .evidence import evidence_of
from .features import ClipFeatures, encode_clips, to_device
from .looks import Looks, looks_of
from .rollout import GREEDY_BELOW, Prefilled, Sampling, can_roll_out, prefill, unwrapped

MAX_NEW_TOKENS = 160  # the longest taught answer has about 110
TOGETHER = 16  # answers that a processor writes at once; one that ends makes room for the next
SOURCES = str | Path | Clip | ClipFeatures
LABEL_AT = format_answer("x").removesuffix("x</answer>")  # after which labels are scored where nothing was thought


class Written(NamedTuple):
    """The ids of a prompt, and what was run of it and of the text written after it."""

    prompt: list[int]
    past: Past


class Rated(NamedTuple):
    """The label of an answer, and {label: probability} of all before its thought, at the model's temperature."""

    label: str
    labels: dict[str, float]


def reason(model, processor, clip: SOURCES, question: str | None = None, **options) -> Answer:
    """Answer one question about one clip; options as in `reason_batch`."""
    return reason_batch(model, processor, [clip], question=question, **options)[0]


@torch.inference_mode()
def reason_batch(
    model,
    processor,
    clips: Sequence[SOURCES],
    *,
    question: str | None = None,
    labels: LabelSpace | Sequence[str] | str = EKMAN7,
    think: bool = True,
    constrain: bool = False,
    max_new_tokens: int = MAX_NEW_TOKENS,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[Answer]:
    """Answer one question about each of B clips.

    Args:
        clips: paths, `Clip`s or encoded `ClipFeatures`.
        question: None asks the model's own question.
        labels: the label space over which probabilities are given.
        think: ask for the reasons before the answer.
        constrain: end every answer with the best label in its tags, even where the model's own text is malformed;
            `text` is then what was constrained, never silently.
        temperature: 0 is greedy; above 0 the text is sampled with `seed`.

    Returns:
        One `Answer` a clip, in order. `label` is what the thought leads to, `labels` are the probabilities before it.

    Raises:
        ModelError: if the model puts out NaN.
    """
    space = label_space(labels)
    encoded = as_features(model, processor, clips)
    texts = [ask_text(processor, clip, question, space, think) for clip in encoded]
    inputs = build_inputs(model, processor, encoded, texts)
    encoded, looks = warned(model, encoded, inputs), looks_of(model, inputs)
    prompts = prefill(model, inputs)
    sampling = Sampling(max_new_tokens, (processor.tokenizer.eos_token_id,), temperature)
    texts, known = _write(model, processor, inputs, prompts, sampling, seed)
    parsed = [parse_answer(text) for text in texts]
    heads = [answer_head(p, text, think) for p, text in zip(parsed, texts, strict=True)]
    rated = rate_labels(model, processor, known, heads, parsed, space, think)
    return [
        answer_of(clip, text, head, p, scores, space, look, constrain)
        for clip, text, head, p, scores, look in zip(encoded, texts, heads, parsed, rated, looks, strict=True)
    ]


def stream(
    model,
    processor,
    clip: SOURCES,
    question: str | None = None,
    *,
    labels=EKMAN7,
    think: bool = True,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> Iterator[str]:
    """Yield the text of `reason` piece by piece as it is written."""
    encoded = as_features(model, processor, [clip])[0]
    inputs = build_inputs(
        model, processor, [encoded], [ask_text(processor, encoded, question, label_space(labels), think)]
    )
    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    failure: list[BaseException] = []

    def write() -> None:
        try:
            model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, streamer=streamer)
        except BaseException as err:  # raised again in the caller's thread
            failure.append(err)
            streamer.end()

    thread = Thread(target=write, daemon=True)
    thread.start()
    yield from (piece for piece in streamer if piece)
    thread.join()
    if failure:
        raise failure[0]


def as_features(model, processor, clips: Sequence[SOURCES]) -> list[ClipFeatures]:
    """Whatever the caller has of each clip, as the streams of its towers."""
    read = [clip if isinstance(clip, Clip | ClipFeatures) else processor.read(clip) for clip in clips]
    encoded = iter(encode_clips(model, processor, [clip for clip in read if isinstance(clip, Clip)]))
    return [next(encoded) if isinstance(clip, Clip) else clip for clip in read]


def warned(model, clips: Sequence[ClipFeatures], inputs: dict) -> list[ClipFeatures]:
    """The clips, with a warning on those whose face is so unlike the training set that its detail is left aside.

    Args:
        inputs: the clips as `build_inputs` put them together.
    """
    strange = unwrapped(model).model.fusion.unfamiliar(inputs["clip_features"], inputs["clip_times"])
    hits = [any(bool(flags[i]) for flags in strange.values()) for i in range(len(clips))]
    return [
        replace(clip, warnings=(*clip.warnings, "unfamiliar_face")) if hit else clip
        for clip, hit in zip(clips, hits, strict=True)
    ]


def ask_text(processor, clip: ClipFeatures, question: str | None, space: LabelSpace, think: bool) -> str:
    """The text of the user turn for one clip."""
    return processor.prompt(question, space, think=think, modalities=clip.modalities, transcript=clip.transcript)


def build_inputs(model, processor, clips: Sequence[ClipFeatures], texts: Sequence[str]) -> dict:
    """Left-padded model inputs for B prompts."""
    device = next(model.parameters()).device
    return {k: to_device(v, device) for k, v in processor.ask(clips, texts).items()}


def _write(
    model, processor, inputs: dict, prompts: Prefilled, sampling: Sampling, seed: int
) -> tuple[list[str], Prefilled | list[Written]]:
    """The text of every row, and what was run of it, for `rate_labels`."""
    tokenizer = processor.tokenizer
    known: Prefilled | list[Written] = prompts
    if can_roll_out(model):
        written = _write_in_rows(model, inputs, prompts, sampling, seed)
        rows, known = [ids for ids, _ in written], [run for _, run in written]
    else:
        how: dict = {"do_sample": False}
        if sampling.temperature >= GREEDY_BELOW:
            how = {"do_sample": True, "temperature": sampling.temperature, "top_k": 0}
            torch.manual_seed(seed)
        out = model.generate(**inputs, max_new_tokens=sampling.length, pad_token_id=tokenizer.pad_token_id, **how)
        rows = out[:, inputs["input_ids"].shape[1] :].tolist()
    return [text.strip() for text in tokenizer.batch_decode(rows, skip_special_tokens=True)], known


def _write_in_rows(
    model, inputs: dict, prompts: Prefilled, sampling: Sampling, seed: int
) -> list[tuple[list[int], Written]]:
    """Token ids of B answers and what was run of each, `TOGETHER` of them written at a time.

    Each is sampled with a generator of its own, so that it does not depend on what it is written beside.
    """
    rows, active, done = Rows(model), {}, {}
    waiting = deque(range(len(prompts.mask)))
    while waiting or active:
        while waiting and len(active) < TOGETHER:
            place = waiting.popleft()
            active[rows.join(_ran(inputs, prompts, place), sampling, seed=seed)] = place
        for row in [row for row in active if row.written[-1] in sampling.ends or len(row.written) == sampling.length]:
            done[active.pop(row)] = row.written, Written(row.past.ids, rows.leave(row))
        if active:
            rows.step()
    return [done[place] for place in range(len(done))]


def _ran(inputs: dict, prompts: Prefilled, index: int) -> Ran:
    """One of the prompts that were run together, without its padding."""
    own = inputs["input_ids"][index][prompts.mask[index].bool()].tolist()
    layers = [
        (layer.keys[index : index + 1, :, -len(own) :], layer.values[index : index + 1, :, -len(own) :])
        for layer in prompts.cache.layers
    ]
    return Ran(Past("", own, layers), prompts.hidden[index : index + 1], 0)


def answer_head(parsed: Parsed, text: str, think: bool) -> str:
    """The start of an answer up to its opening tag, after which labels are scored: the thought as it was written.

    >>> answer_head(Parsed("happy", "A smile.", True), "", True)
    '<think>A smile.</think>\\n<answer>'
    """
    thought = parsed.thought or (TAG.sub(" ", text.split("<answer>")[0]) if think else "")
    return format_answer("x", thought).removesuffix("x</answer>")


def rate_labels(
    model,
    processor,
    prompts: Prefilled | Sequence[Written],
    heads: Sequence[str],
    parsed: Sequence[Parsed],
    space: LabelSpace,
    think: bool,
) -> list[Rated]:
    """The label that each of B answers gives, and how likely all labels are.

    Args:
        heads: the start of each answer up to the label, as of `answer_head`.
        parsed: each answer taken apart.
        think: whether the prompts ask for a thought, which decides the temperature.
    """
    scores = score_labels(model, processor, prompts, [LABEL_AT] * len(heads), space, temperature_of(model, think))
    best = [max(one, key=one.__getitem__) for one in scores]
    thought = [i for i, head in enumerate(heads) if head != LABEL_AT]
    written = {i: canonical(parsed[i].label or "", space) for i in thought}
    if None in written.values():
        after = score_labels(model, processor, prompts, heads, space)
        written = {i: label or max(after[i], key=after[i].__getitem__) for i, label in written.items()}
    return [Rated(written.get(i) or best[i], labels) for i, labels in enumerate(scores)]


def temperature_of(model, think: bool) -> float:
    """That of the model's label probabilities, where a thought is asked for or not."""
    return unwrapped(model).calibration.of("think" if think else "no-think")


@torch.inference_mode()
def score_labels(
    model,
    processor,
    prompts: dict | Prefilled | Sequence[Written],
    heads: Sequence[str],
    space: LabelSpace,
    temperature: float = 1.0,
) -> list[dict[str, float]]:
    """Probability of every label of the space after each prompt and head.

    All labels are run at once, as branches after the head: each sees the prompt, the head and itself. The head of the
    model runs only where a token of a label is predicted.

    Args:
        prompts: B prompts as `build_inputs` makes them; what `prefill` made of them; or with what was written after
            them, of which the head is run only where it differs.
        heads: what stands before the label, one a prompt, such as "<answer>".
        temperature: by which the logarithms are divided; see `temperature_of`.

    Returns:
        One {label: probability} a clip; probabilities sum to one.

    Raises:
        ModelError: if the model puts out NaN.
    """
    model, tokenizer = unwrapped(model), processor.tokenizer
    begun = [tokenizer(head, add_special_tokens=False).input_ids for head in heads]
    prompts = prefill(model, prompts) if isinstance(prompts, dict) else prompts
    if isinstance(prompts, Prefilled):
        cache, mask = prompts.cache, prompts.mask
    else:
        cache, mask, begun = _reused(prompts, begun)
    tree = _tree([tokenizer(f"{label}</answer>", add_special_tokens=False).input_ids for label in space.labels])
    start, real = _right_padded(begun, tokenizer.pad_token_id, mask.device)  # (B, H)
    batch, head = start.shape
    ids = torch.cat([start, tree.ids.to(mask.device).expand(batch, -1)], 1)  # (B, H + Q)
    depth = torch.cat([real.cumsum(1) - 1, real.sum(1, keepdim=True) + tree.depth.to(mask.device)], 1)
    at = mask.sum(1, keepdim=True) + depth

    sees = torch.cat([mask.bool()[:, None].expand(-1, ids.shape[1], -1), _sees(tree, real.bool())], 2)[:, None]
    hidden = model.model(ids, _additive(sees, model.dtype), at, cache, use_cache=True).last_hidden_state
    cache.crop(-ids.shape[1])  # that of `prefill` may be used again
    before = hidden[torch.arange(batch, device=mask.device), real.sum(1) - 1]  # (B, E)
    logits = model.lm_head(torch.cat([before[:, None], hidden[:, head:]], 1)).float()  # (B, 1 + Q, V)
    if not bool(torch.isfinite(logits).all()):
        raise ModelError(
            "The model put out NaN or infinity. Load it with dtype bfloat16 or float32 (float16 overflows).",
            code="nan",
        )
    steps = logits.log_softmax(-1)[:, tree.source, tree.token]  # (B, N)
    sums = torch.zeros(batch, len(space.labels)).index_add(1, tree.label, steps.cpu())
    return [dict(zip(space.labels, map(float, row), strict=True)) for row in (sums / temperature).softmax(-1)]


class _Tree(NamedTuple):
    """Labels as branches that grow from one place. Q tokens are run, N are predicted, from the place or from a token.

    Attributes:
        ids: of the tokens that are run: all of each label but its last, (Q,).
        branch: the label of each, (Q,).
        depth: its place in the label, (Q,).
        source: where each token of each label is predicted: 0 is the place before the labels, 1 + q a token, (N,).
        token: that token, (N,).
        label: its label, (N,).
    """

    ids: Tensor
    branch: Tensor
    depth: Tensor
    source: Tensor
    token: Tensor
    label: Tensor


def _tree(labels: Sequence[Sequence[int]]) -> _Tree:
    """
    >>> [part.tolist() for part in _tree([[7, 8], [5]])]
    [[7], [0], [0], [0, 1, 0], [7, 8, 5], [0, 0, 1]]
    """
    run = [(number, depth) for number, ids in enumerate(labels) for depth in range(len(ids) - 1)]
    place = {node: 1 + index for index, node in enumerate(run)}
    told = [(number, depth) for number, ids in enumerate(labels) for depth in range(len(ids))]
    columns = (
        [labels[number][depth] for number, depth in run],
        [number for number, _ in run],
        [depth for _, depth in run],
        [place[number, depth - 1] if depth else 0 for number, depth in told],
        [labels[number][depth] for number, depth in told],
        [number for number, _ in told],
    )
    return _Tree(*(torch.tensor(column, dtype=torch.long) for column in columns))


def _sees(tree: _Tree, real: Tensor) -> Tensor:
    """Which of a head's and the labels' tokens each of them sees, (B, H + Q, H + Q).

    Args:
        real: tokens of the head that are no padding, (B, H).
    """
    batch, head = real.shape
    branch, depth = (x.to(real.device) for x in (tree.branch, tree.depth))
    own = (branch[:, None] == branch) & (depth[:, None] >= depth)  # (Q, Q)
    past = torch.ones(head, head, dtype=torch.bool, device=real.device).tril() & real[:, None]
    upper = torch.cat([past, past.new_zeros(batch, head, len(branch))], 2)
    lower = torch.cat([real[:, None].expand(-1, len(branch), -1), own.expand(batch, -1, -1)], 2)
    return torch.cat([upper, lower], 1)


def _additive(sees: Tensor, dtype: torch.dtype) -> Tensor:
    """An attention mask that is added to the scores."""
    return torch.zeros(sees.shape, dtype=dtype, device=sees.device).masked_fill(~sees, torch.finfo(dtype).min)


def _reused(written: Sequence[Written], heads: Sequence[Sequence[int]]) -> tuple[DynamicCache, Tensor, list[list[int]]]:
    """Keys and values of what was run of B prompts and heads, left-padded, their mask (B, W), and the ids to be run."""
    whole = [[*one.prompt, *head] for one, head in zip(written, heads, strict=True)]
    known = [min(shared(ids, one.past.ids), len(ids) - 1) for ids, one in zip(whole, written, strict=True)]
    width, device = max(known), written[0].past.layers[0][0].device
    cache = DynamicCache()
    for index in range(len(written[0].past.layers)):
        pairs = [(one.past.layers[index], length) for one, length in zip(written, known, strict=True)]
        keys, values = (
            torch.cat([F.pad(pair[i][:, :, :length], (0, 0, width - length, 0)) for pair, length in pairs])
            for i in (0, 1)
        )
        cache.update(keys, values, index)
    columns = torch.arange(width, device=device)
    mask = (columns >= width - torch.tensor(known, device=device)[:, None]).long()
    return cache, mask, [ids[length:] for ids, length in zip(whole, known, strict=True)]


def _right_padded(rows: Sequence[list[int]], pad: int, device) -> tuple[Tensor, Tensor]:
    """Ids and mask (B, L)."""
    length = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (length - len(row)) for row in rows], device=device)
    return ids, torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows], device=device)


def answer_of(
    clip: ClipFeatures,
    text: str,
    head: str,
    parsed: Parsed,
    rated: Rated,
    space: LabelSpace,
    looks: Looks,
    constrain: bool = False,
) -> Answer:
    """Put together what was written about a clip and how its labels were rated.

    Args:
        head: the text up to the label, as of `answer_head`.
        parsed: the text taken apart.
        looks: of the clip, as of `looks_of`.
        constrain: end it with the best label in its tags where it is malformed.
    """
    answer = Answer(
        label=rated.label,
        confidence=rated.labels[rated.label],
        labels=rated.labels,
        thought=parsed.thought,
        text=text,
        well_formed=parsed.well_formed and canonical(parsed.label or "", space) is not None,
        modalities=clip.modalities,
        warnings=clip.warnings,
        duration_s=clip.duration,
        transcript=clip.transcript,
        gates=looks.gates,
        maps=looks.maps,
    )
    if constrain and not answer.well_formed:
        fixed = f"{head}{rated.label}</answer>"
        answer = replace(
            answer,
            text=fixed,
            thought=parse_answer(fixed).thought,
            well_formed=True,
            warnings=(*clip.warnings, "constrained"),
        )
    return replace(answer, evidence=evidence_of(answer.thought, clip))
