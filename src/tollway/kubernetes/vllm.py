"""A model on GPUs, answered by vLLM; the gateways call it as an upstream."""

from tollway.kubernetes.objects import VLLM, VLLM_PORT, WRITES, Object, from_secret, manifest, probe
from tollway.kubernetes.wanted import Wanted


def objects(wanted: Wanted, name: str, model: str) -> list[Object]:
    labels = VLLM | {"tollway/model": name}
    container = {
        "name": "vllm",
        "image": wanted.vllm_image,
        "args": ["--model", model, "--served-model-name", name, "--port", str(VLLM_PORT)],
        "env": [
            from_secret("VLLM_API_KEY", "tollway-vllm", "key"),
            {"name": "VLLM_NO_USAGE_STATS", "value": "1"},
            {"name": "DO_NOT_TRACK", "value": "1"},
            {"name": "HF_HOME", "value": "/cache"},
        ],
        "ports": [{"name": "http", "containerPort": VLLM_PORT}],
        "startupProbe": probe("/health", period=10, failures=180),  # a large model takes long to load
        "livenessProbe": probe("/health", period=10, failures=6),
        "readinessProbe": probe("/health", period=5, failures=2),
        "resources": {
            "requests": {"cpu": "4", "memory": "16Gi"},
            "limits": {"memory": "64Gi", "nvidia.com/gpu": wanted.gpus},
        },
        "securityContext": WRITES,
        "volumeMounts": [{"name": "cache", "mountPath": "/cache"}, {"name": "shm", "mountPath": "/dev/shm"}],  # noqa: S108
    }
    pod = {
        "automountServiceAccountToken": False,
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "containers": [container],
        "volumes": [
            {"name": "cache", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}},
        ],
    }
    spec = {
        "replicas": 1,
        "selector": {"matchLabels": labels},
        "strategy": {"type": "Recreate"},  # a second one would wait for a GPU that the first one has
        "template": {"metadata": {"labels": labels}, "spec": pod},
    }
    service = {"selector": labels, "ports": [{"name": "http", "port": VLLM_PORT, "targetPort": "http"}]}
    return [
        manifest(wanted, "apps/v1", "Deployment", f"vllm-{name}", spec=spec, labels=labels),
        manifest(wanted, "v1", "Service", f"vllm-{name}", spec=service, labels=labels),
    ]
