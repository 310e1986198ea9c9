"""The dashboard draws what the jobs tell, all of it and nothing else."""

import json
import re

import pytest

from cluster import metrics as telemetry
from tests.conftest import ROOT

DASHBOARD = json.loads((ROOT / "cluster" / "deploy" / "grafana" / "soundstorm.json").read_text())
TARGETS = [target for panel in DASHBOARD["panels"] for target in panel["targets"]]


def test_every_number_is_drawn_and_every_number_drawn_is_told() -> None:
    drawn = {name for target in TARGETS for name in re.findall(r"ray_soundstorm_\w+", target["expr"])}
    assert drawn == {telemetry.exported_name(name) for name in (*telemetry.COUNTERS, *telemetry.GAUGES)}


def test_a_label_that_the_dashboard_selects_by_is_a_tag_of_its_number() -> None:
    for target in TARGETS:
        for name, selector in re.findall(r"ray_soundstorm_(\w+)\{([^}]*)\}", target["expr"]):
            known = telemetry.TAGS.get(name.removesuffix("_total"), ("stage",))
            assert set(re.findall(r"(\w+)(?:=~|!~|!=|=)\"", selector)) <= set(known)


def test_the_dashboard_can_be_imported_anywhere() -> None:
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource" and variables["datasource"]["query"] == "prometheus"
    for part in (*DASHBOARD["panels"], *TARGETS, variables["stage"]):
        assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert DASHBOARD["schemaVersion"] >= 36 and DASHBOARD["title"] and "id" not in DASHBOARD


def test_panels_have_their_own_ids_and_places() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24 and not cells & taken
        taken |= cells
        assert [target["refId"] for target in panel["targets"]] == ["A", "B"][: len(panel["targets"])]


@pytest.mark.parametrize("expression", [target["expr"] for target in TARGETS])
def test_queries_are_balanced(expression: str) -> None:
    open_brackets: list[str] = []
    for character in re.sub(r'"[^"]*"', "", expression):
        if character in "([{":
            open_brackets.append(character)
        elif character in ")]}":
            assert open_brackets.pop() + character in ("()", "[]", "{}")
    assert not open_brackets
