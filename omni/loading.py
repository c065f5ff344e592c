"""A name to a model: `load("default")`, a folder, or `hub:owner/name`.

    folder with config.json            an OmniForConditionalGeneration saved by us
    folder with adapter_config.json    a PEFT adapter (fusion and LoRA) on the base that it names, mostly "default"
    released R1-Omni or HumanOmni      as it was downloaded, see `import_weights.py`

The network is touched only for a name that begins with `hub:`. Weights are safetensors only and no code of a
checkpoint is run. The language model runs in bfloat16 where the processor multiplies it natively, else in float32;
the towers and the fusion adapter stay in float32, unless their folder holds bfloat16 (an imported model, whose towers
are larger than its language model).
"""

import sys
import timeit
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model

from .calibration import read_calibration
from .errors import ModelError, OmniError
from .fusion.placement import place
from .import_weights import KIND as RELEASED
from .import_weights import assemble, open_weights, opened, read_json
from .model import OmniForConditionalGeneration
from .processing import OmniProcessor
from .quiet import quiet
from .released import ReleasedProcessor
from .rollout import unwrapped

HUB = "hub:"
DTYPES = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16}
PROCESSORS: dict[str, type[OmniProcessor]] = {"OmniProcessor": OmniProcessor, "ReleasedProcessor": ReleasedProcessor}
LORA_TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"  # all of the decoder
DEFAULT_ADAPTER = Path(__file__).parent / "default" / "adapter"


@dataclass
class AdapterConfig(LoraConfig):
    """PEFT's settings of a LoRA, with the fusion adapter that is saved beside it, as in `OmniConfig.fusion`."""

    fusion: dict | None = None

    @classmethod
    def read(cls, folder: Path) -> "AdapterConfig":
        """The settings of an adapter folder; what this version of PEFT does not know is left out."""
        known = {f.name for f in fields(cls)}
        return cls(**{k: v for k, v in read_json(folder / "adapter_config.json").items() if k in known})


def load(
    name: str | Path = "default",
    *,
    dtype: str = "auto",
    device: str = "auto",
    adapter: bool = True,
    merge: bool = True,
    trainable: bool = False,
    four_bit: bool = False,
):
    """Load a model and its processor.

    Args:
        name: "default", a folder, or "hub:owner/name".
        dtype: of the language model, or of all of an imported model: "auto", "float32" or "bfloat16".
        device: "auto" takes a GPU if there is one.
        adapter: False gives the base without its trained adapters (fusion is then untrained).
        merge: fold LoRA into the weights, which makes every token cheaper; False keeps a `PeftModel`.
        trainable: get ready for training: adapters that are not merged learn, and attention on a processor is computed
            with plain products, whose backward pass costs a third less there than that of the fused one. Not so for
            prompts of a thousand tokens, as imported models have: plain products would keep gigabytes.
        four_bit: hold the language model in 4 bits (NF4, arXiv 2305.14314), for training adapters on it.

    Returns:
        (model, processor), the model in eval mode.

    Raises:
        ModelError: the folder is missing, holds no weights or a damaged file; says what to do.
    """
    folder, trained = _resolve(name)
    target = torch.device(device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    if dtype not in DTYPES:
        raise ModelError(f"Unknown dtype {dtype!r}. Choose one of: {', '.join(DTYPES)}.", code="dtype")
    with quiet():
        how = {"quantization_config": four_bits()} if four_bit else {}
        kind = read_json(folder / "config.json")
        whole = best_dtype(target) if dtype == "auto" else DTYPES[dtype]
        if kind["model_type"] == RELEASED:
            model, processor, _ = assemble(folder, dtype=whole, **how)
        else:
            imported = kind.get("dtype") == "bfloat16"  # as the released checkpoints are
            how |= {"dtype": whole if imported else torch.float32}
            model = OmniForConditionalGeneration.from_pretrained(folder, use_safetensors=True, **how)
            made = PROCESSORS[read_json(folder / "processor_config.json")["processor_class"]]
            processor = made.from_pretrained(folder)
    if four_bit:
        keep_gradients(model)
    else:
        model.to(target)
        cast_language_model(model, dtype)
    if adapter and trained is not None:
        settings = AdapterConfig.read(trained)
        if settings.fusion not in (None, model.config.fusion):
            place(model, processor, settings.fusion)
        with quiet():
            model = PeftModel.from_pretrained(
                model, trained, is_trainable=trainable, config=settings, torch_device=str(target)
            )
        if merge:
            model = model.merge_and_unload()
    if trainable and target.type == "cpu" and "clip" in model.config.placeholders:
        model.set_attn_implementation({"text_config": "eager"})
    unwrapped(model).calibration = read_calibration(trained if adapter and trained is not None else folder)
    return model.eval(), processor


def has_adapter(name: str | Path) -> bool:
    """Whether a model is an adapter on a base, rather than whole."""
    return _resolve(name)[1] is not None


def new_adapter(model, name: str, rank: int, alpha: int) -> PeftModel:
    """An untrained LoRA on the decoder, with the fusion adapter to be trained and saved beside it.

    Args:
        name: what the adapter stands on, as `load` takes it; kept in its folder, of a local folder the whole path.
    """
    lora = AdapterConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=LORA_TARGETS,
        modules_to_save=["fusion"],
        fusion=model.config.fusion,
    )
    adapted = get_peft_model(model, lora)
    local = name != "default" and Path(name).is_dir()
    adapted.peft_config["default"].base_model_name_or_path = str(Path(name).absolute()) if local else name
    return adapted


