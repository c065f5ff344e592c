"""All contact with TRL's `GRPOTrainer`: clips through its sampling, shuffle and loss, and a step without waste.

TRL 1.16 carries images through a step and nothing else: a clip would reach `generate` but not the
log-probabilities, and training would run, silently, on prompts without a clip. The overrides here carry one
`ClipFeatures` a row, as a list, which TRL shuffles and splits like any other column. What a step does not do twice:

    towers          once a clip, ever (features.py)
    prompt          once a clip in sampling and once in the loss, for all G completions (rollout.py, OmniModel)
    reference       the adapter switched off, or the adapter as it was; a second decoder only where all of it learns
    vocabulary      only where a completion token is predicted, in chunks
    beginnings      that completions of a prompt have in common once, in sampling and in the loss (shared_prompt.py)
    groups whose completions all got the same reward   nothing: their gradient is zero

The objective is TRL's; `docs/grpo.md` has its equations and what differs from R1-Omni (arXiv 2503.05379).
"""

import copy
import json
import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from peft import PeftModel
from peft.helpers import disable_input_dtype_casting
from safetensors.torch import save_file
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer
from trl.models.utils import prepare_deepspeed, prepare_fsdp, unwrap_model_for_generation
from trl.trainer.utils import split_tensor_dict

from .answer import QUESTION, prompt
from .collate import Encoded, true_label
from .emotions import LabelSpace
from .errors import TrainingError
from .features import ClipFeatures, collate, to_device
from .fusion import AUX
from .metrics import score_answer
from .model import ScoredCompletions
from .rollout import Sampling, can_roll_out, generate_shared, roll_out

REFUSED: dict[str, tuple[Hashable, str]] = {  # setting: the only value that does what it says here, and why
    "gradient_checkpointing": (False, "it switches the cache off, which shares a prompt among its completions"),
    "entropy_coef": (0.0, "entropies are measured without a gradient, so that a bonus for them would train nothing"),
    "use_adaptive_entropy": (False, "entropies are measured without a gradient"),
    "eval_strategy": ("no", "a run is measured afterwards, by omni eval"),
    "use_vllm": (False, "vLLM does not know these models; omni/rollout.py samples"),
    "use_transformers_continuous_batching": (False, "omni/rollout.py samples"),
    "cache_implementation": (None, "completions share the cache of their prompt"),
    "chat_template_kwargs": (None, "clips are asked by the model's own prompt, not by a chat template"),
    "cast_lm_head_to_fp32": (False, "the head of these models is tied to their embeddings"),
    "sync_ref_model": (False, "the reference stays the model that the run began with"),
    "auto_find_batch_size": (False, "groups of completions need a fixed batch; lower per_device_train_batch_size"),
}


KNOWN = ("action_units", "prosody", "cues")  # columns of a manifest that tell what a clip shows


def grpo_rows(
    examples: Sequence[Encoded],
    space: LabelSpace,
    think: bool = True,
    request: str = "",
    ask: Callable[..., str] = prompt,
    longest: int | None = None,
) -> list[dict]:
    """Rows for `OmniGRPOTrainer`: a prompt with the file of the encoded clip, the label, and what rewards may ask for.

    Args:
        think: ask for the reasons before the answer.
        request: a sentence after each question that asks for reasons, such as `rewards.confidence.REQUEST`.
        ask: writes the user's turn, `OmniProcessor.prompt` of the model that learns.
        longest: tokens that a completion may have.

    Raises:
        LabelError: a label is not in the label space.
    """
    rows = []
    for example, clip, path in examples:
        label = true_label(example, space)
        question = f"{example.question or QUESTION} {request}" if request and think else example.question
        text = ask(question, space, think=think, modalities=clip.modalities, transcript=clip.transcript)
        part: dict = {"type": "video", "path": str(path), "text": None, "without": []}
        content = [part, {"type": "text", "path": None, "text": text, "without": []}]
        known = {name: example.extra[name] for name in KNOWN if example.extra.get(name) is not None}
        facts = {name: fact for name, fact in known.items() if name != "cues"} or known  # what is measured errs
        rows.append(
            {
                "prompt": [{"role": "user", "content": content}],
                "label": label,
                "labels": list(space.labels),
                "think": think,
                "openset": example.extra.get("openset"),
                "clip": str(example.clip),
                "truth": json.dumps(facts) if facts else None,
                "max_completion_length": longest,
            }
        )
    return rows


