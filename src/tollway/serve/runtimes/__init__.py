"""Where replicas live: as processes of this machine, or on the nodes of a Ray cluster. The fleet sees only `Runtime`."""

from tollway.serve.runtimes.local import Local
from tollway.serve.runtimes.port import Confinement, Failed, Place, Runtime, Waits
from tollway.serve.runtimes.ray import RayRuntime, opened

__all__ = ["Confinement", "Failed", "Local", "Place", "RayRuntime", "Runtime", "Waits", "opened"]
