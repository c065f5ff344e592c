"""Reinforcement learning with verifiable rewards (GRPO, arXiv 2402.03300), after the cold start.

    python train_grpo.py --config configs/grpo_default.yaml
    torchrun --nproc_per_node 2 train_grpo.py --config …      several GPUs; ACCELERATE_USE_CPU=true before it: processes

Needs labels only, no reasons: the model samples G answers to each clip, rewards score them, and what scored better than
the group's mean becomes likelier. Every clip is encoded once; the step is in `omni/grpo.py`, the objective with its
equations in `docs/grpo.md`. All settings of TRL's GRPOConfig can be given beside those of `Run`.
"""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import torch
from datasets import Dataset
from peft import PeftModel
from transformers.trainer_utils import get_last_checkpoint
from trl import GRPOConfig, TrlParser

from omni.collate import check_labels, encode_examples
from omni.emotions import label_space
from omni.errors import TrainingError
from omni.features import FeatureCache
from omni.grpo import OmniGRPOTrainer, grpo_rows
from omni.loading import load, new_adapter, run_script, train_all
from rewards import DEFAULT, needed_columns, select
from rewards.confidence import REQUEST

MODES = {"think": (True,), "no-think": (False,), "both": (True, False)}


@dataclass
class Run:
    """What is trained, on what, for which rewards.

    Attributes:
        train: manifests with `label`.
        model: where to start, as `omni.loading.load` takes it; after a cold start its adapter goes on learning.
        features: folder for encoded clips; shared by all runs with the same towers.
        labels: the label space.
        rewards: names of rewards; their weights are `reward_weights`.
        mode: "think" asks for the reasons before the answer, "no-think" for the answer alone, "both" for each.
        lora_rank, lora_alpha: a new LoRA, where the model has none.
        full: train all weights of the language model and the fusion adapter instead.
        load_in_4bit: hold the language model in 4 bits (QLoRA).
        save_completions: write completions with their rewards to completions.jsonl every so many steps.
    """

    train: list[str] = field(default_factory=list)
    model: str = "default"
    features: str = "features"
    labels: str = "ekman7"
    rewards: list[str] = field(default_factory=lambda: list(DEFAULT))
    mode: str = "think"
    lora_rank: int = 16
    lora_alpha: int = 128
    full: bool = False
    load_in_4bit: bool = False
    save_completions: int = 10


def start(run: Run, dtype: str = "auto"):
    """The model with what is to learn switched on, and its processor."""
    if run.full and run.load_in_4bit:
        raise TrainingError("Weights in 4 bits cannot be trained: leave out --full or --load_in_4bit.", code="settings")
    model, processor = load(run.model, merge=run.full, dtype=dtype, trainable=True, four_bit=run.load_in_4bit)
    if run.full:
        train_all(model)
    elif not isinstance(model, PeftModel):
        model.requires_grad_(False)
        model = new_adapter(model, run.model, run.lora_rank, run.lora_alpha)
    return model, processor


def train(run: Run, args: GRPOConfig) -> None:
    """Encode, train, save."""
    if run.mode not in MODES:
        raise TrainingError(f"Unknown mode {run.mode!r}. Choose one of: {', '.join(MODES)}.", code="settings")
    torch.manual_seed(args.seed)
    space = label_space(run.labels)
    check_labels(run.train, space)
    chosen = select(run.rewards, args.reward_weights)
    args.reward_weights = chosen.weights
    model, processor = start(run, "auto" if args.bf16 else "float32")
    encoded, left_out = encode_examples(run.train, FeatureCache(run.features, model, processor))
    for message in left_out:
        print(f"left out: {message}", file=sys.stderr)
    request = REQUEST if "confidence" in run.rewards else ""
    longest = args.max_completion_length
    rows = [
        row for think in MODES[run.mode] for row in grpo_rows(encoded, space, think, request, processor.prompt, longest)
    ]
    if not rows:
        raise TrainingError("No clip is left to train on. Give manifests with --train.", code="no_clips")
    for name in run.rewards:
        for column in set(needed_columns(name)) - {"shuffled_accuracy"}:  # which the trainer measures
            if all(row.get(column) is None for row in rows):
                raise TrainingError(f"The reward {name!r} needs the column {column!r} in a manifest.", code="columns")
    found = f"{len(encoded)} clips, {len(left_out)} left out, {len(rows)} prompts"
    print(f"{found}; rewards: {', '.join(run.rewards)}", flush=True)
    trainer = OmniGRPOTrainer(
        model,
        chosen.functions,
        args,
        save_completions=run.save_completions,
        shuffled="order" in run.rewards,
        train_dataset=Dataset.from_list(rows),
        processing_class=processor,
    )
    resume = args.resume_from_checkpoint
    if resume in ("true", "True", True):
        resume = get_last_checkpoint(args.output_dir) if Path(args.output_dir).is_dir() else None
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_state()
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)  # every process gives its part
    if trainer.accelerator.is_main_process:
        final = trainer.accelerator.unwrap_model(trainer.model)
        adapters = {"selected_adapters": ["default"]} if isinstance(final, PeftModel) else {}  # not the reference
        final.save_pretrained(args.output_dir, state_dict=weights, **adapters)
        if not adapters:
            processor.save_pretrained(args.output_dir)
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()  # gloo's threads abort a process that ends without it


def main() -> None:
    """Parse and train."""
    run_script("train_grpo", TrlParser((Run, GRPOConfig)), train)


if __name__ == "__main__":
    main()
