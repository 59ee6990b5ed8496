"""`tafs report`: a run's report written anew, or several runs on one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from services.data.whole_file import write_whole
from services.errors import ConfigError
from services.observe.comparison import render_comparison
from services.observe.report import read_run, render_report

ONE, SEVERAL = "report.html", "comparison.html"


def write_reports(folders: Sequence[Path], output: Path | None) -> Path:
    """Write the report of one run folder into it, or the comparison of several beside the first; the page's path.

    ConfigError where a folder is not a run's, is named twice, or the page cannot be written.
    """
    for folder in folders:
        if not (folder / "config.yaml").is_file() and not (folder / "history.jsonl").is_file():
            raise ConfigError(f"expected a run folder, found neither config.yaml nor history.jsonl in {folder}")
    runs = {name: read_run(path, planned_updates=planned_updates(path)) for name, path in named(folders).items()}
    if len(runs) == 1:
        path, page = folders[0] / ONE, render_report(next(iter(runs.values())))
    else:
        path, page = folders[0].resolve().parent / SEVERAL, render_comparison(runs)
    try:
        return write_whole(output or path, page)
    except OSError as error:
        raise ConfigError(f"cannot write {output or path}: {error}; choose another --output") from error


def planned_updates(folder: Path) -> int | None:
    """How many updates the run's configuration asks for; None where it is not there."""
    path = folder / "config.yaml"
    settings = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    return settings.get("learning", {}).get("updates") if isinstance(settings, dict) else None


def named(folders: Sequence[Path]) -> dict[str, Path]:
    """The folders by their names, with as many parents as tell them apart. ConfigError for one that comes twice."""
    places = [folder.resolve() for folder in folders]
    if len(set(places)) < len(places):
        raise ConfigError(f"expected every run once, found {', '.join(map(str, folders))}")
    for depth in range(1, max(len(place.parts) for place in places) + 1):
        names = ["/".join(place.parts[-depth:]) for place in places]
        if len(set(names)) == len(names):
            break
    return dict(zip(names, folders, strict=True))
