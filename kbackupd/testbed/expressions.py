"""The PromQL that ships, of the alert rules and of the dashboard, and the names it rests on. Reads files, runs nothing.

A metric that is renamed leaves its alert silent for ever: no error, no data, no alert. So the names are taken out of
every expression and compared with `docs/metrics.md` by a test, and tried against a live Prometheus by hand
(`try_expressions.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

REPOSITORY: Final = Path(__file__).parents[2]
RULES: Final = REPOSITORY / "config" / "prometheus" / "kbackupd.rules.yml"
DASHBOARD: Final = REPOSITORY / "grafana" / "kbackupd.json"
REFERENCE: Final = REPOSITORY / "docs" / "metrics.md"

OF_PROMETHEUS: Final = frozenset({"up", "scrape_duration_seconds"})
"""Series that Prometheus makes itself for every target."""

_VARIABLES: Final[Mapping[str, str]] = {
    "$__rate_interval": "1m",
    "$job": ".*",
    "$instance": ".*",
    "$tier": ".*",
    "$topic": ".*",
}
_OPERATORS: Final = frozenset({"and", "or", "unless", "bool", "offset", "inf", "nan"})
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
_SELECTOR = re.compile(r"(?<![\w:.])([a-zA-Z_:][\w:]*)(?![\w:]|\s*\()(\s*\{[^}]*\})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    """One PromQL expression, without Grafana's variables."""

    where: str
    """`alert KbackupdDown`, `panel 7: Lag in records`."""
    text: str

    @property
    def selectors(self) -> frozenset[str]:
        """Every series selector in it, matchers included, ranges and offsets left out."""
        held: list[str] = []

        def hold(found: re.Match[str]) -> str:
            held.append(found[0])
            return f'"{len(held) - 1}"'

        # Label names look like metrics: those in braces are kept with their selector, those of groupings are cut out.
        plain = _GROUPING.sub(" ", re.sub(r"\[[^\]]*\]", " ", _STRING.sub(hold, self.text)))
        plain = re.sub(r"\boffset\s+\w+", " ", plain)
        found = {
            match[1] + (match[2] or "").strip() for match in _SELECTOR.finditer(plain) if match[1] not in _OPERATORS
        }
        return frozenset(re.sub(r'"(\d+)"', lambda number: held[int(number[1])], one) for one in found)

    @property
    def metrics(self) -> frozenset[str]:
        """The names of the series it is made of."""
        return frozenset(selector.partition("{")[0] for selector in self.selectors)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """An alert, or a recording rule (`alert` is empty)."""

    alert: str
    record: str
    expression: Expression
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


def rules(path: Path = RULES) -> list[Rule]:
    """Every rule of the file, in its order."""
    document: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    return [
        Rule(
            alert=rule.get("alert", ""),
            record=rule.get("record", ""),
            expression=Expression(
                where=f"alert {rule['alert']}" if "alert" in rule else f"rule {rule['record']}", text=rule["expr"]
            ),
            labels=rule.get("labels", {}),
            annotations=rule.get("annotations", {}),
        )
        for group in document["groups"]
        for rule in group["rules"]
    ]


def panels(path: Path = DASHBOARD) -> list[dict[str, Any]]:
    """Every panel of the dashboard as Grafana's JSON, rows and those inside collapsed rows too."""
    document: Any = json.loads(path.read_text(encoding="utf-8"))
    return [panel for outer in document["panels"] for panel in (outer, *outer.get("panels", ()))]


def dashboard_expressions(path: Path = DASHBOARD) -> list[Expression]:
    """Those of the panels, the variables and the annotations."""
    document: Any = json.loads(path.read_text(encoding="utf-8"))
    found = [
        Expression(where=f"panel {panel['id']}: {panel['title']}", text=_plain(target["expr"]))
        for panel in panels(path)
        for target in panel.get("targets", ())
    ]
    found += [
        Expression(where=f"annotation {one['name']}", text=_plain(one["expr"]))
        for one in document["annotations"]["list"]
    ]
    for variable in document["templating"]["list"]:
        if variable["type"] == "query":
            selector = re.fullmatch(r"label_values\((.*), \w+\)", variable["definition"])
            if selector is None:
                raise ValueError(f"variable {variable['name']} is not label_values(selector, label)")
            found.append(Expression(where=f"variable {variable['name']}", text=_plain(selector[1])))
    return found


def declared_series(path: Path = REFERENCE) -> dict[str, str]:
    """Names of all series the daemon may have, by the reference → the metric they belong to."""
    return dict(_series(path.read_text(encoding="utf-8")))


def _series(reference: str) -> Iterator[tuple[str, str]]:
    for name, kind in re.findall(r"^\| `(\w+)` \| (\w+) \|", reference, re.MULTILINE):
        suffixes = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        for suffix in suffixes:
            yield name + suffix, name


def _plain(expression: str) -> str:
    for variable, value in _VARIABLES.items():
        expression = expression.replace(variable, value)
    if "$" in expression:
        raise ValueError(f"a variable that is not known: {expression}")
    return expression
