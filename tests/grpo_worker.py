"""One GRPO step in one process or one of several; rank 0 saves the gradient that the optimizer gets.

python tests/grpo_worker.py FOLDER OUT ROWS
ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 tests/grpo_worker.py FOLDER OUT ROWS
"""

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import TrainerCallback

sys.path.insert(0, str(Path(__file__).parent.parent))
from omni.features import read_features, write_features
from tests.test_grpo import G, make_trainer

LETTERS = range(40, 120)  # token ids of printable bytes


def uneven(completions, clip, **columns):
    """Signal for two of the completions of the first clip, and for all of the second's."""
    places = {"0.mp4": iter([0.0, 2.0, 1.0, 1.0]), "1.mp4": iter([0.0, 1.0, 2.0, 3.0])}
    return [next(places[name]) for name in clip]


class Fixed:
    """Completions that depend on the prompt's clip and the place in its group only, not on the process."""

    def __init__(self, trainer):
        self.trainer, self.count = trainer, {}

    def __call__(self, prompt_ids, images, fields, num_generations, **unused):
        out = []
        for clip in self.trainer._clips:
            place = self.count.get(clip.sha256, 0)
            self.count[clip.sha256] = place + 1
            rng = torch.Generator().manual_seed(1000 * int(clip.sha256.split()[1]) + place)
            out.append([LETTERS[i] for i in torch.randint(len(LETTERS), (6 + place,), generator=rng)])
        return out, None


class Keep(TrainerCallback):
    def __init__(self, path: str):
        self.path = path

    def on_pre_optimizer_step(self, args, state, control, model=None, **unused):
        if int(os.environ.get("RANK", "0")) == 0:
            inner = getattr(model, "module", model)
            save_file({n: p.grad.clone() for n, p in inner.named_parameters() if p.grad is not None}, self.path)


def main(folder: str, out: str, rows: str) -> None:
    place = Path(folder) / os.environ.get("RANK", "0")
    place.mkdir(parents=True)
    trainer = make_trainer(place, uneven, clips=2, per_device_train_batch_size=int(rows), max_grad_norm=1e9)
    write_features(place / "0.safetensors", read_features(place / "0.safetensors").mute())  # no gradient for its sound
    trainer.save_completions = 1
    assert int(rows) % G == 0
    trainer._generate_single_turn = Fixed(trainer)
    trainer.add_callback(Keep(out))
    trainer.train()
    print(f"processes {trainer.accelerator.num_processes}", flush=True)
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()
    os._exit(0)  # in one run of twenty gloo's threads abort in the interpreter's teardown; the gradient is saved


if __name__ == "__main__":
    main(*sys.argv[1:])