class Distinct(NamedTuple):
    """The distinct prompts of some rows: where each stands first, which of them each row has, their clips and texts."""

    first: list[int]
    copies: list[int]
    clips: list[ClipFeatures]
    texts: list[str]


class OmniGRPOTrainer(GRPOTrainer):
    """`GRPOTrainer` for models with clips.

    Args:
        save_completions: write completions with their rewards to `completions.jsonl` every so many steps; 0 never.
        shuffled: sample half as many answers to each clip with its frames in random order, and give rewards the share
            of right ones as the column `shuffled_accuracy` (T-GRPO, arXiv 2503.21776).

    Raises:
        TrainingError: settings that would train something else than they say.
    """

    _clips: list[ClipFeatures]  # one for every row being worked on
    _texts: list[str]  # what each of them is asked
    _copies: list[int]  # which distinct prompt a row has
    _aux: Tensor | None  # the fusion adapter's loss over the distinct prompts of the last pass with a gradient
    _old: Tensor | None  # log-probabilities when the rows were sampled, if they are kept

    def __init__(
        self, model, reward_funcs, args: GRPOConfig, *, save_completions: int = 10, shuffled: bool = False, **kwargs
    ):
        check_settings(args)
        beta, whole = args.beta, not isinstance(model, PeftModel)
        reference = frozen_copy(model) if beta and whole else None
        if whole:
            args.beta = 0.0  # else TRL reads a reference from the model's name, towers and all
        super().__init__(model, reward_funcs, args, **kwargs)
        args.beta = self.beta = beta
        if self.is_fsdp_enabled and not whole:
            raise TrainingError(
                "Under FSDP an adapter cannot sample: its weights are gathered by the forward pass of the whole model "
                "alone. Give --full true, configs/zero3.json, or no sharding.",
                code="settings",
            )
        if reference is not None:
            self.ref_model = self._prepared(reference)
        if getattr(model, "is_loaded_in_4bit", False):
            in_float32(model)
        self.save_completions, self.shuffled = save_completions, shuffled
        self._needed: list[int] | None = None  # rows whose log-probabilities the gradient needs; None: all

    def _prepared(self, reference):
        if self.is_deepspeed_enabled:
            return prepare_deepspeed(reference, self.accelerator)
        if self.is_fsdp_enabled:
            return prepare_fsdp(reference, self.accelerator)
        return self.accelerator.prepare_model(reference, evaluation_mode=True)

    def _get_train_sampler(self, dataset=None):
        """TRL's sampler, in which the order of an epoch depends on its number: a resumed run sees the same clips."""
        sampler = super()._get_train_sampler(dataset)
        if sampler.shuffle:
            sampler.set_epoch = lambda epoch: sampler.generator.manual_seed(self.args.seed + epoch)
        return sampler

    # --- sampling ----------------------------------------------------------------------------------------------------

    def _tokenize_prompts(self, prompts: list):
        _, self._copies, clips, texts = self._distinct(prompts)
        self._prompts = self._ask(clips, texts)
        ids = [
            row[keep.bool()].tolist()
            for row, keep in zip(self._prompts["input_ids"], self._prompts["attention_mask"], strict=True)
        ]
        self._clips, self._texts = [clips[i] for i in self._copies], [texts[i] for i in self._copies]
        return [ids[i] for i in self._copies], None, {}

    def _distinct(self, prompts: list) -> Distinct:
        first, copies = numbered([json.dumps(prompt, sort_keys=True) for prompt in prompts])
        parts = [prompts[i][0]["content"] for i in first]  # as `grpo_rows` makes them: the clip, then the text
        clips = [self.processing_class.clip_of(clip) for clip, _ in parts]
        return Distinct(first, copies, clips, [text["text"] for _, text in parts])

    def _ask(self, clips: Sequence[ClipFeatures], texts: Sequence[str]) -> dict:
        inputs = self.processing_class.ask(clips, texts)
        return {name: to_device(value, self.accelerator.device) for name, value in inputs.items()}

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False):
        return self._write(self._prompts, self._copies), None

    def _write(self, prompts: dict, copies: Sequence[int]) -> list[list[int]]:
        """Completions of the policy as it is now, one for every entry of `copies`."""
        with unwrap_model_for_generation(
            self.model_wrapped, self.accelerator, gather_deepspeed3_params=self.args.ds3_gather_for_generation
        ) as model:
            training = model.training
            model.eval()
            if can_roll_out(model) and self.args.repetition_penalty == 1.0 and not self.args.generation_kwargs:
                rows = roll_out(model, prompts, copies, self._sampling())
            else:
                rows = generate_shared(model, prompts, copies, self.generation_config)
            model.train(training)
        return rows

    def _shuffled_accuracy(self, inputs: list[dict]) -> list[float | None]:
        """For every row the share of right answers to its clip with the frames in random order; None without frames."""
        first, copies, clips, questions = self._distinct([row["prompt"] for row in inputs])
        rows = [inputs[i] for i in first]
        prompts = self._ask([shuffle_frames(clip) for clip in clips], questions)
        half = max(1, self.num_generations // 2)
        written = self._write(prompts, [i for i in range(len(rows)) for _ in range(half)])
        texts = self.processing_class.tokenizer.batch_decode(written, skip_special_tokens=True)
        right = [
            score_answer(rows[i // half]["label"], t, rows[i // half]["labels"]).label_right
            for i, t in enumerate(texts)
        ]
        shares = [
            sum(right[i * half : (i + 1) * half]) / half if "video" in clip.modalities else None
            for i, clip in enumerate(clips)
        ]
        return [shares[i] for i in copies]

    def _sampling(self) -> Sampling:
        return Sampling(
            self.max_completion_length,
            tuple(self.eos_token_ids),
            self.args.temperature,
            self.args.top_k or 0,
            self.args.top_p,
            self.args.min_p or 0.0,
            never=tuple(self.accelerator.unwrap_model(self.model).config.placeholders.values()),
        )

    def _generate_and_score_completions(self, inputs: list[dict]) -> dict:
        if self.shuffled:
            shares = self._shuffled_accuracy(inputs)
            inputs = [{**row, "shuffled_accuracy": share} for row, share in zip(inputs, shares, strict=True)]
        out = super()._generate_and_score_completions(inputs)
        step = self.state.global_step
        if self.save_completions and step % self.save_completions == 0 and self.accelerator.is_main_process:
            self._write_completions(inputs, step)
        return {**out, "clips": self._clips, "texts": self._texts}

    def _write_completions(self, inputs: list[dict], step: int) -> None:
        count = len(inputs)  # of this process, the main one, whose rows come first of those of all

        def mine(values: Iterable) -> list:
            return list(values)[-count * self.accelerator.num_processes :][:count]

        rewards = {name: mine(values) for name, values in self._logs["rewards"].items()}
        completions, advantages = mine(self._logs["completion"]), mine(self._logs["advantages"])
        with Path(self.args.output_dir, "completions.jsonl").open("a", encoding="utf-8") as file:
            for i, row in enumerate(inputs):
                record = {"step": step, "clip": row["clip"], "label": row["label"]}
                record["completion"] = completions[i][0]["content"]
                record |= {"rewards": {name: values[i] for name, values in rewards.items()}}
                file.write(json.dumps(record | {"advantage": advantages[i]}, ensure_ascii=False) + "\n")

    def _prepare_inputs(self, generation_batch):
        """TRL's buffer of completions, shuffled by whole groups, so that a micro-batch runs each prompt once."""
        if not self.model.training:
            return super()._prepare_inputs(generation_batch)
        every = self.args.steps_per_generation * self.num_iterations
        if self._step % every == 0 or self._buffered_inputs is None:
            batch = self._generate_and_score_completions(generation_batch)
            batch = shuffle_groups(batch, self._copies)
            self._buffered_inputs: list[dict] | None = split_tensor_dict(batch, self.args.steps_per_generation)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    # --- the loss ----------------------------------------------------------------------------------------------------

    def _compute_loss(self, model, inputs):
        self._clips, self._texts = inputs["clips"], inputs["texts"]
        self._aux, self._needed = None, self._rows_needed(inputs["advantages"])
        self._old = inputs.get("old_per_token_logps")
        loss = super()._compute_loss(model, inputs)
        rows, run = len(inputs["advantages"]), self._needed
        self._needed = None
        if self._aux is not None:
            loss = loss + AUX * self._aux / self.current_gradient_accumulation_steps  # the loss is scaled so already
            self._metrics["train"]["aux_loss"].append(self._aux.item())
        if self.model.training:
            self._metrics["train"]["rows_without_signal"].append(0.0 if run is None else 1 - len(run) / rows)
        if not torch.isfinite(loss):
            raise TrainingError(self._save_inputs(inputs), code="nan")
        return loss

    def _rows_needed(self, advantages: Tensor) -> list[int] | None:
        """The rows that a forward and backward pass is for; None for all.

        Without KL term and entropy bonus a row without advantage adds nothing to the gradient. One row always stays,
        since every process must run a backward pass.
        """
        if self.beta or self._entropy_bonus_enabled or self.top_entropy_quantile < 1:
            return None
        return advantages.nonzero()[:, 0].tolist() or [0]

    def _save_inputs(self, inputs: dict) -> str:
        folder = Path(self.args.output_dir)
        path = folder / f"not_finite_step{self.state.global_step}.safetensors"
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: x.contiguous().cpu() for name, x in inputs.items() if isinstance(x, Tensor)}, path)
        clips = ", ".join(sorted({clip.sha256[:12] for clip in inputs["clips"]}))
        return (
            f"The loss is not finite at step {self.state.global_step}; the step's tensors are in {path} "
            f"(clips {clips}). Lower the learning rate, or go on from the last checkpoint with --max_grad_norm 0.2."
        )

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, batch_size=None, compute_entropy=False, **unused
    ):
        chosen = list(range(len(input_ids))) if self._needed is None else self._needed
        size, parts = batch_size or len(chosen), []
        for start in range(0, len(chosen), size):
            rows = chosen[start : start + size]
            with precision(self.accelerator.autocast(), model, input_ids.device):
                scored = score_completions(
                    model,
                    self.processing_class,
                    input_ids[rows],
                    attention_mask[rows],
                    [self._clips[i] for i in rows],
                    [self._texts[i] for i in rows],
                    completion=logits_to_keep,
                    temperature=self.temperature,
                    entropy=compute_entropy,
                )
            parts.append(scored)
            if torch.is_grad_enabled():
                self._aux = scored.aux_loss
        log_probs = torch.cat([part.log_probs for part in parts])
        entropy = torch.cat([part.entropy for part in parts]) if compute_entropy else None
        if len(chosen) == len(input_ids):
            return log_probs, entropy, None
        # rows that were left out have advantage 0: whatever stands for them, their loss is 0, if their ratio is finite
        whole = log_probs.new_zeros(len(input_ids), logits_to_keep) if self._old is None else self._old
        log_probs = whole.to(log_probs.dtype).index_copy(0, torch.tensor(chosen, device=whole.device), log_probs)
        if entropy is not None:  # so that the mean over all tokens, which TRL logs, is that of the rows that were run
            known = attention_mask[chosen, -logits_to_keep:]
            mean = (entropy * known).sum() / known.sum().clamp(min=1)
            whole = mean.expand(len(input_ids), logits_to_keep)
            entropy = whole.index_copy(0, torch.tensor(chosen, device=whole.device), entropy)
        return log_probs, entropy, None


