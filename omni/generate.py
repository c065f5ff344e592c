"""A clip and a question in, an `Answer` out: the one way from media to text.

    prompt -> greedy (or sampled) text -> parse_answer
    p(label | clip, question, thought) ∝ exp Σ_t log p(token_t of "label</answer>" | prompt, thought, "<answer>")

Label probabilities are scores of the whole label space, not sampled text: the prompt is run once for the text and the
scores, the continuations of all labels share its keys and values and those of the thought, and each continuation is
scored to its closing tag, so that a long label is not favoured or punished for its length. They are what confidence,
calibration and abstention rest on.

`reason_batch` and `stream` are callers of the same few functions; chat, labelling, server and evaluation call these.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Thread

import torch
from torch import Tensor
from transformers import TextIteratorStreamer

from .answer import TAG, Answer, Parsed, format_answer, parse_answer
from .clip import Clip
from .emotions import EKMAN7, LabelSpace, canonical, label_space
from .errors import ModelError
from .features import ClipFeatures, encode_clip, to_device
from .looks import looks_of
from .rollout import Prefilled, Sampling, can_roll_out, prefill, roll_out, unwrapped

MAX_NEW_TOKENS = 160  # the longest taught answer has about 110
SOURCES = str | Path | Clip | ClipFeatures


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
        One `Answer` a clip, in order. `label` is the most probable label after the thought that was written.

    Raises:
        ModelError: if the model puts out NaN.
    """
    space = label_space(labels)
    encoded = [as_features(model, processor, clip) for clip in clips]
    texts = [ask_text(processor, clip, question, space, think) for clip in encoded]
    inputs = build_inputs(model, processor, encoded, texts)
    encoded, looks = warned(model, encoded, inputs), looks_of(model, inputs)
    prompts = prefill(model, inputs)
    written = _write(model, processor, inputs, prompts, max_new_tokens, temperature, seed)
    parsed = [parse_answer(text) for text in written]
    heads = [answer_head(p, text, think) for p, text in zip(parsed, written, strict=True)]
    scores = score_labels(model, processor, prompts, heads, space)
    return [
        replace(_answer(clip, text, head, p, probabilities, space, constrain), gates=look.gates, maps=look.maps)
        for clip, text, head, p, probabilities, look in zip(encoded, written, heads, parsed, scores, looks, strict=True)
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
    encoded = as_features(model, processor, clip)
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


def as_features(model, processor, clip: SOURCES) -> ClipFeatures:
    """Whatever the caller has of a clip, as the streams of its towers."""
    if isinstance(clip, ClipFeatures):
        return clip
    if not isinstance(clip, Clip):
        clip = processor.read(clip)
    return encode_clip(model, processor, clip)


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
    model, processor, inputs: dict, prompts: Prefilled, max_new_tokens: int, temperature: float, seed: int
) -> list[str]:
    """Generate the text of every row."""
    tokenizer, start = processor.tokenizer, inputs["input_ids"].shape[1]
    if can_roll_out(model):
        never = tuple(model.config.placeholders.values())
        sampling = Sampling(max_new_tokens, (tokenizer.eos_token_id,), temperature, never=never)
        rows = roll_out(model, prompts, range(len(inputs["input_ids"])), sampling, torch.Generator().manual_seed(seed))
    else:
        how = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature > 0 else {"do_sample": False}
        if temperature > 0:
            torch.manual_seed(seed)
        out = model.generate(**inputs, max_new_tokens=max_new_tokens, pad_token_id=tokenizer.pad_token_id, **how)
        rows = out[:, start:]
    return [text.strip() for text in tokenizer.batch_decode(rows, skip_special_tokens=True)]


def answer_head(parsed: Parsed, text: str, think: bool) -> str:
    """The start of an answer up to its opening tag, after which labels are scored: the thought as it was written.

    >>> answer_head(Parsed("happy", "A smile.", True), "", True)
    '<think>A smile.</think>\\n<answer>'
    """
    thought = parsed.thought or (TAG.sub(" ", text.split("<answer>")[0]) if think else "")
    return format_answer("x", thought).removesuffix("x</answer>")


