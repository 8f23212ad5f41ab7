"""The shop as Kubernetes manifests: several gateways on one PostgreSQL, a Ray cluster for replicas, vLLM for large models.

    made = export(Wanted(image="registry.example/tollway:1", vllm={"llama": "meta-llama/…"}), folder)

Plain files, one object a document, made to be read, changed and kept in a repository. No secret is written: the README
that comes with them names the commands that make the three secrets. Security is the strict profile: no root, no
capabilities, a read-only root file system, and a network policy that lets each part speak to whom it must.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from tollway.kit import yaml
from tollway.kit.errors import BadRequest, Conflict

_PORT: Final = 8080
_OPERATOR: Final = "helm install kuberay-operator kuberay-operator --repo https://ray-project.github.io/kuberay-helm/"
_VLLM_PORT: Final = 8000
_RAY_CLIENT: Final = 10001
_HOME: Final = "/var/lib/tollway"
_USER: Final = 10001
_NAME: Final = r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?"
_GATEWAY: Final = {"app.kubernetes.io/name": "tollway", "app.kubernetes.io/component": "gateway"}
_CLUSTER: Final = "tollway-ray"
Object = dict[str, Any]


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
        import re

        problems = [
            f"{name!r} is not a name that Kubernetes takes (a-z, 0-9 and -)"
            for name in (self.namespace, *self.vllm)
            if not re.fullmatch(_NAME, name)
        ]
        if not 1 <= self.gateways_min <= self.gateways_max:
            problems.append(f"gateways {self.gateways_min} to {self.gateways_max} is no range")
        if not self.image:
            problems.append("no image is named")
        if self.ray_workers_max < 1 or self.gpus < 1 or self.storage_gib < 1:
            problems.append("workers, GPUs and storage are at least 1")
        if problems:
            raise BadRequest("These manifests cannot be: " + "; ".join(problems) + ".", code="bad_manifest")


class Made(msgspec.Struct, frozen=True):
    """What was written."""

    folder: str
    files: tuple[str, ...]
    objects: int


def export(wanted: Wanted, folder: Path) -> Made:
    """Write the manifests, a Dockerfile and a README into a new folder. Raises BadRequest, Conflict."""
    wanted.check()
    if folder.exists() and any(folder.iterdir()):
        raise Conflict(f"{folder} is not empty.", code="folder_not_empty", hint="Give a new folder with --out.")
    folder.mkdir(parents=True, exist_ok=True)
    files = manifests(wanted)
    for name, objects in files.items():
        (folder / name).write_text("---\n".join(yaml.dumped(one) for one in objects), encoding="utf-8")
    (folder / "Dockerfile").write_text(_dockerfile(wanted), encoding="utf-8")
    (folder / "README.md").write_text(_readme(wanted, files), encoding="utf-8")
    return Made(str(folder), (*files, "Dockerfile", "README.md"), sum(len(objects) for objects in files.values()))


def manifests(wanted: Wanted) -> dict[str, list[Object]]:
    """All objects, by file, in the order in which they are applied."""
    files = {
        "00-namespace.yaml": [_namespace(wanted)],
        "10-storage.yaml": [_storage(wanted)],
        "20-gateway.yaml": [
            _account(wanted), _settings(wanted), _gateway(wanted), _gateway_service(wanted), _scaler(wanted),
            _budget(wanted),
        ],
        "30-network.yaml": [*_policies(wanted)],
    }  # fmt: skip
    if wanted.ray:
        files["40-ray.yaml"] = [_ray(wanted)]
    for name, model in wanted.vllm.items():
        files[f"50-vllm-{name}.yaml"] = [*_vllm(wanted, name, model)]
    return files


# -- the gateways ------------------------------------------------------------------------------------------------------


def _namespace(wanted: Wanted) -> Object:
    profile = "baseline" if wanted.vllm or wanted.ray else "restricted"  # what others' images and the operator add
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": wanted.namespace, "labels": {"pod-security.kubernetes.io/enforce": profile}},
    }


def _storage(wanted: Wanted) -> Object:
    spec: Object = {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": f"{wanted.storage_gib}Gi"}},
    }
    if wanted.storage_class:
        spec["storageClassName"] = wanted.storage_class
    return _object(wanted, "v1", "PersistentVolumeClaim", "tollway-home", spec=spec)


def _account(wanted: Wanted) -> Object:
    made = _object(wanted, "v1", "ServiceAccount", "tollway", labels=_GATEWAY)
    return made | {"automountServiceAccountToken": False}


def _settings(wanted: Wanted) -> Object:
    data = {
        "TOLLWAY_HOST": "0.0.0.0",  # noqa: S104 - inside its pod, behind the service and the network policy
        "TOLLWAY_PORT": str(_PORT),
        "TOLLWAY_GATEWAYS": "many",
        "TOLLWAY_PUBLIC_URL": wanted.public_url,
    }
    if wanted.ray:
        data |= {"TOLLWAY_RUNTIME": f"ray://{_CLUSTER}-head-svc:{_RAY_CLIENT}", "RAY_AUTH_MODE": "token"}
    return _object(wanted, "v1", "ConfigMap", "tollway", labels=_GATEWAY) | {"data": data}


def _gateway_container(wanted: Wanted) -> Object:
    environment = [_from_secret("TOLLWAY_DATABASE_URL", "tollway-database", "url")]
    if wanted.ray:
        environment.append(_from_secret("RAY_AUTH_TOKEN", "tollway-ray-token", "auth_token"))
    environment += [_from_secret(_key_of(name), "tollway-vllm", "key") for name in wanted.vllm]
    small = {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "2Gi"}}
    large = {"requests": {"cpu": "4", "memory": "8Gi"}, "limits": {"memory": "16Gi"}}
    return {
        "name": "gateway",
        "image": wanted.image,
        "args": ["up", "--home", _HOME, "--no-starter"],
        "envFrom": [{"configMapRef": {"name": "tollway"}}],
        "env": environment,
        "ports": [{"name": "http", "containerPort": _PORT}],
        # Ready while every model on offer answers; alive while the loop turns; slow to start only once.
        "startupProbe": _probe("/healthz", period=2, failures=90),
        "livenessProbe": _probe("/healthz", period=10, failures=6),
        "readinessProbe": _probe("/readyz", period=3, failures=2),
        "resources": small if wanted.ray else large,  # the models are on the nodes of the cluster, or here
        "securityContext": _LOCKED,
        "volumeMounts": [
            {"name": "home", "mountPath": _HOME},
            {"name": "keys", "mountPath": f"{_HOME}/keys"},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a volume of its own
        ],
    }


def _gateway(wanted: Wanted) -> Object:
    pod = {
        "serviceAccountName": "tollway",
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 60,  # calls in flight end, slices are given back
        "securityContext": _POD_SECURITY,
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": _GATEWAY},
            }
        ],
        "initContainers": [
            {
                # The shop reads its secrets only from files of its own that nobody else can read.
                "name": "keys",
                "image": wanted.image,
                "command": ["sh", "-c", "umask 077 && cp -L /secret/pepper /secret/signing.key /keys/"],
                "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
                "securityContext": _LOCKED,
                "volumeMounts": [
                    {"name": "secret", "mountPath": "/secret", "readOnly": True},
                    {"name": "keys", "mountPath": "/keys"},
                ],
            }
        ],
        "containers": [_gateway_container(wanted)],
        "volumes": [
            {"name": "home", "persistentVolumeClaim": {"claimName": "tollway-home"}},
            {"name": "secret", "secret": {"secretName": "tollway-keys"}},
            {"name": "keys", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }
    spec = {
        "replicas": wanted.gateways_min,
        "selector": {"matchLabels": _GATEWAY},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "template": {
            "metadata": {
                "labels": _GATEWAY,
                "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": str(_PORT)},
            },
            "spec": pod,
        },
    }
    return _object(wanted, "apps/v1", "Deployment", "tollway", spec=spec, labels=_GATEWAY)


def _gateway_service(wanted: Wanted) -> Object:
    spec = {"selector": _GATEWAY, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}
    return _object(wanted, "v1", "Service", "tollway", spec=spec, labels=_GATEWAY)


def _scaler(wanted: Wanted) -> Object:
    busy = {
        "type": "Resource",
        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}},
    }
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "tollway"},
        "minReplicas": wanted.gateways_min,
        "maxReplicas": wanted.gateways_max,
        "metrics": [busy],
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 300}},
    }
    return _object(wanted, "autoscaling/v2", "HorizontalPodAutoscaler", "tollway", spec=spec, labels=_GATEWAY)


def _budget(wanted: Wanted) -> Object:
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": _GATEWAY}}
    return _object(wanted, "policy/v1", "PodDisruptionBudget", "tollway", spec=spec, labels=_GATEWAY)


def _policies(wanted: Wanted) -> list[Object]:
    """Nothing speaks to anything, but: the world to gateways, gateways to names, database, models and Ray."""
    ports = [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]
    outward: list[Object] = [{"ports": ports}, {"ports": [{"port": 5432, "protocol": "TCP"}]}]
    outward.append({"ports": [{"port": 443, "protocol": "TCP"}]})  # upstreams elsewhere
    if wanted.ray:
        outward.append({"to": [_pods(_ray_labels())]})
    if wanted.vllm:
        outward.append({"to": [_pods(_VLLM)], "ports": [{"port": _VLLM_PORT, "protocol": "TCP"}]})
    found = [
        _policy(wanted, "default-deny", {}, {"policyTypes": ["Ingress"]}),
        _policy(
            wanted, "tollway", _GATEWAY,
            {
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"ports": [{"port": _PORT, "protocol": "TCP"}]}],
                "egress": outward,
            },
        ),
    ]  # fmt: skip
    if wanted.ray:
        # Hosts listen on ports of their own, each with a key of its own; nobody but gateways and the cluster gets there.
        inward = [{"from": [_pods(_GATEWAY), _pods(_ray_labels()), _operator()]}]
        found.append(_policy(wanted, "ray", _ray_labels(), {"policyTypes": ["Ingress"], "ingress": inward}))
    if wanted.vllm:
        inward = [{"from": [_pods(_GATEWAY)], "ports": [{"port": _VLLM_PORT, "protocol": "TCP"}]}]
        found.append(_policy(wanted, "vllm", _VLLM, {"policyTypes": ["Ingress"], "ingress": inward}))
    return found


# -- Ray (KubeRay) -----------------------------------------------------------------------------------------------------


def _ray(wanted: Wanted) -> Object:
    """A cluster that grows with the replicas that wait for a place. Replicas are hosts that gateways start there."""
    head = _ray_pod(wanted, "ray-head", cpu="1", memory="4Gi")
    head["containers"][0]["ports"] = [
        {"name": "gcs", "containerPort": 6379},
        {"name": "client", "containerPort": _RAY_CLIENT},
    ]
    worker = _ray_pod(wanted, "ray-worker", cpu="4", memory="8Gi")
    spec = {
        "rayVersion": wanted.ray_version,
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {"idleTimeoutSeconds": 300, "upscalingMode": "Default"},
        "authOptions": {"mode": "token", "secretName": "tollway-ray-token"},
        "headGroupSpec": {
            # No replica on the head: whoever serves calls must not take the cluster's memory along.
            "rayStartParams": {"num-cpus": "0", "include-dashboard": "false"},
            "template": {"metadata": {"labels": _ray_labels()}, "spec": head},
        },
        "workerGroupSpecs": [
            {
                "groupName": "replicas",
                "replicas": 1,
                "minReplicas": 1,
                "maxReplicas": wanted.ray_workers_max,
                "rayStartParams": {},
                "template": {"metadata": {"labels": _ray_labels()}, "spec": worker},
            }
        ],
    }
    return _object(wanted, "ray.io/v1", "RayCluster", _CLUSTER, spec=spec, labels=_ray_labels())


def _ray_pod(wanted: Wanted, name: str, *, cpu: str, memory: str) -> Object:
    container = {
        "name": name,
        "image": wanted.image,
        "command": ["/bin/bash", "-lc", "--"],
        "env": [
            {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"},
            {"name": "TOLLWAY_NODE_CACHE", "value": "/cache"},
        ],
        "resources": {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": memory}},
        "securityContext": _WRITES,
        "volumeMounts": [
            {"name": "home", "mountPath": f"{_HOME}/packages", "subPath": "packages", "readOnly": True},
            {"name": "cache", "mountPath": "/cache"},
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - Ray's object store
        ],
    }
    return {
        "automountServiceAccountToken": False,
        "securityContext": _POD_SECURITY,
        "containers": [container],
        "volumes": [
            {"name": "home", "persistentVolumeClaim": {"claimName": "tollway-home"}},
            {"name": "cache", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
        ],
    }


# -- vLLM --------------------------------------------------------------------------------------------------------------


def _vllm(wanted: Wanted, name: str, model: str) -> list[Object]:
    labels = _VLLM | {"tollway/model": name}
    container = {
        "name": "vllm",
        "image": wanted.vllm_image,
        "args": ["--model", model, "--served-model-name", name, "--port", str(_VLLM_PORT)],
        "env": [
            _from_secret("VLLM_API_KEY", "tollway-vllm", "key"),
            {"name": "VLLM_NO_USAGE_STATS", "value": "1"},
            {"name": "DO_NOT_TRACK", "value": "1"},
            {"name": "HF_HOME", "value": "/cache"},
        ],
        "ports": [{"name": "http", "containerPort": _VLLM_PORT}],
        "startupProbe": _probe("/health", period=10, failures=180),  # a large model takes long to load
        "livenessProbe": _probe("/health", period=10, failures=6),
        "readinessProbe": _probe("/health", period=5, failures=2),
        "resources": {
            "requests": {"cpu": "4", "memory": "16Gi"},
            "limits": {"memory": "64Gi", "nvidia.com/gpu": wanted.gpus},
        },
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
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
    service = {"selector": labels, "ports": [{"name": "http", "port": _VLLM_PORT, "targetPort": "http"}]}
    return [
        _object(wanted, "apps/v1", "Deployment", f"vllm-{name}", spec=spec, labels=labels),
        _object(wanted, "v1", "Service", f"vllm-{name}", spec=service, labels=labels),
    ]


# -- parts -------------------------------------------------------------------------------------------------------------

_VLLM: Final = {"app.kubernetes.io/name": "tollway", "app.kubernetes.io/component": "vllm"}
_POD_SECURITY: Final = {
    "runAsNonRoot": True,
    "runAsUser": _USER,
    "runAsGroup": _USER,
    "fsGroup": _USER,
    "seccompProfile": {"type": "RuntimeDefault"},
}
_WRITES: Final = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
_LOCKED: Final = _WRITES | {"readOnlyRootFilesystem": True}


def _object(
    wanted: Wanted, version: str, kind: str, name: str, *, spec: Object | None = None, labels: Object | None = None
) -> Object:
    metadata: Object = {"name": name, "namespace": wanted.namespace}
    if labels:
        metadata["labels"] = labels
    made: Object = {"apiVersion": version, "kind": kind, "metadata": metadata}
    return made if spec is None else made | {"spec": spec}


def _policy(wanted: Wanted, name: str, labels: Object, rules: Object) -> Object:
    selector = {"podSelector": {"matchLabels": labels} if labels else {}}
    return _object(wanted, "networking.k8s.io/v1", "NetworkPolicy", name, spec=selector | rules)


def _pods(labels: Object) -> Object:
    return {"podSelector": {"matchLabels": labels}}


def _operator() -> Object:
    return {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}}}


def _ray_labels() -> Object:
    return {"app.kubernetes.io/part-of": "tollway", "tollway/part": "ray"}


def _probe(path: str, *, period: int, failures: int) -> Object:
    return {"httpGet": {"path": path, "port": "http"}, "periodSeconds": period, "failureThreshold": failures}


def _from_secret(name: str, secret: str, key: str) -> Object:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


def _key_of(model: str) -> str:
    """The variable that holds the key of a model's vLLM."""
    return f"VLLM_{model.upper().replace('-', '_')}_KEY"


