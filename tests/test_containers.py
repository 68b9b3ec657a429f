"""The container files agree with the service: its metrics, its port, its errors; and they hold what they promise."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from app.errors import OverloadedError
from app.settings import Settings
from app.telemetry import Telemetry

ROOT = Path(__file__).resolve().parent.parent
DOCKER = ROOT / "docker"
DASHBOARDS = DOCKER / "grafana" / "dashboards"
DOCKERFILE = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
PROMQL_WORDS = {"by", "or", "and", "unless", "without", "on", "ignoring", "offset", "bool"}
SECRET = re.compile(r"password|passwd|secret|token|api_?key|credential|BEGIN .*PRIVATE KEY", re.IGNORECASE)


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


COMPOSE = read_yaml(ROOT / "compose.yaml")
SERVICES = sorted(COMPOSE["services"])


def instructions(name: str) -> list[str]:
    """Returns the arguments of every instruction of one kind, with continued lines joined."""
    joined = DOCKERFILE.replace("\\\n", " ")
    return [line.split(maxsplit=1)[1] for line in joined.splitlines() if line.split(maxsplit=1)[:1] == [name]]


def served_metrics() -> set[str]:
    """Returns the names of all samples that /metrics can show."""
    names = {"up"}  # Prometheus makes this one.
    for family in text_string_to_metric_families(Telemetry().render().decode()):
        names |= {family.name + suffix for suffix in SUFFIXES.get(family.type, ())}
    return names


def used_metrics(expression: str) -> set[str]:
    """Returns the metric names of a PromQL expression."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\"[^\"]*\"", " ", expression)
    bare = re.sub(r"\b(by|without|on|ignoring)\s*\([^)]*\)", " ", bare)
    return set(re.findall(r"\b[a-zA-Z_:][\w:]*\b(?!\s*\()", bare)) - PROMQL_WORDS


def rules(file: str) -> list[dict[str, Any]]:
    return [rule for group in read_yaml(DOCKER / file)["groups"] for rule in group["rules"]]


def alert_rules() -> list[dict[str, Any]]:
    return rules("alerts.yml")


def recorded() -> list[str]:
    """Returns the names of the recorded series, in their order."""
    return [rule["record"] for rule in rules("rules.yml")]


def dashboards() -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(DASHBOARDS.glob("*.json"))]


def panel_expressions() -> dict[str, str]:
    panels = [panel for dashboard in dashboards() for panel in dashboard["panels"]]
    return {f"{panel['title']} {target['refId']}": target["expr"] for panel in panels for target in panel["targets"]}


def test_used_metrics_finds_the_names_of_an_expression() -> None:
    expression = 'sum by (le) (rate(a_bucket{x=~"b|c"}[5m])) / on (le) (d_total or vector(0)) > 5e3'
    assert used_metrics(expression) == {"a_bucket", "d_total"}


def test_served_metrics_has_every_kind() -> None:
    expected = {"pairfuse_requests_total", "pairfuse_request_seconds_bucket", "pairfuse_inflight"}
    assert expected <= served_metrics()


@pytest.mark.parametrize("rule", alert_rules(), ids=lambda rule: rule["alert"])
def test_alert_uses_served_metrics_only(rule: dict[str, Any]) -> None:
    used = used_metrics(rule["expr"])
    assert used
    assert used <= served_metrics() | set(recorded())


@pytest.mark.parametrize("rule", rules("rules.yml"), ids=lambda rule: rule["record"])
def test_recording_rule_uses_served_metrics_and_the_rules_above(rule: dict[str, Any]) -> None:
    used = used_metrics(rule["expr"])
    assert used
    assert used <= served_metrics() | set(recorded()[: recorded().index(rule["record"])])


