"""Engines: what executes weights. One small port (`Engine`) and what implements it: `LlamaCpp`, `OpenVinoGenai`, `Rows`,
`Speech` and `UpstreamServer`.

An engine says what it can do (`Caps`), how to start a process for it (`launch`; None: nothing to start), where that
answers (`address`) and how to find out whether it is well (`probe`, `pulse`). Running it is `serve.replica`'s business.
All speak OpenAI-compatible HTTP: `wire.Pool(address.url, address.key)`, paths with `address.prefix` before them.
"""

from tollway.serve.engines.llama_cpp import LlamaCpp
from tollway.serve.engines.machine import cpu_cores, cpu_threads, memory_bytes
from tollway.serve.engines.openvino_genai import OpenVinoGenai
from tollway.serve.engines.port import COUNTED_AT_ONCE, Address, Caps, Engine, Launch, Probe
from tollway.serve.engines.rows import Rows
from tollway.serve.engines.speech import Speech
from tollway.serve.engines.upstream import UpstreamServer

__all__ = [
    "COUNTED_AT_ONCE",
    "Address",
    "Caps",
    "Engine",
    "Launch",
    "LlamaCpp",
    "OpenVinoGenai",
    "Probe",
    "Rows",
    "Speech",
    "UpstreamServer",
    "cpu_cores",
    "cpu_threads",
    "memory_bytes",
]
