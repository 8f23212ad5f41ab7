"""What the objects of all parts share: how one is made, the labels and ports they find each other by, what a pod may do."""

from typing import Any, Final

from tollway.kubernetes.wanted import Wanted

Object = dict[str, Any]
PORT: Final = 8080
VLLM_PORT: Final = 8000
RAY_CLIENT: Final = 10001
HOME: Final = "/var/lib/tollway"
USER: Final = 10001
CLUSTER: Final = "tollway-ray"
GATEWAY: Final = {"app.kubernetes.io/name": "tollway", "app.kubernetes.io/component": "gateway"}
VLLM: Final = {"app.kubernetes.io/name": "tollway", "app.kubernetes.io/component": "vllm"}
RAY: Final = {"app.kubernetes.io/part-of": "tollway", "tollway/part": "ray"}
POD_SECURITY: Final = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "seccompProfile": {"type": "RuntimeDefault"},
}
WRITES: Final = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
"""A container that writes to its own root file system; nothing else that is not its own."""
LOCKED: Final = WRITES | {"readOnlyRootFilesystem": True}


def manifest(
    wanted: Wanted, version: str, kind: str, name: str, *, spec: Object | None = None, labels: Object | None = None
) -> Object:
    """An object of the shop's namespace."""
    metadata: Object = {"name": name, "namespace": wanted.namespace}
    if labels:
        metadata["labels"] = labels
    made: Object = {"apiVersion": version, "kind": kind, "metadata": metadata}
    return made if spec is None else made | {"spec": spec}


def probe(path: str, *, period: int, failures: int) -> Object:
    """Whether a container answers; `period` in seconds."""
    return {"httpGet": {"path": path, "port": "http"}, "periodSeconds": period, "failureThreshold": failures}


def from_secret(name: str, secret: str, key: str) -> Object:
    """A variable whose value nobody finds in a manifest."""
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


def key_variable(model: str) -> str:
    """The variable that holds the key of a model's vLLM."""
    return f"VLLM_{model.upper().replace('-', '_')}_KEY"
