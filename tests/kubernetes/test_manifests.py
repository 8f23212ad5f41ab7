"""The manifests hold against Kubernetes' own schemas and refer only to what is there."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

from tollway.kit.errors import BadRequest
from tollway.kubernetes import Wanted, manifests
from tollway.serve.runtimes import opened

VERSIONS = ("1.30", "1.33")
FULL = Wanted(
    image="registry.example/tollway:1", public_url="https://api.example.com", vllm={"llama-8b": "example/llama"}
)
PLAIN = Wanted(image="tollway", ray=False)

# What of KubeRay's RayCluster (ray.io/v1, operator 1.5) is used here, in its own words; pods are checked as pods.
_GROUP = {
    "type": "object",
    "additionalProperties": False,
    "required": ["template", "rayStartParams"],
    "properties": {
        "groupName": {"type": "string"},
        "replicas": {"type": "integer"},
        "minReplicas": {"type": "integer"},
        "maxReplicas": {"type": "integer"},
        "rayStartParams": {"type": "object", "additionalProperties": {"type": "string"}},
        "template": {"type": "object"},
    },
}
RAY_CLUSTER = {
    "type": "object",
    "additionalProperties": False,
    "required": ["headGroupSpec"],
    "properties": {
        "rayVersion": {"type": "string"},
        "enableInTreeAutoscaling": {"type": "boolean"},
        "autoscalerOptions": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "idleTimeoutSeconds": {"type": "integer"},
                "upscalingMode": {"enum": ["Default", "Aggressive", "Conservative"]},
            },
        },
        "authOptions": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"mode": {"enum": ["disabled", "token"]}, "secretName": {"type": "string"}},
        },
        "headGroupSpec": _GROUP,
        "workerGroupSpecs": {"type": "array", "items": _GROUP | {"required": [*_GROUP["required"], "groupName"]}},
    },
}


def objects(wanted: Wanted) -> list[dict[str, Any]]:
    return [one for found in manifests(wanted).values() for one in found]


def pods(wanted: Wanted) -> list[dict[str, Any]]:
    """The spec of every pod that would run."""
    found = []
    for one in objects(wanted):
        if one["kind"] == "Deployment":
            found.append(one["spec"]["template"])
        elif one["kind"] == "RayCluster":
            found += [one["spec"]["headGroupSpec"]["template"]]
            found += [group["template"] for group in one["spec"]["workerGroupSpecs"]]
    return found


@pytest.mark.parametrize("wanted", [FULL, PLAIN], ids=["full", "plain"])
@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_one_that_kubernetes_takes(wanted: Wanted, version: str) -> None:
    for one in objects(wanted):
        if one["kind"] == "RayCluster":
            jsonschema.Draft7Validator(RAY_CLUSTER).validate(one["spec"])
        else:
            kubernetes_validate.validate(one, version, strict=True)
    for template in pods(wanted):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": template["spec"]}
        kubernetes_validate.validate(pod, version, strict=True)


def test_a_slip_would_be_found() -> None:
    (deployment,) = (one for one in objects(PLAIN) if one["kind"] == "Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["imagePulPolicy"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, VERSIONS[-1], strict=True)


def test_what_is_referred_to_is_there() -> None:
    found = objects(FULL)
    names = {(one["kind"], one["metadata"]["name"]) for one in found}
    for one in found:
        assert one["kind"] == "Namespace" or one["metadata"]["namespace"] == FULL.namespace
        spec = one.get("spec", {})
        if one["kind"] == "HorizontalPodAutoscaler":
            target = spec["scaleTargetRef"]
            assert (target["kind"], target["name"]) in names
        if one["kind"] in ("Service", "PodDisruptionBudget"):
            wanted = spec["selector"].get("matchLabels", spec["selector"])
            assert any(wanted.items() <= pod["metadata"]["labels"].items() for pod in pods(FULL))
    for pod in pods(FULL):
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        for container in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes.keys()
            ports = {port["name"] for port in container.get("ports", [])}
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                assert probe not in container or container[probe]["httpGet"]["port"] in ports
        for volume in volumes.values():
            claim = volume.get("persistentVolumeClaim")
            assert claim is None or ("PersistentVolumeClaim", claim["claimName"]) in names


def test_pods_have_no_rights_they_do_not_need() -> None:
    for pod in pods(FULL):
        assert pod["spec"]["automountServiceAccountToken"] is False
        for container in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in container["resources"]["limits"]
    text = json.dumps(objects(FULL))
    assert "stringData" not in text
    assert '"kind": "Secret"' not in text, "a secret was written to a file"


async def test_the_gateway_s_settings_are_settings(tmp_path: Path) -> None:
    from tollway.kit.settings import TABLE

    (settings,) = (one["data"] for one in objects(FULL) if one["kind"] == "ConfigMap")
    known = {f"TOLLWAY_{setting.name.upper()}" for setting in TABLE}
    assert {name for name in settings if name.startswith("TOLLWAY_")} <= known
    assert settings["TOLLWAY_GATEWAYS"] == "many"
    cluster = next(one for one in objects(FULL) if one["kind"] == "RayCluster")["metadata"]["name"]
    assert settings["TOLLWAY_RUNTIME"] == f"ray://{cluster}-head-svc:10001"
    with pytest.raises(BadRequest):
        await opened("kubernetes://x", tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"namespace": "Über"},
        {"gateways_min": 5, "gateways_max": 2},
        {"image": ""},
        {"image": "t:1\nRUN rm"},
        {"vllm": {"a b": "x"}},
        {"vllm": {"a": "../.."}},
        {"vllm": {"a": "--trust-remote-code"}},
        {"storage_class": "A b"},
        {"public_url": "ftp://x"},
        {"public_url": "https://x\n"},
    ],
)
def test_what_cannot_be_is_refused_in_words(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match="cannot be"):
        Wanted(**({"image": "t"} | wrong)).check()
