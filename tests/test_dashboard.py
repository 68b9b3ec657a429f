"""Grafana can show the dashboard as it is meant: it finds it and its data source, and no panel lies on another."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
GRAFANA = ROOT / "docker" / "grafana"
DASHBOARDS = sorted((GRAFANA / "dashboards").glob("*.json"))
COLUMNS = 24  # Of Grafana's grid.
TYPES = {"stat", "timeseries", "table"}
UNITS = {"none", "short", "reqps", "s", "percentunit", "bytes"}  # Names of Grafana; one that it lacks is shown as text.
UNITS_OF_ONE_OWN = ("suffix:", "prefix:")


def read_dashboard(path: Path) -> dict[str, Any]:
    dashboard: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return dashboard


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def values_of(key: str, node: object) -> list[Any]:
    """Returns every value under a key, however deep."""
    if isinstance(node, list):
        return [value for child in node for value in values_of(key, child)]
    if not isinstance(node, dict):
        return []
    return [value for name, child in node.items() for value in ([child] if name == key else values_of(key, child))]


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    """Tells whether two places of the grid have a cell in common."""
    return all(
        one[start] < other[start] + other[length] and other[start] < one[start] + one[length]
        for start, length in (("x", "w"), ("y", "h"))
    )


PANELS = [panel for path in DASHBOARDS for panel in read_dashboard(path)["panels"]]
each_dashboard = pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
each_panel = pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])


@each_dashboard
def test_panels_have_ids_and_titles_of_their_own(path: Path) -> None:
    panels = read_dashboard(path)["panels"]
    for key in ("id", "title"):
        found = [panel[key] for panel in panels]
        assert len(set(found)) == len(found), key


@each_dashboard
def test_no_panel_lies_on_another_or_beside_the_grid(path: Path) -> None:
    places = {panel["title"]: panel["gridPos"] for panel in read_dashboard(path)["panels"]}
    assert not [title for title, at in places.items() if at["x"] < 0 or at["x"] + at["w"] > COLUMNS]
    assert not [pair for pair in itertools.combinations(places, 2) if overlap(*(places[title] for title in pair))]


@each_panel
def test_panel_is_of_a_known_kind_and_unit(panel: dict[str, Any]) -> None:
    assert panel["type"] in TYPES
    assert panel["title"]
    assert panel["description"]
    unit = panel["fieldConfig"]["defaults"].get("unit", "none")
    assert unit in UNITS or unit.startswith(UNITS_OF_ONE_OWN)


@each_panel
def test_lines_of_a_panel_are_told_apart(panel: dict[str, Any]) -> None:
    for key in ("refId", "expr", "legendFormat"):
        found = [target[key] for target in panel["targets"] if key in target]
        assert found or key == "legendFormat"
        assert len(set(found)) == len(found), key


@each_dashboard
def test_everything_asks_the_provisioned_data_source(path: Path) -> None:
    provisioned = read_yaml(GRAFANA / "provisioning/datasources/prometheus.yml")["datasources"]
    dashboard = read_dashboard(path)
    asked = values_of("datasource", dashboard)
    targets = [target for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(asked) == len(dashboard["panels"]) + len(targets) + len(dashboard["templating"]["list"])
    known = [{"type": source["type"], "uid": source["uid"]} for source in provisioned]
    assert all(source in known for source in asked)


@each_dashboard
def test_variables_that_queries_use_are_defined(path: Path) -> None:
    dashboard = read_dashboard(path)
    defined = {"__rate_interval", *values_of("name", dashboard["templating"]["list"])}
    for expression in values_of("expr", dashboard):
        assert set(re.findall(r"\$(\w+)", expression)) <= defined, expression


def test_grafana_finds_the_dashboards() -> None:
    grafana = read_yaml(ROOT / "compose.yaml")["services"]["grafana"]
    (provider,) = read_yaml(GRAFANA / "provisioning/dashboards/pairfuse.yml")["providers"]
    assert any(volume.split(":")[1] == provider["options"]["path"] for volume in grafana["volumes"])
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert home.parent == Path(provider["options"]["path"])
    assert home.name in {path.name for path in DASHBOARDS}
