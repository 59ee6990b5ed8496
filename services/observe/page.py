"""The page that reports are written on: report.html, report.css and report.js, with everything inline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template

from services.observe.style import step_variables


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading and what stands below it."""

    id: str
    heading: str
    body: str  # HTML; empty: the page has no such section
    lead: str = ""  # a sentence below the heading


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The top of a page."""

    kind: str  # above the title
    title: str
    state: str
    finished: bool
    tiles: Sequence[tuple[str, str]]  # name and value


def render_page(head: Head, sections: Sequence[Section], *, num_steps: int) -> str:
    """The page; `num_steps` colours of denoising steps are defined on it."""
    light, dark = step_variables(num_steps)
    sections = [section for section in sections if section.body]
    return Template(_part("report.html")).substitute(
        kind=escape(head.kind),
        title=escape(head.title),
        css=_part("report.css"),
        script=_part("report.js"),
        light_steps=light,
        dark_steps=dark,
        state=escape(head.state),
        state_class="finished" if head.finished else "stopped",
        tiles="".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in head.tiles),
        links="\n".join(f'<a href="#{section.id}">{escape(section.heading)}</a>' for section in sections),
        sections="\n".join(_section(section) for section in sections),
    )


def _section(section: Section) -> str:
    lead = f'<p class="lead">{escape(section.lead)}</p>\n' if section.lead else ""
    return f'<section id="{section.id}">\n<h2>{escape(section.heading)}</h2>\n{lead}{section.body}\n</section>'


def _part(name: str) -> str:
    return files("services.observe").joinpath(name).read_text(encoding="utf-8")