def train_all(model) -> None:
    """Let all weights of the language model and the fusion adapter learn, in float32; the towers stay frozen."""
    model.requires_grad_(False)
    model.float()  # an optimizer's small steps vanish in bfloat16
    for part in (model.model.language_model, model.lm_head, model.model.fusion):
        part.requires_grad_(True)


def four_bits():
    """The quantisation of QLoRA for the decoder alone; towers, fusion and head are small and stay as they are."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=["model.vision_tower", "model.audio_tower", "model.fusion", "lm_head"],
    )


def keep_gradients(model) -> None:
    """Work around bitsandbytes 0.50.2 on processors with avx512_bf16.

    There, a forward pass in eval mode repacks a 4-bit layer for a kernel that has no gradient, and training after it
    silently loses what should flow through the layer.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def cast_language_model(model, dtype: str) -> None:
    """Put the decoder and its head into `dtype` ("auto", "float32", "bfloat16")."""
    chosen = DTYPES[dtype] or best_dtype(model.device)
    model.model.language_model.to(chosen)
    model.lm_head.to(chosen)


def best_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the processor has instructions for it, else float32 (emulated bfloat16 is slower)."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    fast = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if fast and "AVX512" in torch.backends.cpu.get_cpu_capability() else torch.float32


def run_script(name: str, parser, train: Callable[..., None]) -> None:
    """A training script: its settings are parsed and given to `train`; an error that the user can mend is one line.

    Args:
        parser: a `TrlParser`.
    """
    from yaml import YAMLError  # type: ignore[import-untyped]

    if sys.argv[-1] == "--config":
        sys.exit(f"{name}: --config needs a file, such as configs/grpo_default.yaml.")
    sys.argv += machine_flags(sys.argv)
    try:
        settings = parser.parse_args_and_config()
    except (OSError, YAMLError) as err:
        sys.exit(f"{name}: {' '.join(str(err).split())}. Correct the file or its path.")
    except ValueError as err:  # settings that do not go together
        sys.exit(f"{name}: {err}")
    try:
        train(*settings)
    except OmniError as err:
        sys.exit(f"{name}: {err}")


