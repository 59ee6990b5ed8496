"""How a panel of ours is drawn: what every panel has, in one place.

A panel reads its data source and its run from the dashboard's variables. `Stat` shows one number, `Chart` lines over
time, `Bands` shares stacked to a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.models import common as looks
from grafana_foundation_sdk.models.dashboard import (
    DashboardLinkType,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
)

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
GOOD, WARNING, BAD = "green", "orange", "red"
WIDTH = 24
"""Columns of Grafana's grid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One expression, and how its series are named."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What every panel says."""

    title: str
    description: str  # what it shows, and when to worry
    queries: Sequence[Query]
    unit: str = "short"  # Grafana's name of it
    alerts: Sequence[str] = ()  # whose runbook headings it links to
    limits: Sequence[tuple[float, str]] = ()  # from this value on, this colour; below the first one, green
    decimals: int | None = None  # None: as many as Grafana finds right
    width: int = 8
    height: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Stat(Spec):
    """One number, coloured by its limits."""

    width: int = 4
    height: int = 4
    shows_name: bool = False  # the series' name instead of its value


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart(Spec):
    """Lines over time."""

    lowest: float | None = None  # where the axis begins; None: where the data do
    log: bool = False  # a logarithmic axis


@dataclass(frozen=True, slots=True, kw_only=True)
class Bands(Spec):
    """Shares of a whole, stacked over time."""


def build(spec: Spec) -> stat.Panel | timeseries.Panel:
    """The panel of a spec."""
    panel = _stat(spec) if isinstance(spec, Stat) else _chart(spec)
    panel.title(spec.title).description(spec.description).datasource(SOURCE).unit(spec.unit)
    if spec.decimals is not None:
        panel.decimals(spec.decimals)
    panel.span(spec.width).height(spec.height).links([runbook_link(alert) for alert in spec.alerts])
    steps = [
        Threshold(value=None, color=GOOD),
        *(Threshold(value=value, color=colour) for value, colour in spec.limits),
    ]
    panel.thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
    for index, query in enumerate(spec.queries):
        target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(chr(ord("A") + index))
        panel.with_target(target.datasource(SOURCE).instant() if isinstance(spec, Stat) else target.datasource(SOURCE))
    return panel


def runbook_link(alert: str) -> dashboard.DashboardLink:
    """A link to the alert's heading in the runbook, wherever the variable `runbook` says that it is kept."""
    link = dashboard.DashboardLink(f"Runbook: {alert}").type(DashboardLinkType.LINK)
    return link.url(f"${{runbook}}#{alert.lower()}").target_blank(True)


def _stat(spec: Stat) -> stat.Panel:
    panel = stat.Panel().graph_mode(looks.BigValueGraphMode.NONE).color_mode(looks.BigValueColorMode.VALUE)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    return panel.text_mode(looks.BigValueTextMode.NAME if spec.shows_name else looks.BigValueTextMode.VALUE)


def _chart(spec: Spec) -> timeseries.Panel:
    panel = timeseries.Panel().line_width(1).show_points(looks.VisibilityMode.AUTO)
    panel.tooltip(common.VizTooltipOptions().mode(looks.TooltipDisplayMode.MULTI).sort(looks.SortOrder.DESCENDING))
    panel.legend(
        common.VizLegendOptions()
        .display_mode(looks.LegendDisplayMode.LIST)
        .placement(looks.LegendPlacement.BOTTOM)
        .show_legend(True)
    )
    if spec.limits:
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(looks.GraphThresholdsStyleMode.DASHED))
    if isinstance(spec, Bands):
        return panel.fill_opacity(60).stacking(common.StackingConfig().mode(looks.StackingMode.NORMAL)).min(0)
    if isinstance(spec, Chart) and spec.lowest is not None:
        panel.min(spec.lowest)
    if isinstance(spec, Chart) and spec.log:
        panel.scale_distribution(common.ScaleDistributionConfig().type(looks.ScaleDistribution.LOG).log(10))
    return panel
