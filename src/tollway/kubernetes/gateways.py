"""The gateways: a Deployment that grows with its load, with its settings, its service and the home that all of them share."""

from tollway.kubernetes.objects import (
    CLUSTER,
    GATEWAY,
    HOME,
    LOCKED,
    POD_SECURITY,
    PORT,
    RAY_CLIENT,
    Object,
    from_secret,
    key_variable,
    manifest,
    probe,
)  # fmt: skip
from tollway.kubernetes.wanted import Wanted


def objects(wanted: Wanted) -> list[Object]:
    """The gateways and what they run by."""
    return [
        _account(wanted), _settings(wanted), _deployment(wanted), _service(wanted), _scaler(wanted), _budget(wanted),
    ]  # fmt: skip


def namespace(wanted: Wanted) -> Object:
    profile = "baseline" if wanted.vllm or wanted.ray else "restricted"  # what others' images and the operator add
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": wanted.namespace, "labels": {"pod-security.kubernetes.io/enforce": profile}},
    }


def storage(wanted: Wanted) -> Object:
    spec: Object = {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": f"{wanted.storage_gib}Gi"}},
    }
    if wanted.storage_class:
        spec["storageClassName"] = wanted.storage_class
    return manifest(wanted, "v1", "PersistentVolumeClaim", "tollway-home", spec=spec)


def _account(wanted: Wanted) -> Object:
    made = manifest(wanted, "v1", "ServiceAccount", "tollway", labels=GATEWAY)
    return made | {"automountServiceAccountToken": False}


def _settings(wanted: Wanted) -> Object:
    data = {
        "TOLLWAY_HOST": "0.0.0.0",  # noqa: S104 - inside its pod, behind the service and the network policy
        "TOLLWAY_PORT": str(PORT),
        "TOLLWAY_GATEWAYS": "many",
        "TOLLWAY_PUBLIC_URL": wanted.public_url,
    }
    if wanted.ray:
        data |= {"TOLLWAY_RUNTIME": f"ray://{CLUSTER}-head-svc:{RAY_CLIENT}", "RAY_AUTH_MODE": "token"}
    return manifest(wanted, "v1", "ConfigMap", "tollway", labels=GATEWAY) | {"data": data}


def _container(wanted: Wanted) -> Object:
    environment = [from_secret("TOLLWAY_DATABASE_URL", "tollway-database", "url")]
    if wanted.ray:
        environment.append(from_secret("RAY_AUTH_TOKEN", "tollway-ray-token", "auth_token"))
    environment += [from_secret(key_variable(name), "tollway-vllm", "key") for name in wanted.vllm]
    small = {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "2Gi"}}
    large = {"requests": {"cpu": "4", "memory": "8Gi"}, "limits": {"memory": "16Gi"}}
    return {
        "name": "gateway",
        "image": wanted.image,
        "args": ["up", "--home", HOME, "--no-starter"],
        "envFrom": [{"configMapRef": {"name": "tollway"}}],
        "env": environment,
        "ports": [{"name": "http", "containerPort": PORT}],
        # Ready while every model on offer answers; alive while the loop turns; slow to start only once.
        "startupProbe": probe("/healthz", period=2, failures=90),
        "livenessProbe": probe("/healthz", period=10, failures=6),
        "readinessProbe": probe("/readyz", period=3, failures=2),
        "resources": small if wanted.ray else large,  # the models are on the nodes of the cluster, or here
        "securityContext": LOCKED,
        "volumeMounts": [
            {"name": "home", "mountPath": HOME},
            {"name": "keys", "mountPath": f"{HOME}/keys"},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a volume of its own
        ],
    }


def _deployment(wanted: Wanted) -> Object:
    pod = {
        "serviceAccountName": "tollway",
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 60,  # calls in flight end, slices are given back
        "securityContext": POD_SECURITY,
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": GATEWAY},
            }
        ],
        "initContainers": [
            {
                # The shop reads its secrets only from files of its own that nobody else can read.
                "name": "keys",
                "image": wanted.image,
                "command": ["sh", "-c", "umask 077 && cp -L /secret/pepper /secret/signing.key /keys/"],
                "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
                "securityContext": LOCKED,
                "volumeMounts": [
                    {"name": "secret", "mountPath": "/secret", "readOnly": True},
                    {"name": "keys", "mountPath": "/keys"},
                ],
            }
        ],
        "containers": [_container(wanted)],
        "volumes": [
            {"name": "home", "persistentVolumeClaim": {"claimName": "tollway-home"}},
            {"name": "secret", "secret": {"secretName": "tollway-keys"}},
            {"name": "keys", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }
    spec = {
        "replicas": wanted.gateways_min,
        "selector": {"matchLabels": GATEWAY},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "template": {
            "metadata": {
                "labels": GATEWAY,
                "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": str(PORT)},
            },
            "spec": pod,
        },
    }
    return manifest(wanted, "apps/v1", "Deployment", "tollway", spec=spec, labels=GATEWAY)


def _service(wanted: Wanted) -> Object:
    spec = {"selector": GATEWAY, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}
    return manifest(wanted, "v1", "Service", "tollway", spec=spec, labels=GATEWAY)


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
    return manifest(wanted, "autoscaling/v2", "HorizontalPodAutoscaler", "tollway", spec=spec, labels=GATEWAY)


def _budget(wanted: Wanted) -> Object:
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": GATEWAY}}
    return manifest(wanted, "policy/v1", "PodDisruptionBudget", "tollway", spec=spec, labels=GATEWAY)