@torch.inference_mode()
def score_labels(
    model, processor, prompts: dict | Prefilled, heads: Sequence[str], space: LabelSpace
) -> list[dict[str, float]]:
    """Probability of every label of the space after each prompt and head.

    The keys and values of a prompt and its head are shared by the labels, and the head of the model runs only where a
    token of a label is predicted.

    Args:
        prompts: B prompts as `build_inputs` makes them, or what `prefill` made of them, whose cache is used up.
        heads: what stands before the label, one a prompt, such as "<answer>".

    Returns:
        One {label: probability} a clip; probabilities sum to one.

    Raises:
        ModelError: if the model puts out NaN.
    """
    model, tokenizer = unwrapped(model), processor.tokenizer
    cache, _, mask = prompts if isinstance(prompts, Prefilled) else prefill(model, prompts)
    batch, count = len(mask), len(space.labels)
    start, real = _right_padded(tokenizer, heads, mask.device)  # (B, H)
    ends, told = _right_padded(tokenizer, [f"{label}</answer>" for label in space.labels], mask.device)  # (labels, S)

    mask = torch.cat([mask, real], 1)
    at = (mask.cumsum(-1) - 1).clamp(min=0)[:, -start.shape[1] :]
    out = model.model(start, mask, at, cache, use_cache=True).last_hidden_state
    last = real.sum(1) - 1
    before = out[torch.arange(batch, device=mask.device), last].repeat_interleave(count, 0)[:, None]  # (B·labels, 1, E)

    cache.batch_repeat_interleave(count)
    ids, told = ends.repeat(batch, 1), told.repeat(batch, 1)  # (B·labels, S)
    wide = torch.cat([mask.repeat_interleave(count, 0), told], 1)
    at = (wide.cumsum(-1) - 1)[:, -ids.shape[1] :]
    rest = model.model(ids, wide, at, cache, use_cache=True).last_hidden_state
    hidden = torch.cat([before, rest[:, :-1]], 1)[told.bool()]  # (tokens of labels, E)
    logits = model.lm_head(hidden).float()
    if not bool(torch.isfinite(logits).all()):
        raise ModelError(
            "The model put out NaN or infinity. Load it with dtype bfloat16 or float32 (float16 overflows).",
            code="nan",
        )
    steps = logits.log_softmax(-1).gather(-1, ids[told.bool()][:, None])[:, 0]
    sums = torch.zeros(told.shape, device=mask.device).masked_scatter(told.bool(), steps).sum(-1)
    probabilities = sums.view(batch, count).softmax(-1)
    return [dict(zip(space.labels, map(float, row), strict=True)) for row in probabilities]


def _right_padded(tokenizer, texts: Sequence[str], device) -> tuple[Tensor, Tensor]:
    """Ids and mask (B, L) of texts."""
    rows = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    length = max(map(len, rows))
    ids = torch.tensor([row + [tokenizer.pad_token_id] * (length - len(row)) for row in rows], device=device)
    return ids, torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows], device=device)


def _answer(
    clip: ClipFeatures,
    text: str,
    head: str,
    parsed: Parsed,
    probabilities: dict[str, float],
    space: LabelSpace,
    constrain: bool,
) -> Answer:
    best = max(probabilities, key=probabilities.__getitem__)
    answer = Answer(
        label=best,
        confidence=probabilities[best],
        labels=probabilities,
        thought=parsed.thought,
        text=text,
        well_formed=parsed.well_formed and canonical(parsed.label or "", space) is not None,
        modalities=clip.modalities,
        warnings=clip.warnings,
        duration_s=clip.duration,
        transcript=clip.transcript,
    )
    if constrain and not answer.well_formed:
        fixed = f"{head}{best}</answer>"
        answer = replace(
            answer,
            text=fixed,
            thought=parse_answer(fixed).thought,
            well_formed=True,
            warnings=(*clip.warnings, "constrained"),
        )
    return answer
