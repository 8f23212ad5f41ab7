"""Who may speak to whom."""

from tollway.kubernetes.objects import GATEWAY, PORT, RAY, VLLM, VLLM_PORT, Object, manifest
from tollway.kubernetes.wanted import Wanted


def objects(wanted: Wanted) -> list[Object]:
    """Nothing speaks to anything, but: the world to gateways, gateways to names, database, models and Ray."""
    ports = [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]
    outward: list[Object] = [{"ports": ports}, {"ports": [{"port": 5432, "protocol": "TCP"}]}]
    outward.append({"ports": [{"port": 443, "protocol": "TCP"}]})  # upstreams elsewhere
    if wanted.ray:
        outward.append({"to": [_pods(RAY)]})
    if wanted.vllm:
        outward.append({"to": [_pods(VLLM)], "ports": [{"port": VLLM_PORT, "protocol": "TCP"}]})
    found = [
        _policy(wanted, "default-deny", {}, {"policyTypes": ["Ingress"]}),
        _policy(
            wanted, "tollway", GATEWAY,
            {
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"ports": [{"port": PORT, "protocol": "TCP"}]}],
                "egress": outward,
            },
        ),
    ]  # fmt: skip
    if wanted.ray:
        # Hosts listen on ports of their own, each with a key of its own; nobody but gateways and the cluster gets there.
        inward = [{"from": [_pods(GATEWAY), _pods(RAY), _operator()]}]
        found.append(_policy(wanted, "ray", RAY, {"policyTypes": ["Ingress"], "ingress": inward}))
    if wanted.vllm:
        inward = [{"from": [_pods(GATEWAY)], "ports": [{"port": VLLM_PORT, "protocol": "TCP"}]}]
        found.append(_policy(wanted, "vllm", VLLM, {"policyTypes": ["Ingress"], "ingress": inward}))
    return found


def _policy(wanted: Wanted, name: str, labels: Object, rules: Object) -> Object:
    selector = {"podSelector": {"matchLabels": labels} if labels else {}}
    return manifest(wanted, "networking.k8s.io/v1", "NetworkPolicy", name, spec=selector | rules)


def _pods(labels: Object) -> Object:
    return {"podSelector": {"matchLabels": labels}}


def _operator() -> Object:
    return {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}}}
