"""What stands beside the manifests: the Dockerfile of their image, and the commands in their order."""

from collections.abc import Mapping, Sequence
from typing import Final

from tollway.kubernetes.objects import HOME, USER, VLLM_PORT, Object, key_variable
from tollway.kubernetes.wanted import Wanted

_OPERATOR: Final = "helm install kuberay-operator kuberay-operator --repo https://ray-project.github.io/kuberay-helm/"


def dockerfile(wanted: Wanted) -> str:
    ray = f'"tollway[ray]" "ray[client,train]=={wanted.ray_version}"' if wanted.ray else "tollway"
    return f"""FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 wget && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir {ray}
RUN useradd --uid {USER} --home-dir {HOME} --create-home tollway
USER {USER}
ENTRYPOINT ["tollway"]
"""


def readme(wanted: Wanted, files: Mapping[str, Sequence[Object]]) -> str:
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
        f"tollway model add {name} --upstream http://vllm-{name}:{VLLM_PORT}/v1 --upstream-model {name} "
        f"--upstream-key-env {key_variable(name)}"
        for name in wanted.vllm
    ]
    steps = [
        f"docker build -t {wanted.image} . && docker push {wanted.image}",
        "kubectl apply -f 00-namespace.yaml",
        *secrets,
        *([_OPERATOR] if wanted.ray else []),
        "kubectl apply -f .",
        f"kubectl {space} rollout status deployment/tollway",
        *[f"kubectl {space} exec deploy/tollway -c gateway -- {line} --home {HOME}" for line in offers],
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