def test_every_recorded_series_is_tested_with_and_without_traffic_and_documented() -> None:
    cases = [case for test in read_yaml(DOCKER / "rules_test.yml")["tests"] for case in test["promql_expr_test"]]
    values = {name: [case["exp_samples"] for case in cases if case["expr"] == name] for name in recorded()}
    assert all(any(sample["value"] > 0 for samples in found for sample in samples) for found in values.values())
    assert all(any(not samples or samples[0]["value"] == 0 for samples in found) for found in values.values())
    page = (ROOT / "docs/containers.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page or f"`…:{name.rsplit(':', 1)[1]}`" in page for name in recorded())


@pytest.mark.parametrize("expression", panel_expressions().values(), ids=panel_expressions())
def test_panel_uses_served_metrics_only(expression: str) -> None:
    used = used_metrics(expression)
    assert used
    assert used <= served_metrics() | set(recorded())


def test_every_metric_of_the_service_is_on_the_dashboard() -> None:
    shown = set().union(*map(used_metrics, panel_expressions().values()))
    own = {name for name in served_metrics() if name.startswith("pairfuse_") and not name.endswith("_created")}
    families = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in own}
    unseen = {name for name in families if not any(used.startswith(name) for used in shown)}
    assert not unseen


def test_overload_alert_names_the_reason_of_the_service() -> None:
    alert = next(rule for rule in alert_rules() if rule["alert"] == "PairfuseOverloaded")
    (series,) = used_metrics(alert["expr"])
    rule = next(rule for rule in rules("rules.yml") if rule["record"] == series)
    assert f'reason="{OverloadedError.slug}"' in rule["expr"]


def test_every_alert_is_tested_and_documented() -> None:
    cases = [case for test in read_yaml(DOCKER / "alerts_test.yml")["tests"] for case in test["alert_rule_test"]]
    fired = {case["alertname"] for case in cases if case["exp_alerts"]}
    silent = {case["alertname"] for case in cases if not case["exp_alerts"]}
    alerts = {rule["alert"] for rule in alert_rules()}
    documented = set(re.findall(r"^\| `(Pairfuse\w+)`", (ROOT / "docs/containers.md").read_text(), re.MULTILINE))
    assert alerts == fired == silent == documented


