"""The Ray cluster that replicas live on, by KubeRay."""

from tollway.kubernetes.objects import CLUSTER, HOME, POD_SECURITY, RAY, RAY_CLIENT, WRITES, Object, manifest
from tollway.kubernetes.wanted import Wanted


def objects(wanted: Wanted) -> list[Object]:
    """A cluster that grows with the replicas that wait for a place. Replicas are hosts that gateways start there."""
    head = _pod(wanted, "ray-head", cpu="1", memory="4Gi")
    head["containers"][0]["ports"] = [
        {"name": "gcs", "containerPort": 6379},
        {"name": "client", "containerPort": RAY_CLIENT},
    ]
    worker = _pod(wanted, "ray-worker", cpu="4", memory="8Gi")
    spec = {
        "rayVersion": wanted.ray_version,
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {"idleTimeoutSeconds": 300, "upscalingMode": "Default"},
        "authOptions": {"mode": "token", "secretName": "tollway-ray-token"},
        "headGroupSpec": {
            # No replica on the head: whoever serves calls must not take the cluster's memory along.
            "rayStartParams": {"num-cpus": "0", "include-dashboard": "false"},
            "template": {"metadata": {"labels": RAY}, "spec": head},
        },
        "workerGroupSpecs": [
            {
                "groupName": "replicas",
                "replicas": 1,
                "minReplicas": 1,
                "maxReplicas": wanted.ray_workers_max,
                "rayStartParams": {},
                "template": {"metadata": {"labels": RAY}, "spec": worker},
            }
        ],
    }
    return [manifest(wanted, "ray.io/v1", "RayCluster", CLUSTER, spec=spec, labels=RAY)]


def _pod(wanted: Wanted, name: str, *, cpu: str, memory: str) -> Object:
    container = {
        "name": name,
        "image": wanted.image,
        "command": ["/bin/bash", "-lc", "--"],
        "env": [
            {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"},
            {"name": "TOLLWAY_NODE_CACHE", "value": "/cache"},
        ],
        "resources": {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": memory}},
        "securityContext": WRITES,
        "volumeMounts": [
            {"name": "home", "mountPath": f"{HOME}/packages", "subPath": "packages", "readOnly": True},
            {"name": "cache", "mountPath": "/cache"},
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - Ray's object store
        ],
    }
    return {
        "automountServiceAccountToken": False,
        "securityContext": POD_SECURITY,
        "containers": [container],
        "volumes": [
            {"name": "home", "persistentVolumeClaim": {"claimName": "tollway-home"}},
            {"name": "cache", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
        ],
    }