def _dockerfile(wanted: Wanted) -> str:
    ray = f'"tollway[ray]" "ray[client,train]=={wanted.ray_version}"' if wanted.ray else "tollway"
    return f"""FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 wget && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir {ray}
RUN useradd --uid {_USER} --home-dir {_HOME} --create-home tollway
USER {_USER}
ENTRYPOINT ["tollway"]
"""


def _readme(wanted: Wanted, files: Mapping[str, Sequence[Object]]) -> str:
    space = f"-n {wanted.namespace}"
    secrets = [
        f"kubectl {space} create secret generic tollway-keys --from-file=pepper=keys/pepper "
        "--from-file=signing.key=keys/signing.key",
        f"kubectl {space} create secret generic tollway-database --from-literal=url=postgresql://USER:PASSWORD@HOST/tollway",
    ]
    if wanted.ray:
        secrets.append(
            f"kubectl {space} create secret generic tollway-ray-token --from-literal=auth_token=$(openssl rand -hex 32)"
        )
    if wanted.vllm:
        secrets.append(f"kubectl {space} create secret generic tollway-vllm --from-literal=key=$(openssl rand -hex 32)")
    offers = [
        f"tollway model add {name} --upstream http://vllm-{name}:{_VLLM_PORT}/v1 --upstream-model {name} "
        f"--upstream-key-env {_key_of(name)}"
        for name in wanted.vllm
    ]
    steps = [
        f"docker build -t {wanted.image} . && docker push {wanted.image}",
        "kubectl apply -f 00-namespace.yaml",
        *secrets,
        *([_OPERATOR] if wanted.ray else []),
        "kubectl apply -f .",
        f"kubectl {space} rollout status deployment/tollway",
        *[f"kubectl {space} exec deploy/tollway -c gateway -- {line} --home {_HOME}" for line in offers],
    ]
    listed = "\n".join(f"- `{name}`: {', '.join(one['kind'] for one in objects)}" for name, objects in files.items())
    return f"""# Tollway on Kubernetes

{listed}

In this order; `keys/` is the folder of the home that you sell from today (docs/scale-out.md):

```
{chr(10).join(steps)}
```

The database is yours to bring: PostgreSQL 14 or newer, with sessions (not transactions) pooled, if at all. `tollway-home` is
shared by all gateways and read by the Ray nodes: its storage class must offer ReadWriteMany.
"""
