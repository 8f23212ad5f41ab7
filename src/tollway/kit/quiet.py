"""Libraries that tell their makers how they are used, or everybody what ails them: told not to, before they are imported.

OpenVINO reports every import to an analytics service, from a child process, and asks no variable: its reporter is kept from
being imported, and it goes on with the empty one that it has for that case.
"""

import logging
import os
import sys
from typing import Final

VARIABLES: Final = {
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "DO_NOT_TRACK": "1",
}
_REPORTERS: Final = ("openvino_telemetry",)
_TALKERS: Final = ("torchao", "torch.utils._pytree")


def no_telemetry() -> None:
    """For this process and its children, from now on."""
    os.environ.update(VARIABLES)
    for name in _REPORTERS:
        sys.modules[name] = None  # type: ignore[assignment]  # importing it is an ImportError


def no_chatter() -> None:
    """Some complain on the terminal of parts for other machines, and of each other's habits; nobody here can help it."""
    for name in _TALKERS:
        logging.getLogger(name).setLevel(logging.ERROR)
