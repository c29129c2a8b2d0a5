"""Alerts and panels name what the daemon has, and everything that it has is looked at by one of them (hazard 45)."""

from __future__ import annotations

import re
from itertools import combinations

import pytest

from kbackupd.testbed.expressions import (
    OF_PROMETHEUS,
    REPOSITORY,
    RULES,
    Expression,
    Rule,
    dashboard_expressions,
    declared_series,
    panels,
    rules,
)

ALERTS = [rule for rule in rules() if rule.alert]
RECORDED = {rule.record for rule in rules() if rule.record}
EXPRESSIONS = [*(rule.expression for rule in rules()), *dashboard_expressions()]
COLUMNS = 24
"""Of Grafana's grid."""


@pytest.mark.parametrize(
    ("text", "selectors"),
    [
        ("up == 0", {"up"}),
        ('a{b="x{y}", c=~"d|e"}[5m] offset 1h', {'a{b="x{y}", c=~"d|e"}'}),
        ("sum by (tier) (rate(a_total[1m])) > 0.5", {"a_total"}),
        ("a / on (job) group_left (b) c", {"a", "c"}),
        ('0 * a:b:c5m or (d unless on (e) f{g!=""})', {"a:b:c5m", "d", 'f{g!=""}'}),
        ("a <= bool b and time() - c < 1e3", {"a", "b", "c"}),
    ],
)
def test_selectors_are_found_in_any_expression(text: str, selectors: set[str]) -> None:
    assert Expression(where="", text=text).selectors == selectors


@pytest.mark.parametrize("expression", EXPRESSIONS, ids=lambda expression: expression.where)
def test_every_expression_rests_on_series_that_exist(expression: Expression) -> None:
    """A renamed metric leaves its alert silent for ever."""
    assert expression.metrics
    assert expression.metrics - declared_series().keys() - OF_PROMETHEUS - RECORDED == set()


def test_every_metric_is_used_by_an_alert_or_a_panel() -> None:
    declared = declared_series()
    used = {declared[name] for expression in EXPRESSIONS for name in expression.metrics if name in declared}
    assert set(declared.values()) - used == set()


def test_every_label_value_of_a_matcher_is_one_the_daemon_gives() -> None:
    """`state="quarantine"` would be silent for ever, too."""
    labels = (REPOSITORY / "kbackupd" / "observe" / "labels.py").read_text(encoding="utf-8")
    values = "\n".join((labels, *(path.read_text() for path in (REPOSITORY / "kbackupd" / "model").glob("*.py"))))
    for expression in EXPRESSIONS:
        for label, matched in re.findall(r'(\w+)(?:=|!=|=~|!~)"([^"]*)"', " ".join(expression.selectors)):
            if label in ("state", "cause", "kind", "operation", "outcome", "stream", "session"):
                for value in matched.split("|"):
                    assert f'"{value}"' in values, f"{expression.where}: {label}={value}"


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.alert)
def test_every_alert_says_how_bad_what_and_what_to_do(alert: Rule) -> None:
    assert alert.labels["severity"] in ("critical", "warning", "info")
    assert alert.annotations.keys() == {"summary", "remedy"}
    assert all(len(text) > 20 for text in alert.annotations.values())


@pytest.mark.parametrize("file", ["config/prometheus/kbackupd.rules.test.yml", "docs/deployment.md"])
def test_every_alert_is_tried_and_documented(file: str) -> None:
    text = (REPOSITORY / file).read_text(encoding="utf-8")
    assert [alert.alert for alert in ALERTS if not re.search(rf"\b{alert.alert}\b", text)] == []


def test_alerts_are_named_apart() -> None:
    names = [alert.alert for alert in ALERTS]
    assert sorted(set(names)) == sorted(names)
    assert all(re.fullmatch(r"Kbackupd[A-Z][A-Za-z]+", name) for name in names)
    assert RULES.name == "kbackupd.rules.yml"


def test_panels_have_ids_of_their_own_and_a_source_that_can_be_chosen() -> None:
    ids = [panel["id"] for panel in panels()]
    assert sorted(set(ids)) == sorted(ids)
    for panel in panels():
        if panel["type"] != "row":
            sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
            assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)
            assert panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"]
            references = [target["refId"] for target in panel["targets"]]
            assert sorted(set(references)) == sorted(references)


def test_panels_do_not_overlap_and_fit_the_grid() -> None:
    places = [(panel["id"], panel["gridPos"]) for panel in panels()]
    assert all(place["x"] + place["w"] <= COLUMNS for _, place in places)
    for (_, a), (_, b) in combinations(places, 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        above = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or above, (a, b)
