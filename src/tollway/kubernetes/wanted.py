"""What an operator wants of the shop on Kubernetes: images, sizes, models; and what of it cannot be."""

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from tollway.kit.errors import BadRequest

_NAME: Final = r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?"
_IMAGE: Final = r"[A-Za-z0-9][A-Za-z0-9._:/@-]*"
_MODEL: Final = r"/?[A-Za-z0-9][A-Za-z0-9._/-]*"
_CLASS: Final = r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?"
_URL: Final = r"https?://[^\s\"'`$\\]+"


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What to write. `vllm`: name on offer -> the model that vLLM loads."""

    image: str
    namespace: str = "tollway"
    gateways_min: int = 2
    gateways_max: int = 6
    public_url: str = ""
    storage_class: str = ""
    storage_gib: int = 50
    ray: bool = True
    ray_version: str = "2.60.0"
    ray_workers_max: int = 4
    vllm: Mapping[str, str] = {}
    vllm_image: str = "vllm/vllm-openai:v0.11.0"
    gpus: int = 1

    def check(self) -> None:
        """Raise BadRequest naming everything that cannot be."""
        problems = [
            f"{name!r} is not a name that Kubernetes takes (a-z, 0-9 and -)"
            for name in (self.namespace, *self.vllm)
            if not re.fullmatch(_NAME, name)
        ]
        if not 1 <= self.gateways_min <= self.gateways_max:
            problems.append(f"gateways {self.gateways_min} to {self.gateways_max} is no range")
        if not re.fullmatch(_IMAGE, self.image):
            problems.append(f"{self.image!r} is no name of an image" if self.image else "no image is named")
        problems += [
            f"{model!r} is no name of a model" for model in self.vllm.values() if not re.fullmatch(_MODEL, model)
        ]
        if self.storage_class and not re.fullmatch(_CLASS, self.storage_class):
            problems.append(f"{self.storage_class!r} is no name of a storage class")
        if self.public_url and not re.fullmatch(_URL, self.public_url):
            problems.append(f"{self.public_url!r} is no address such as https://api.example.com")
        if self.ray_workers_max < 1 or self.gpus < 1 or self.storage_gib < 1:
            problems.append("workers, GPUs and storage are at least 1")
        if problems:
            raise BadRequest("These manifests cannot be: " + "; ".join(problems) + ".", code="bad_manifest")
