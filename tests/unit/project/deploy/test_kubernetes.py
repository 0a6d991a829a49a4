"""The promises of the Kubernetes manifests."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from server.settings import Settings

FOLDER = Path(__file__).parents[4] / "deploy" / "kubernetes"
VERSION = "1.30"
"""The oldest Kubernetes that the manifests are checked for; the newest is the validator's own."""
VARIANTS = ("base", "gpu")


def read(name: str) -> list[dict[str, Any]]:
    return [part for part in yaml.safe_load_all((FOLDER / name).read_text()) if part]


def valid(resource: dict[str, Any]) -> None:
    """Check a resource; unknown fields are errors."""
    for version in (VERSION, kubernetes_validate.latest_version()):
        kubernetes_validate.validate(resource, version, strict=True)


def built(variant: str) -> list[dict[str, Any]]:
    """Return the resources that `kubectl apply --kustomize` would send."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run([kubectl, "kustomize", FOLDER / variant], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def pod_of(resources: list[dict[str, Any]]) -> dict[str, Any]:
    (deployment,) = [one for one in resources if one["kind"] == "Deployment"]
    pod: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return pod


@pytest.mark.parametrize("name", ["claim", "deployment", "network-policy", "service", "../secret.example"])
def test_a_manifest_fits_the_schemas_of_kubernetes(name: str) -> None:
    resources = read(f"base/{name}.yaml")
    assert resources
    for resource in resources:
        valid(resource)
        assert "namespace" not in resource["metadata"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_kustomize_builds_fits_the_schemas_too(variant: str) -> None:
    resources = built(variant)
    kinds = {"ConfigMap", "Deployment", "NetworkPolicy", "PersistentVolumeClaim", "Service"}
    assert {resource["kind"] for resource in resources} == kinds
    for resource in resources:
        valid(resource)
    tag = {"base": "cpu", "gpu": "cuda"}[variant]
    (container,) = pod_of(resources)["containers"]
    assert container["image"] == f"registry.example/upturn:{tag}"
    assert ("nvidia.com/gpu" in container["resources"]["limits"]) == (variant == "gpu")
    assert container["securityContext"]["readOnlyRootFilesystem"] and container["volumeMounts"]
    (settings,) = [volume["configMap"]["name"] for volume in pod_of(resources)["volumes"] if "configMap" in volume]
    assert settings in {one["metadata"]["name"] for one in resources if one["kind"] == "ConfigMap"}


def test_two_servers_never_run_on_one_database() -> None:
    (deployment,) = read("base/deployment.yaml")
    assert (deployment["spec"]["replicas"], deployment["spec"]["strategy"]) == (1, {"type": "Recreate"})


def test_the_pod_is_confined() -> None:
    pod = pod_of(read("base/deployment.yaml"))
    (container,) = pod["containers"]
    assert (
        pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    )
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")} == {
        *("/data", "/tmp", "/dev/shm")
    }


def test_variables_of_services_are_not_mistaken_for_settings() -> None:
    assert pod_of(read("base/deployment.yaml"))["enableServiceLinks"] is False


def test_the_server_has_time_to_drain_and_to_end_its_children() -> None:
    pod = pod_of(read("base/deployment.yaml"))
    assert pod["terminationGracePeriodSeconds"] >= Settings.load([]).drain_s + 25


def test_probes_ask_what_the_server_answers_without_a_key_whatever_its_names() -> None:
    (container,) = pod_of(read("base/deployment.yaml"))["containers"]
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startup": "/healthz",
        "liveness": "/healthz",
        "readiness": "/readyz",
    }
    assert all(probe["httpHeaders"] == [{"name": "Host", "value": "localhost"}] for probe in probes.values())


def test_the_labels_of_service_deployment_and_policy_agree() -> None:
    (deployment,), (service,), (policy,) = (
        read(f"base/{name}.yaml") for name in ("deployment", "service", "network-policy")
    )
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    selectors = [deployment["spec"]["selector"]["matchLabels"], service["spec"]["selector"]]
    assert [labels] * 3 == [*selectors, policy["spec"]["podSelector"]["matchLabels"]]


def test_the_settings_file_and_the_secrets_variables_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    (secret,) = read("secret.example.yaml")
    for name, value in secret["stringData"].items():
        assert not value or name == "UPTURN_DATABASE_URL", "an example holds no secret"
        monkeypatch.setenv(name, value)
    settings = Settings.load(["--config", str(FOLDER / "base" / "upturn.toml")])
    assert settings.log_format == "json" and settings.database_url