def score_completions(
    model,
    processor,
    ids: Tensor,
    mask: Tensor,
    clips: Sequence[ClipFeatures],
    texts: Sequence[str],
    *,
    completion: int,
    temperature: float = 1.0,
    entropy: bool = False,
) -> ScoredCompletions:
    """Log-probabilities of completions; each prompt is run once, and so is what its completions have in common.

    Args:
        ids: left-padded prompts and right-padded completions of B rows, (B, P + completion); `mask` alike.
        clips, texts: the clip and the user's turn of each row.
        completion: length of the completions.
    """
    first, groups = distinct_rows(ids[:, :-completion], clips)
    features, times = collate([clips[i] for i in first.tolist()])
    asked = processor.instructions([texts[i] for i in first.tolist()])
    return model(
        input_ids=ids,
        attention_mask=mask,
        clip_features=to_device(features, ids.device),
        clip_times=to_device(times, ids.device),
        **to_device(asked, ids.device),
        groups=groups,
        completion=completion,
        temperature=temperature,
        entropy=entropy,
    )


@contextmanager
def precision(autocast: AbstractContextManager, model, device: torch.device) -> Iterator[None]:
    """Autocast in which LoRA does not first cast its inputs up, which autocast then casts down again."""
    with autocast, disable_input_dtype_casting(model, active=torch.is_autocast_enabled(device.type)):
        yield


