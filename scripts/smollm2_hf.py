"""SmolLM2-135M-Instruct as a Hugging Face folder, from the GGUF weights that ``make weights`` installs: what vLLM reads.

    python scripts/smollm2_hf.py FOLDER

Dequantised once (about 10 s) and then left alone. Needs torch, transformers, gguf and accelerate.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from alignray.engine.llama import find_weights
from alignray.errors import EngineDown

DONE = "model.safetensors"


def write_hf_folder(folder: Path) -> Path:
    """The folder, complete: written aside and moved into place, so that a half-written one is never taken for a model.

    Raises:
        EngineDown: the weights are not installed.
    """
    if (folder / DONE).is_file():
        return folder
    weights = find_weights(None)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(weights.parent, gguf_file=weights.name, dtype=torch.float32)
    config = loaded.config
    # save_pretrained refuses a model that came out of a GGUF as "quantized": the same weights in a new model are not
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.dtype = torch.bfloat16
    plain = AutoModelForCausalLM.from_config(config)
    plain.load_state_dict(loaded.state_dict())
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        plain.to(torch.bfloat16).save_pretrained(aside)
        AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name).save_pretrained(aside)
        shutil.rmtree(folder, ignore_errors=True)
        aside.chmod(0o755)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    try:
        print(write_hf_folder(parser.parse_args().folder))
    except EngineDown as err:
        print(err, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