def machine_flags(given: Sequence[str]) -> list[str]:
    """Flags of `TrainingArguments` that a training script needs on this machine, but for those that are given."""
    flags = []
    if not torch.cuda.is_available() and "--use_cpu" not in given:
        flags += ["--use_cpu", "true"]  # else it refuses bf16
    if not any(flag.startswith("--bf16") for flag in given) and not trains_in_bf16():
        flags += ["--bf16", "false"]  # whatever a configuration says
    return flags


def trains_in_bf16() -> bool:
    """Whether training is faster in bfloat16 here: a GPU's word for it, a processor's measured products (50 ms).

    Instructions for it do not tell: Intel processors without AMX have them, and multiply at half the speed of float32.
    """
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    seconds = []
    for dtype in (torch.float32, torch.bfloat16):
        rows, weight = torch.ones(256, 576, dtype=dtype), torch.ones(1536, 576, dtype=dtype)
        seconds.append(min(timeit.repeat(partial(F.linear, rows, weight), number=2, repeat=5)))
    return seconds[1] < seconds[0]


def _resolve(name: str | Path) -> tuple[Path, Path | None]:
    """Name -> (folder of the base model, folder of the adapter or None)."""
    if str(name) == "default":
        from .default.build import base_folder

        return base_folder(), DEFAULT_ADAPTER if DEFAULT_ADAPTER.exists() else None
    folder = _download(str(name)) if str(name).startswith(HUB) else Path(name)
    if not folder.is_dir():
        raise ModelError(
            f"There is no model folder {name}. Give a folder, 'default', or 'hub:owner/name'.",
            code="not_found",
        )
    if (folder / "adapter_config.json").exists():
        open_weights(folder / "adapter_model.safetensors")
        return _resolve(_base_of(folder))[0], folder
    if not any(folder.glob("*.safetensors")) or not (folder / "config.json").exists():
        raise ModelError(
            f"{folder} holds no model: config.json and *.safetensors are needed. Give another folder, or 'default'.",
            code="no_weights",
        )
    kind = read_json(folder / "config.json").get("model_type")
    if kind not in ("omni", RELEASED):
        raise ModelError(
            f"{folder} is a {kind!r} model, not one of ours. Give a folder that save_pretrained of ours wrote, or a "
            "released R1-Omni or HumanOmni.",
            code="kind",
        )
    if kind != RELEASED:
        check_files(folder)
    return folder, None


def _base_of(adapter: Path) -> str:
    """The name of the model that an adapter stands on."""
    base = read_json(adapter / "adapter_config.json").get("base_model_name_or_path")
    where = f"{adapter / 'adapter_config.json'} (base_model_name_or_path)"
    if not base:
        raise ModelError(f"The adapter {adapter} names no base. Write its folder into {where}.", code="adapter")
    if base != "default" and not base.startswith(HUB) and not Path(base).is_dir():
        raise ModelError(
            f"The adapter {adapter} stands on {base}, and there is no such folder. Write where it is into {where}.",
            code="not_found",
        )
    if (Path(base) / "adapter_config.json").exists():
        raise ModelError(
            f"The adapter {adapter} stands on another adapter, {base}. Merge that one first.",
            code="adapter",
        )
    return base


def check_files(folder: Path) -> None:
    """Open the files of a model folder of ours, since transformers does not say which one is damaged.

    Raises:
        ModelError: one is missing or damaged; names it.
    """
    opened(folder)
    for path in (folder / "config.json", folder / "processor_config.json", *folder.glob("tokenizer*.json")):
        read_json(path)


def _download(name: str) -> Path:
    from httpx import HTTPError
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    wanted = ["*.json", "*.safetensors", "*.jinja", "*.txt"]
    try:
        return Path(snapshot_download(name.removeprefix(HUB), allow_patterns=wanted))
    except (HFValidationError, HTTPError, OSError) as err:  # all others of the hub are OSErrors
        raise ModelError(
            f"{name} cannot be downloaded ({type(err).__name__}). Check the name and the network.", code="hub"
        ) from err