def frozen_copy(model):
    """The reference of full training: the model as it is now, its towers shared with it."""
    backbone = model.model
    shared = {id(tower): tower for tower in (backbone.vision_tower, backbone.audio_tower)}
    return copy.deepcopy(model, shared).eval().requires_grad_(False)


def in_float32(model) -> None:
    """What learns beside 4-bit weights in float32 again: in TRL's bfloat16 small steps vanish, and clips do not fit."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def check_settings(args: GRPOConfig) -> None:
    """Refuse what would train something else than it says.

    Raises:
        TrainingError: with the setting to change.
    """
    for name, (value, reason) in REFUSED.items():
        if getattr(args, name) != value and getattr(args, name) not in (None, {}):
            shown = str(value).lower() if isinstance(value, bool) else value
            advice = f"Set {name}: {shown}" if value is not None else f"Leave out {name}"
            raise TrainingError(f"{name} cannot be used here: {reason}. {advice}.", code="settings")
    if args.temperature <= 0:
        raise TrainingError("GRPO samples its answers: give a temperature above 0.", code="settings")
    generation = args.steps_per_generation * args.num_iterations  # micro-steps that one batch of completions serves
    # optimizer steps until a batch of completions ends where a step does
    every = math.lcm(generation, args.gradient_accumulation_steps) // args.gradient_accumulation_steps
    if args.save_strategy == "steps" and args.save_steps < 1:
        raise TrainingError(
            f"save_steps {args.save_steps} is a share of the run. Give a number of steps, a multiple of {every}.",
            code="settings",
        )
    if args.save_strategy == "steps" and args.save_steps % every:
        near = max(every, round(args.save_steps / every) * every)
        raise TrainingError(
            f"save_steps {args.save_steps} falls inside a batch of completions that serves {every} steps, so that a "
            f"run could not go on exactly from there. Set save_steps: {near}.",
            code="settings",
        )


def shuffle_groups(batch: dict, copies: Sequence[int]) -> dict:
    """Rows in random order, but completions of one prompt side by side."""
    groups = torch.tensor(list(copies))
    order = torch.cat([(groups == g).nonzero()[:, 0] for g in torch.randperm(int(groups.max()) + 1).tolist()])
    return take_rows(batch, order.tolist(), len(order))


def shuffle_frames(clip: ClipFeatures) -> ClipFeatures:
    """The clip with what is seen at one time shown at another; all streams of the picture in the same order."""
    seen = [name for name in ("expression", "video") if name in clip.features]
    length = len(clip.times[seen[0]]) if seen else 0
    order = torch.randperm(length)
    return replace(clip, features=clip.features | {name: clip.features[name][order] for name in seen})


def take_rows(batch: dict, chosen: Sequence[int], count: int) -> dict:
    """Some of the `count` rows of a batch, in the order of `chosen`; what is not one value a row stays as it is."""
    out = {}
    for name, value in batch.items():
        if isinstance(value, Tensor) and value.dim() and len(value) == count:
            out[name] = value[torch.tensor(chosen, device=value.device)]
        else:
            out[name] = [value[i] for i in chosen] if isinstance(value, list) else value
    return out


def numbered(keys: Sequence[Hashable]) -> tuple[list[int], list[int]]:
    """Where each distinct key stands first, and which of them each key is.

    >>> numbered(["b", "a", "b", "c"])
    ([0, 1, 3], [0, 1, 0, 2])
    """
    first: dict[Hashable, int] = {}
    for i, key in enumerate(keys):
        first.setdefault(key, i)
    place = {key: number for number, key in enumerate(first)}
    return list(first.values()), [place[key] for key in keys]


def distinct_rows(ids: Tensor, clips: Sequence[ClipFeatures]) -> tuple[Tensor, Tensor]:
    """First row of every distinct (prompt, clip), and which of them each row is: (U,), (B,)."""
    first, groups = numbered([(tuple(row), id(clip)) for row, clip in zip(ids.tolist(), clips, strict=True)])
    return torch.tensor(first, device=ids.device), torch.tensor(groups, device=ids.device)
