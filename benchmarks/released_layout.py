"""A folder in the layout of the released R1-Omni-0.5B with random weights, of its real sizes or of others.

    python benchmarks/released_layout.py OUT             1.37 B parameters, 2.75 GB in bfloat16
    python benchmarks/released_layout.py OUT --measure   then import and load it, and print the peak of memory

Stands for the released weights where they cannot be had: names, shapes and files are theirs, the numbers mean nothing.
`--measure` runs the import and the loading in processes of their own, since the peak of a process never falls.
"""

import json
import platform
import resource
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import torch
import typer
from safetensors.torch import save_file
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import BertConfig, BertModel, Qwen2Config, Qwen2ForCausalLM, SiglipVisionConfig, WhisperConfig
from transformers import SiglipVisionModel as Siglip
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from omni.fusion.released import InstructionRouted

REAL = {
    "text": {
        "vocab_size": 151_936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
        "num_attention_heads": 14, "num_key_value_heads": 2, "rope_theta": 1e6, "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
    },
    "vision": {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "image_size": 224, "patch_size": 16,
    },
    "audio": {
        "d_model": 1280, "encoder_layers": 32, "encoder_attention_heads": 20, "encoder_ffn_dim": 5120,
        "num_mel_bins": 128, "max_source_positions": 1500,
    },
    "bert": {},
}  # fmt: skip
TEMPLATE = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LETTERS = "abcdefghijklmnopqrstuvwxyz"
BERT_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *"?.,;<>/", *(f"##{c}" for c in LETTERS)]


def write_released(out: Path, sizes: dict[str, dict] = REAL, select: int = -2, seed: int = 0) -> None:
    """Write the checkpoint, and the folder `bert` with the word list beside it.

    Args:
        sizes: configurations of the parts, as `REAL`.
        select: the hidden state of the vision tower that is read.
    """
    torch.manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    text, vision = Qwen2Config(**sizes["text"]), SiglipVisionConfig(**sizes["vision"])
    audio, bert = WhisperConfig(**sizes["audio"]), BertConfig(**sizes["bert"])
    tensors = parts(text, vision, audio, bert)
    save_file(tensors, out / "model.safetensors")
    facts = sizes["text"] | {
        "architectures": ["HumanOmniQwen2ForCausalLM"], "model_type": "HumanOmni_qwen2", "num_frames": 8,
        "mm_projector_type": "all_in_one_small", "mm_audio_projector_type": "mlp2x_gelu",
        "mm_vision_tower": "/not/here/siglip", "mm_audio_tower": "/not/here/whisper", "mm_vision_select_layer": select,
        "mm_vision_select_feature": "patch", "mm_hidden_size": vision.hidden_size, "audio_hidden_size": audio.d_model,
        "mm_use_x_start_end": True, "torch_dtype": "bfloat16",
    }  # fmt: skip
    (out / "config.json").write_text(json.dumps(facts, indent=1))
    write_tokenizer(out)
    words = out.parent / "bert"
    words.mkdir(exist_ok=True)
    listed = (BERT_WORDS + [f"[unused{i}]" for i in range(bert.vocab_size)])[: bert.vocab_size]
    (words / "vocab.txt").write_text("\n".join(listed) + "\n")
    (words / "config.json").write_text(json.dumps(bert.to_dict()))


def parts(text: Qwen2Config, vision: SiglipVisionConfig, audio: WhisperConfig, bert: BertConfig) -> dict[str, Tensor]:
    """All tensors by their released names, in bfloat16."""
    side = vision.image_size // vision.patch_size
    with torch.device("meta"):
        widths = {"video": vision.hidden_size, "audio": audio.d_model}
        fusion = InstructionRouted(widths, text.hidden_size, side, bert.to_diff_dict())
        modules = {
            "": Qwen2ForCausalLM(text),
            "model.vision_tower.vision_tower.vision_model.": Siglip(vision),
            "model.audio_tower.audio_tower.encoder.": WhisperEncoder(audio),
            "model.bert_model.": BertModel(bert),
        }
    names = {prefix + name: x.shape for prefix, module in modules.items() for name, x in module.state_dict().items()}
    names |= {released_name(name): x.shape for name, x in fusion.state_dict().items() if not name.startswith("bert.")}
    names.pop("lm_head.weight")  # tied
    return {name: (torch.randn(shape, dtype=torch.float32) * 0.05).bfloat16() for name, shape in names.items()}


def released_name(name: str) -> str:
    """The released name of a tensor of our fusion.

    >>> released_name("body.s1.b1.se.fc1.bias"), released_name("gate.0.bias")
    ('model.mm_projector.s1_body.b1.se.fc1.bias', 'model.bert_gate.0.bias')
    """
    part, rest = name.split(".", 1)
    if part in ("video", "body"):
        stage, rest = rest.split(".", 1)
        return f"model.mm_projector.{stage}_{part}.{rest}"
    heads = {"face": "model.mm_projector.mlp_2xgelu_face", "audio": "model.audio_projector", "gate": "model.bert_gate"}
    return f"{heads[part]}.{rest}"


def write_tokenizer(out: Path) -> None:
    """Bytes as tokens in the files of a Qwen2 tokenizer."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    (out / "vocab.json").write_text(json.dumps({letter: i for i, letter in enumerate(letters)}))
    (out / "merges.txt").write_text("#version: 0.2\n")
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    added = {str(len(letters) + i): {"content": t, "special": True} for i, t in enumerate(special)}
    facts = {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": added, "chat_template": TEMPLATE}
    facts |= {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": None}
    (out / "tokenizer_config.json").write_text(json.dumps(facts))


def peak() -> float:
    """Largest resident memory of this process, in GB."""
    scale = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e9


def main(
    out: Path,
    measure: Annotated[bool, typer.Option("--measure", help="import and load it, and print the peaks")] = False,
    step: Annotated[str, typer.Option(help="one step of the measurement: import or load", hidden=True)] = "",
) -> None:
    """Write the folder, and measure."""
    if step == "import":
        from omni.import_weights import import_weights

        import_weights(out, out.parent / f"{out.name}-imported")
        typer.echo(peak())
    elif step == "load":
        from omni.loading import load

        model, _ = load(out.parent / f"{out.name}-imported", dtype="bfloat16")
        for weight in model.state_dict().values():  # which are only mapped from the file until they are read
            weight.sum()
        typer.echo(peak())
    else:
        if not (out / "model.safetensors").exists():
            write_released(out)
        if measure:
            size = (out / "model.safetensors").stat().st_size / 1e9
            result = {"weights_gb": round(size, 3)}
            for name in ("import", "load"):
                command = [sys.executable, __file__, str(out), "--step", name]
                ran = subprocess.run(command, check=True, capture_output=True, text=True)
                result[f"{name}_peak_gb"] = round(float(ran.stdout.split()[-1]), 3)
            result["ratio"] = round(max(result["import_peak_gb"], result["load_peak_gb"]) / size, 3)
            typer.echo(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
