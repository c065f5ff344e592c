"""The cold start: teach fusion adapter and LoRA the language of clips, on manifests with labels and rationales.

    python train_sft.py --config configs/sft_default.yaml

Four steps: every clip is encoded once (the towers are frozen); the fusion adapter is aligned with the language model's
words (`omni/align.py`); TRL's SFTTrainer trains adapter and LoRA on reasoned and plain answers; the adapter is saved as
one PEFT folder, which `omni ask --model FOLDER` takes. An interrupted run goes on from its last checkpoint.
"""

import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import torch
from datasets import Dataset
from peft import PeftModel
from rich.progress import Progress
from transformers.trainer_utils import get_last_checkpoint
from trl import SFTConfig, TrlParser

from omni.align import AlignOptions, align, fit_streams
from omni.collate import Encoded, RowOptions, align_rows, check_labels, encode_examples, sft_rows, vocabulary
from omni.emotions import label_space
from omni.errors import ModelError
from omni.features import FeatureCache
from omni.fusion.placement import choose
from omni.loading import has_adapter, load, new_adapter, run_script, train_all
from omni.sft import ColdStartTrainer

SHARES = ("reasoned", "labelled", "plain", "misread", "prosody_only", "words", "blind", "mute", "nothing")


@dataclass
class ColdStart:
    """What is trained, on what.

    Attributes:
        train: manifests with `label` and `rationale`.
        model: base model, as `omni.loading.load` takes it.
        features: folder for encoded clips; shared by all runs with the same towers.
        labels: the label space.
        adapter: go on with the adapter that the model has, and do not align; false begins a new one on its base.
        fusion: a mechanism of `omni.fusion.MECHANISMS` in the place of the model's own, or on top of it (`placement`
            residual, see `omni/fusion/placement.py`); None keeps the model's own. Saved with the model.
        fusion_options: its options, as a mapping in the config, e.g. `{recursions: 2}` or `{parameters: 1000000}`.
        align_epochs: passes of the alignment before the cold start; 0 leaves it out.
        lora_rank, lora_alpha: LoRA on all linear layers of the language model.
        full: train all weights of the language model and the fusion adapter instead.
        reasoned … nothing: shares of rows, see `omni.collate.RowOptions`.
        resume: go on from the last checkpoint in output_dir, if there is one.
    """

    train: list[str] = field(default_factory=list)
    model: str = "default"
    features: str = "features"
    labels: str = "ekman7"
    adapter: bool = False
    fusion: str | None = None
    placement: str = "replace"
    fusion_options: dict = field(default_factory=dict)
    align_epochs: int = 20
    lora_rank: int = 16
    lora_alpha: int = 128
    full: bool = False
    reasoned: float = 1.0
    labelled: float = 1.0
    plain: float = 0.5
    misread: float = 0.1
    prosody_only: float = 0.5
    words: float = 0.5
    blind: float = 0.12
    mute: float = 0.1
    nothing: float = 0.02
    resume: bool = True


def start(args: ColdStart, dtype: str = "auto"):
    """The model, frozen or with the adapter that goes on learning, and its processor."""
    residual = stands_on_tokens(args)
    if args.fusion and args.adapter:
        raise ModelError("An adapter that goes on learning keeps its fusion. Leave out --adapter.", code="fusion")
    if residual and has_adapter(args.model) and not args.full:
        raise ModelError(
            f"A residual stands on what {args.model} has learned, part of which is an adapter, and one adapter cannot "
            "stand on another. Add --full true, or give a whole model.",
            code="fusion",
        )
    model, processor = load(args.model, adapter=args.adapter or residual, merge=residual, dtype=dtype, trainable=True)
    if args.fusion:
        choose(model, processor, args.fusion, args.placement, **args.fusion_options)
    if not args.adapter:
        model.requires_grad_(False)
    elif not isinstance(model, PeftModel):
        raise ModelError(f"{args.model} has no adapter to go on with. Leave out --adapter.", code="adapter")
    return model, processor


def stands_on_tokens(args: ColdStart) -> bool:
    """Whether the new fusion adapter only adds to tokens that mean something already, so that there is no alignment."""
    return args.fusion is not None and args.placement == "residual"


def align_fusion(model, processor, encoded: list[Encoded], args: ColdStart, seed: int) -> None:
    """Teach the fusion adapter the language model's words."""
    began = time.time()
    fusion = model.model.fusion.requires_grad_(True)
    cues, labels, length = vocabulary(model, processor, args.labels)
    with Progress(disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("aligning")
        align(
            fusion,
            align_rows(encoded, args.labels),
            cues,
            labels,
            length,
            AlignOptions(epochs=args.align_epochs, seed=seed),
            lambda step, steps, loss: bar.update(
                task, completed=step, total=steps, description=f"aligning, loss {loss:.2f}"
            ),
        )
    print(f"aligned in {time.time() - began:.0f} s", flush=True)


def train(args: ColdStart, training: SFTConfig) -> None:
    """Encode, align, train, save."""
    started = time.time()
    space = label_space(args.labels)
    check_labels(args.train, space)
    torch.manual_seed(training.seed)
    model, processor = start(args, "auto" if training.bf16 else "float32")
    encoded, left_out = encode_examples(args.train, FeatureCache(args.features, model, processor))
    for message in left_out:
        print(f"left out: {message}", file=sys.stderr)
    print(f"encoded {len(encoded)} clips in {time.time() - started:.0f} s", flush=True)
    shares = {name: getattr(args, name) for name in SHARES}
    rows = sft_rows(encoded, RowOptions(**shares, seed=training.seed), processor.prompt, space)

    folder = Path(training.output_dir)
    checkpoint = get_last_checkpoint(training.output_dir) if args.resume and folder.is_dir() else None
    if stands_on_tokens(args):
        fit_streams(model.model.fusion.added, [clip for _, clip, _ in encoded])
    elif args.align_epochs and checkpoint is None and not args.adapter:
        align_fusion(model, processor, encoded, args, training.seed)
    if args.full:
        train_all(model)
    elif not args.adapter:
        model = new_adapter(model, args.model, args.lora_rank, args.lora_alpha)
    training.max_length = None  # truncation would cut clip placeholders
    training.assistant_only_loss = True
    trainer = ColdStartTrainer(model, training, train_dataset=Dataset.from_list(rows), processing_class=processor)
    began = time.time()
    trainer.train(resume_from_checkpoint=checkpoint)
    print(f"trained on {len(rows)} rows in {time.time() - began:.0f} s", flush=True)
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)  # every process gives its part
    if trainer.accelerator.is_main_process:
        model.save_pretrained(training.output_dir, state_dict=weights)
        if args.full:
            processor.save_pretrained(training.output_dir)


def main() -> None:
    """Parse and train."""
    run_script("train_sft", TrlParser((ColdStart, SFTConfig)), train)


if __name__ == "__main__":
    main()
