"""The live view of a run in a terminal; one plain line per update where standard output is no terminal."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from types import MappingProxyType, TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from services.observe.history import UpdateRecord
from services.observe.series import by_step, reward_means, reward_names
from services.observe.text import duration_text

NO_COUNTS: Mapping[str, int | float] = MappingProxyType({})
BLOCKS = "▁▂▃▄▅▆▇█"
SPARKLINE_WIDTH = 12
LABEL_WIDTH, CELL_WIDTH = 15, 16 + SPARKLINE_WIDTH
"""One label and two cells, with their gaps, fill the panel's 76 columns."""
RECENT = 20
"""Speed and time left are taken over this many updates."""
WIDTH_MAX = 80


class RunView:
    """Shows a run as it goes: a panel that stands still in a terminal, a line per update elsewhere.

    Use as a context manager; the panel stays on the screen at the end.
    """

    def __init__(
        self,
        name: str,
        planned_updates: int,
        *,
        history: Sequence[UpdateRecord] = (),
        console: Console | None = None,
    ) -> None:
        """`history` is what a resumed run has behind it; `console` None means standard output."""
        self._name = name
        self._planned = planned_updates
        self._records = deque(history, maxlen=max(RECENT, SPARKLINE_WIDTH))
        self._console = console or Console()
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None

    def update(
        self,
        record: UpdateRecord,
        queue: Mapping[str, int | float] = NO_COUNTS,
        workers: Mapping[str, int | float] = NO_COUNTS,
    ) -> None:
        """Show an update; `queue` and `workers` are counts under the names to show them by."""
        self._records.append(record)
        records = tuple(self._records)
        if self._live is not None:
            self._live.update(panel(self._name, self._planned, records, queue, workers), refresh=True)
        else:
            line = plain_line(self._planned, records, queue)
            self._console.print(line, soft_wrap=True, markup=False, highlight=False)

    def __enter__(self) -> RunView:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()


def panel(
    name: str,
    planned_updates: int,
    records: Sequence[UpdateRecord],
    queue: Mapping[str, int | float],
    workers: Mapping[str, int | float],
) -> Panel:
    """The view after the last of `records`, at most 80 columns wide."""
    last = records[-1]
    rows = Table.grid(padding=(0, 2), expand=True)
    rows.add_column(style="dim", no_wrap=True, width=LABEL_WIDTH)
    rows.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    rows.add_row("learner", f"loss {last.figures.loss:.4g} · grad norm {last.figures.grad_norm:.3g}")
    rows.add_row("speed", f"{number_text(speed(records))} images/s · staleness {number_text(mean_staleness(last))}")
    if queue:
        rows.add_row("queue", counts_text(queue))
    if workers:
        rows.add_row("workers", counts_text(workers))
    parts: list[RenderableType] = [_progress(planned_updates, records), Text(), *_rewards(records), Text(), rows]
    return Panel(Group(*parts), title=Text(name, style="bold"), title_align="left", width=WIDTH_MAX, border_style="dim")


def _progress(planned_updates: int, records: Sequence[UpdateRecord]) -> Table:
    last = records[-1]
    line = Table.grid(padding=(0, 2), expand=True)
    line.add_column(no_wrap=True)
    line.add_column(ratio=1)
    line.add_column(no_wrap=True)
    bar = ProgressBar(total=planned_updates, completed=last.update)
    line.add_row(f"update {last.update} / {planned_updates}", bar, f"{left_text(planned_updates, records)} left")
    return line


def _rewards(records: Sequence[UpdateRecord]) -> list[Table]:
    """A reward's steps in two columns, each its last mean and a sparkline on the reward's own scale."""
    figures = [record.figures for record in records]
    tables = []
    for name in reward_names(figures):
        means = {step: column.tolist() for step, column in reward_means(figures, name).items()}
        known = [value for column in means.values() for value in column if math.isfinite(value)]
        low, high = min(known, default=0.0), max(known, default=0.0)
        table = Table.grid(padding=(0, 2))
        table.add_column(style="bold", no_wrap=True, width=LABEL_WIDTH, overflow="ellipsis")
        table.add_column(no_wrap=True, width=CELL_WIDTH)
        table.add_column(no_wrap=True, width=CELL_WIDTH)
        cells = [_reward_cell(step, column, low, high) for step, column in means.items()]
        for row in range(0, len(cells), 2):
            pair = [*cells[row : row + 2], Text()][:2]
            table.add_row(Text(name if row == 0 else "", overflow="ellipsis"), *pair)
        tables.append(table)
    return tables


def _reward_cell(step: int, column: Sequence[float], low: float, high: float) -> Text:
    line = sparkline(column, low, high)
    return Text.assemble((f"step {step:<2} ", "dim"), f"{number_text(column[-1]):>7} ", (line, "green"))


def sparkline(values: Sequence[float], low: float, high: float) -> str:
    """The last values as blocks between `low` and `high`; what is not finite is a gap."""
    span = (high - low) or 1.0
    blocks = []
    for value in values[-SPARKLINE_WIDTH:]:
        share = (value - low) / span
        blocks.append(BLOCKS[round(min(max(share, 0.0), 1.0) * 7)] if math.isfinite(value) else " ")
    return "".join(blocks)


def plain_line(planned_updates: int, records: Sequence[UpdateRecord], queue: Mapping[str, int | float]) -> str:
    """The update in one line: each reward at its last scored step, speed, staleness, queue, time left."""
    last = records[-1]
    parts = [f"update {last.update}/{planned_updates}"]
    for name, reward in last.figures.rewards.items():
        scored = by_step([dict(enumerate(reward.mean))])
        if scored:
            parts.append(f"{name} {number_text(float(scored[max(scored)][0]))}")
    parts.append(f"{number_text(speed(records))} images/s")
    parts.append(f"staleness {number_text(mean_staleness(last))}")
    if queue:
        parts.append(counts_text(queue))
    return "  ".join([*parts, f"{left_text(planned_updates, records)} left"])


def speed(records: Sequence[UpdateRecord]) -> float:
    """Images per second over the records; over the whole run for a single one; NaN where no time has passed."""
    first, last = records[0], records[-1]
    images, seconds = last.images_total, last.run_seconds
    if len(records) > 1:
        images, seconds = images - first.images_total, seconds - first.run_seconds
    return images / seconds if seconds > 0 else math.nan


def mean_staleness(record: UpdateRecord) -> float:
    """The mean over the update's groups, in updates."""
    return sum(record.staleness) / len(record.staleness) if record.staleness else math.nan


def left_text(planned_updates: int, records: Sequence[UpdateRecord]) -> str:
    """The time that the updates left would take at the speed of the records."""
    first, last = records[0], records[-1]
    updates, seconds = last.update, last.run_seconds
    if len(records) > 1 and last.update > first.update:
        updates, seconds = last.update - first.update, last.run_seconds - first.run_seconds
    return duration_text(max(planned_updates - last.update, 0) * seconds / max(updates, 1))


def number_text(value: float) -> str:
    """A number in three digits; a dash for NaN."""
    return f"{value:.3g}" if math.isfinite(value) else "–"


def counts_text(counts: Mapping[str, int | float]) -> str:
    """The counts side by side, under their names."""
    return " · ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in counts.items())
