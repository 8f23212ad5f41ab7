"""The shop as Kubernetes manifests: several gateways on one PostgreSQL, a Ray cluster for replicas, vLLM for large models.

    manifests(Wanted(image="registry.example/tollway:1", vllm={"llama": "meta-llama/…"}))      objects, by file

Plain objects, made to be read, changed and kept in a repository. No secret is among them: the README that comes with them
names the commands that make the three secrets. Security is the strict profile: no root, no capabilities, a read-only root
file system, and a network policy that lets each part speak to whom it must.
"""

from tollway.kubernetes import gateways, network, ray, vllm
from tollway.kubernetes.handbook import dockerfile, readme
from tollway.kubernetes.objects import Object
from tollway.kubernetes.wanted import Wanted

__all__ = ["Object", "Wanted", "dockerfile", "manifests", "readme"]


def manifests(wanted: Wanted) -> dict[str, list[Object]]:
    """All objects, by file, in the order in which they are applied."""
    files = {
        "00-namespace.yaml": [gateways.namespace(wanted)],
        "10-storage.yaml": [gateways.storage(wanted)],
        "20-gateway.yaml": gateways.objects(wanted),
        "30-network.yaml": network.objects(wanted),
    }
    if wanted.ray:
        files["40-ray.yaml"] = ray.objects(wanted)
    for name, model in wanted.vllm.items():
        files[f"50-vllm-{name}.yaml"] = vllm.objects(wanted, name, model)
    return files
