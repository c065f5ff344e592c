"""Greedy completions of a model whose weights are shared out by FSDP2, beside those of the same model as it is.

python tests/fsdp_worker.py FOLDER
"""

import sys
from pathlib import Path

import torch
from torch.distributed import destroy_process_group, init_process_group
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import GenerationConfig

sys.path.insert(0, str(Path(__file__).parent.parent))
from omni.features import encode_clip
from omni.grpo import score_completions
from omni.rollout import generate_shared
from omni.tiny import tiny
from tests.clips import make_clip


def main(folder: str) -> None:
    init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
    model, processor = tiny()
    clips, texts = [encode_clip(model, processor, make_clip(1.0, i)) for i in range(2)], ["What is it?"] * 2
    prompts = processor.ask(clips, texts)
    config = GenerationConfig(max_new_tokens=6, do_sample=False, eos_token_id=[2], pad_token_id=2)
    with torch.no_grad():
        alone = generate_shared(model, prompts, [0, 0, 1], config)
    mesh = init_device_mesh("cpu", (1,))
    for layer in model.model.language_model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    with torch.no_grad():
        shared = generate_shared(model, prompts, [0, 0, 1], config)
    assert all(isinstance(weight, DTensor) for weight in model.model.language_model.layers.parameters())
    ids = torch.cat([prompts["input_ids"], torch.tensor([row[:1] for row in (shared[0], shared[2])])], 1)
    mask = torch.cat([prompts["attention_mask"], torch.ones(2, 1, dtype=torch.long)], 1)
    score_completions(model, processor, ids, mask, clips, texts, completion=1).log_probs.sum().backward()
    reached = [weight for weight in model.model.language_model.parameters() if weight.grad is not None]
    print("equal", alone == shared, "gradients", bool(reached), flush=True)
    destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
