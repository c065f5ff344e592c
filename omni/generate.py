"""A clip and a question in, an `Answer` out: the one way from media to text.

    prompt -> greedy (or sampled) text -> parse_answer
    p(label | clip, question, thought) ∝ exp Σ_t log p(token_t of "label</answer>" | prompt, thought, "<answer>")

Label probabilities are scores of the whole label space, not sampled text: the prompt and the thought are run once, the
continuations of all labels share their keys and values, and each continuation is scored to its closing tag, so that a
long label is not favoured or punished for its length. They are what confidence, calibration and abstention rest on.

`reason_batch` and `stream` are callers of the same few functions; chat, labelling, server and evaluation call these.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Thread

import torch
from torch import Tensor
from transformers import DynamicCache, TextIteratorStreamer

from .answer import TAG, Answer, Parsed, format_answer, parse_answer
from .clip import Clip
from .emotions import EKMAN7, LabelSpace, canonical, label_space
from .errors import ModelError
from .features import ClipFeatures, encode_clip, to_device
from .rollout import Sampling, can_roll_out, roll_out, unwrapped

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
    encoded = warned(model, encoded, inputs)
    written = _write(model, processor, inputs, max_new_tokens, temperature, seed)
    parsed = [parse_answer(text) for text in written]
    heads = [answer_head(p, text, think) for p, text in zip(parsed, written, strict=True)]
    scores = score_labels(model, processor, encoded, texts, heads, space)
    return [
        _answer(clip, text, head, p, probabilities, space, constrain)
        for clip, text, head, p, probabilities in zip(encoded, written, heads, parsed, scores, strict=True)
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


def build_inputs(
    model, processor, clips: Sequence[ClipFeatures], texts: Sequence[str], heads: Sequence[str] | None = None
) -> dict:
    """Left-padded model inputs for B prompts; `heads` are the starts of the assistant's turns, if any."""
    device = next(model.parameters()).device
    inputs = {k: to_device(v, device) for k, v in processor.ask(clips, texts).items()}
    if heads is not None:
        inputs["input_ids"], inputs["attention_mask"] = _append(
            processor, inputs["input_ids"], inputs["attention_mask"], heads
        )
    return inputs


def _append(processor, ids: Tensor, mask: Tensor, heads: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Rows of ids with text appended, left-padded anew."""
    rows = [
        torch.cat([row[keep.bool()], row.new_tensor(processor.tokenizer(head, add_special_tokens=False).input_ids)])
        for row, keep, head in zip(ids, mask, heads, strict=True)
    ]
    length = max(map(len, rows))
    pad = processor.tokenizer.pad_token_id
    out = torch.stack([torch.cat([row.new_full((length - len(row),), pad), row]) for row in rows])
    keep = torch.stack([torch.cat([row.new_zeros(length - len(row)), torch.ones_like(row)]) for row in rows])
    return out, keep


def _write(model, processor, inputs: dict, max_new_tokens: int, temperature: float, seed: int) -> list[str]:
    """Generate the text of every row."""
    tokenizer, start = processor.tokenizer, inputs["input_ids"].shape[1]
    if can_roll_out(model):
        never = tuple(model.config.placeholders.values())
        sampling = Sampling(max_new_tokens, (tokenizer.eos_token_id,), temperature, never=never)
        rows = roll_out(model, inputs, range(len(inputs["input_ids"])), sampling, torch.Generator().manual_seed(seed))
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
    model,
    processor,
    clips: Sequence[ClipFeatures],
    texts: Sequence[str],
    heads: Sequence[str],
    space: LabelSpace,
) -> list[dict[str, float]]:
    """Probability of every label of the space after each head, from one prefill and one pass over the labels.

    Returns:
        One {label: probability} a clip; probabilities sum to one.
    """
    inputs = build_inputs(model, processor, clips, texts, heads)
    mask, count = inputs["attention_mask"], len(space.labels)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config.text_config)
    first = model(**inputs, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1)
    ends = [processor.tokenizer(f"{label}</answer>", add_special_tokens=False).input_ids for label in space.labels]
    length = max(map(len, ends))
    ids = torch.tensor([e + [processor.tokenizer.pad_token_id] * (length - len(e)) for e in ends], device=mask.device)
    real = torch.tensor([[1] * len(e) + [0] * (length - len(e)) for e in ends], device=mask.device)  # (labels, S)
    cache.batch_repeat_interleave(count)
    batch = len(clips)
    wide = torch.cat([mask.repeat_interleave(count, 0), real.repeat(batch, 1)], 1)
    at = positions[:, -1:].repeat_interleave(count, 0) + 1 + torch.arange(length, device=mask.device)
    rest = model(
        input_ids=ids.repeat(batch, 1),
        attention_mask=wide,
        position_ids=at,
        past_key_values=cache,
        use_cache=True,
    )
    logits = torch.cat([first.logits.repeat_interleave(count, 0), rest.logits[:, :-1]], 1).float()  # (B·labels, S, V)
    if not bool(torch.isfinite(logits).all()):
        raise ModelError(
            "The model put out NaN or infinity. Load it with dtype bfloat16 or float32 (float16 overflows).",
            code="nan",
        )
    steps = logits.log_softmax(-1).gather(-1, ids.repeat(batch, 1)[..., None])[..., 0] * real.repeat(batch, 1)
    probabilities = steps.sum(-1).view(batch, count).softmax(-1)
    return [dict(zip(space.labels, map(float, row), strict=True)) for row in probabilities]


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
