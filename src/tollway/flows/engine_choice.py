"""An engine chosen by its name for a deployment (`serve/deployments.py`), unmeasured; what was measured is `tune.py`'s.

    engine_choice.require(package, "torch")     raises BadRequest where that engine cannot serve it
"""

import importlib.util
from typing import Final

from tollway.artifacts.store import ModelPackage
from tollway.kit.errors import BadRequest
from tollway.kit.formats import FORMATS, for_engine

_MODULES: Final = {"onnx": "onnxruntime", "openvino": "openvino", "litert": "ai_edge_litert", "torch": "torch"}


def require(package: ModelPackage, engine: str) -> None:
    """Raises BadRequest where the package has no format for this engine, or the engine is not installed."""
    if not for_engine(package.manifest.formats, engine):
        engines = sorted({FORMATS[one].engine for one in package.manifest.formats if one in FORMATS and FORMATS[one].served})
        raise BadRequest(
            f"{package.ref} cannot be served on {engine!r}: its formats are for {', '.join(engines) or 'no engine'}.",
            code="unsupported_engine", param="engine",
            hint="Language models: tollway model tune NAME. Others: add the format to [convert] of its recipe "
            '("pt2" for torch).',
        )  # fmt: skip
    if importlib.util.find_spec(_MODULES[engine]) is None:
        raise BadRequest(
            f"The engine {engine} is not installed.", code="not_installed", param="engine",
            hint=f"pip install 'tollway[{'factory' if engine == 'torch' else engine}]'",
        )  # fmt: skip