def promtool(*arguments: str) -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not on PATH; it comes with Prometheus")
    done = subprocess.run([program, *arguments], cwd=DOCKER, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_configuration_and_rules() -> None:
    promtool("check", "config", "prometheus.yml")


@pytest.mark.parametrize("tests", ["rules_test.yml", "alerts_test.yml"])
def test_rules_and_alerts_do_as_their_tests_say(tests: str) -> None:
    promtool("test", "rules", tests)


def test_prometheus_finds_its_rules_in_the_container() -> None:
    mounted = {volume.split(":")[1] for volume in COMPOSE["services"]["prometheus"]["volumes"]}
    assert {f"/etc/prometheus/{name}" for name in read_yaml(DOCKER / "prometheus.yml")["rule_files"]} <= mounted


@pytest.mark.parametrize("workers", [1, 2])
def test_every_panel_and_rule_has_data_in_a_real_prometheus(weights: Path, workers: int) -> None:
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not on PATH")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PAIRFUSE_")}
    environment |= {"PAIRFUSE_WEIGHTS": str(weights), "PAIRFUSE_DEVICE": "cpu", "PAIRFUSE_WORKERS": str(workers)}
    command = [sys.executable, str(DOCKER / "check_dashboard.py")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_scrapes_the_services_of_compose() -> None:
    job = read_yaml(DOCKER / "prometheus.yml")["scrape_configs"][0]
    discovery = job["dns_sd_configs"][0]
    assert set(discovery["names"]) == {name for name in SERVICES if name.startswith("pairfuse")}
    assert discovery["port"] == Settings.model_fields["port"].default
    assert all(f'job="{job["job_name"]}"' in rule["expr"] for rule in alert_rules() if "up{" in rule["expr"])


@pytest.mark.parametrize("name", SERVICES)
def test_compose_service_is_hardened(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert any(mount.startswith("/tmp") for mount in service["tmpfs"])
    assert not {"privileged", "network_mode", "pid", "cap_add", "user"} & set(service)
    assert service["ports"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


@pytest.mark.parametrize("name", SERVICES)
def test_compose_image_is_pinned_or_built_here(name: str) -> None:
    service = COMPOSE["services"][name]
    build = service.get("build")
    if build is None:
        assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+\.\d+", service["image"])
        return
    assert (ROOT / build["context"] / build["dockerfile"]).is_file()
    assert re.search(rf"^FROM \S+ AS {build['target']}$", DOCKERFILE, re.MULTILINE)
    assert service["image"] == f"pairfuse:{build['target']}"


@pytest.mark.parametrize("name", SERVICES)
def test_compose_mounts_exist(name: str) -> None:
    for volume in COMPOSE["services"][name].get("volumes", []):
        source, _, *mode = volume.split(":")
        if source.startswith("."):
            assert (ROOT / source).exists(), source
            assert mode == ["ro"], volume
        else:
            assert source in COMPOSE["volumes"], source


def test_only_the_gpu_service_needs_a_profile() -> None:
    assert {name for name in SERVICES if "profiles" in COMPOSE["services"][name]} == {"pairfuse-gpu"}


def test_compose_gives_the_service_time_to_drain() -> None:
    seconds = int(COMPOSE["services"]["pairfuse"]["stop_grace_period"].removesuffix("s"))
    assert seconds > 2 * Settings.model_fields["drain_timeout_s"].default


def test_image_runs_as_a_numbered_user_other_than_root() -> None:
    (user,) = instructions("USER")
    assert all(int(number) > 0 for number in user.split(":"))
    after = DOCKERFILE[DOCKERFILE.index(f"USER {user}") :]
    assert not re.search(r"^(RUN|ENTRYPOINT)\b", after, re.MULTILINE)


def test_image_starts_without_a_shell_so_that_sigterm_arrives() -> None:
    (command,) = instructions("CMD")
    assert json.loads(command) == ["pairfuse", "serve"]


def test_health_check_asks_for_readiness_without_a_shell() -> None:
    (check,) = instructions("HEALTHCHECK")
    program, flag, code = json.loads(check[check.index("CMD") + 3 :])
    assert (program, flag) == ("python", "-c")
    compile(code, "HEALTHCHECK", "exec")
    assert "/readyz" in code


def test_base_image_is_pinned_and_the_same_everywhere() -> None:
    (base,) = instructions("ARG")
    assert re.fullmatch(r"PYTHON_IMAGE=python:3\.\d+\.\d+-slim-[a-z]+", base)
    bases, stages = zip(*(line.split(" AS ") for line in instructions("FROM")), strict=True)
    assert set(bases) <= {*stages, "${PYTHON_IMAGE}"}


def test_image_gets_what_it_needs_and_no_more() -> None:
    allowed = {
        line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line.startswith("!")
    }
    copied = {source for line in instructions("COPY") if not line.startswith("--from") for source in line.split()[:-1]}
    assert copied == allowed
    assert all((ROOT / source).exists() for source in copied)
    installs = re.findall(r"pip install (.*?)(?:\\|$)", DOCKERFILE, re.MULTILINE)
    assert [line.split()[-1] for line in installs] == ["'.[gpu,otel]'", "'.[cpu,otel]'"]
    assert all("--constraint constraints.txt" in line for line in installs)


def test_no_secrets_and_no_indexes_in_the_container_files() -> None:
    assert not SECRET.search(DOCKERFILE)
    for path in [ROOT / "compose.yaml", ROOT / ".dockerignore", *DOCKER.rglob("*")]:
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"index-url|find-links|trusted-host|\.env\b", text), path
            values = re.findall(r"^\s*\w*(?:PASSWORD|SECRET|TOKEN)\w*\s*[:=]\s*\S+", text, re.MULTILINE)
            assert not values, path
