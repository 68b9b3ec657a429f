"""Checks that every panel of the dashboard and every rule has data, with ``python docker/check_dashboard.py``.

Starts the service, a real Prometheus with this folder's configuration, and a short load of good and bad requests.
Ends with 0 if all is well, with 1 and a list if something stays empty, and with 77 where there is no Prometheus.
Settings of the service are taken from the environment, so PAIRFUSE_WORKERS=2 checks the same for several workers.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import yaml

DOCKER = Path(__file__).resolve().parent
PICTURES = DOCKER.parent / "docs" / "pictures"
SKIPPED = 77
RANGE = "30s"
ROUNDS = 60


def adapted_config(service_port: int, own_port: int) -> str:
    """Returns prometheus.yml with the compose network's names replaced by addresses, scraped every second."""
    config = yaml.safe_load((DOCKER / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(DOCKER / name) for name in config["rule_files"]]
    pairfuse, itself = config["scrape_configs"]
    del pairfuse["dns_sd_configs"], pairfuse["relabel_configs"]
    labels = {"service": "pairfuse"}
    pairfuse["static_configs"] = [{"targets": [f"127.0.0.1:{service_port}"], "labels": labels}]
    itself["static_configs"] = [{"targets": [f"127.0.0.1:{own_port}"]}]
    return str(yaml.safe_dump(config))


def panel_queries() -> dict[str, str]:
    """Returns the query of every target of every panel, with the dashboard's variables filled in."""
    queries = {}
    for file in sorted((DOCKER / "grafana" / "dashboards").glob("*.json")):
        for panel in json.loads(file.read_text(encoding="utf-8"))["panels"]:
            for target in panel["targets"]:
                query = target["expr"].replace("$__rate_interval", RANGE).replace("$service", ".*")
                queries[f"panel {panel['title']!r} {target['refId']}"] = query
    return queries


def rule_queries(prometheus: httpx.Client) -> dict[str, str]:
    """Returns a query for every recorded series; raises RuntimeError if Prometheus cannot evaluate a rule."""
    queries = {}
    for group in prometheus.get("/api/v1/rules").raise_for_status().json()["data"]["groups"]:
        for rule in group["rules"]:
            if rule["health"] == "err":
                raise RuntimeError(f"rule {rule['name']}: {rule['lastError']}")
            if rule["type"] == "recording":
                queries[f"rule {rule['name']}"] = rule["name"]
    return queries


def has_data(prometheus: httpx.Client, query: str) -> bool:
    """Tells whether a query has a sample now that is a number; raises RuntimeError if it is no valid query."""
    answer = prometheus.get("/api/v1/query", params={"query": query}).json()
    if answer["status"] != "success":
        raise RuntimeError(f"{query}: {answer['error']}")
    return any(math.isfinite(float(sample["value"][1])) for sample in answer["data"]["result"])


def send_load(service: httpx.Client) -> None:
    """Sends one good request, one with another strength, and one of each common fault."""
    visible, infrared = ((PICTURES / name).read_bytes() for name in ("visible.png", "infrared.png"))
    pair = {"image_a": visible, "image_b": infrared}
    for files, fields, expected in (
        (pair, {}, 200),
        (pair, {"strength": "0.5", "format": "jpeg"}, 200),
        (pair, {"model": "nobody"}, 404),
        (pair, {"quality": "a lot"}, 422),
        ({**pair, "image_b": b"no image"}, {}, 400),
        ({"image_a": visible}, {}, 422),
    ):
        status = service.post("/fuse", files=files, data=fields).status_code
        if status != expected:
            raise RuntimeError(f"POST /fuse with {fields or sorted(files)} answered {status}, not {expected}")


def free_port() -> int:
    """Returns a port that nobody listens on at present."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(command: list[str], log: Path, url: str, path: str, **variables: str) -> Iterator[httpx.Client]:
    """Runs a program until its page ``path`` answers 200, yields a client for it, and ends it."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=os.environ | variables, stdout=output, stderr=output)
    try:
        with httpx.Client(base_url=url, timeout=120) as client:
            wait_for(lambda: _answers(client, path, process), f"{command[0]} did not start; see {log}")
            yield client
    finally:
        process.terminate()
        process.wait(60)


def _answers(client: httpx.Client, path: str, process: subprocess.Popen[bytes]) -> bool:
    if process.poll() is not None:
        raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
    try:
        return client.get(path).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def wait_for(condition: Callable[[], bool], complaint: str, seconds: float = 300) -> None:
    """Returns when a condition holds; raises RuntimeError when it does not hold in time."""
    ends_at = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends_at:
            raise RuntimeError(complaint)
        time.sleep(0.2)


def empty_queries(folder: Path, program: str) -> list[str]:
    """Runs everything and returns the names of the panels and rules that stayed without data."""
    port, own_port = free_port(), free_port()
    config = folder / "prometheus.yml"
    config.write_text(adapted_config(port, own_port), encoding="utf-8")
    monitor = [program, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    monitor.append(f"--web.listen-address=127.0.0.1:{own_port}")
    serve = [sys.executable, "-m", "app", "serve"]
    with ExitStack() as stack:
        url = f"http://127.0.0.1:{port}"
        service = stack.enter_context(running(serve, folder / "pairfuse.log", url, "/readyz", PAIRFUSE_PORT=str(port)))
        url = f"http://127.0.0.1:{own_port}"
        prometheus = stack.enter_context(running(monitor, folder / "prometheus.log", url, "/-/ready"))
        wait_for(lambda: bool(rule_queries(prometheus)), "Prometheus has loaded no rules")
        queries = panel_queries() | rule_queries(prometheus)
        print(f"{len(queries)} queries")
        missing = list(queries)
        for _ in range(ROUNDS):
            send_load(service)
            missing = [name for name in missing if not has_data(prometheus, queries[name])]
            if not missing:
                break
            time.sleep(1)  # As often as Prometheus looks.
        return missing


def main() -> int:
    """Runs the check and returns its exit code."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    program = shutil.which("prometheus")
    if program is None:
        print("skipped: prometheus is not on PATH")
        return SKIPPED
    with tempfile.TemporaryDirectory(prefix="pairfuse-dashboard-") as folder:
        missing = empty_queries(Path(folder), program)
    print("\n".join(f"no data: {name}" for name in missing) or "all have data")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
