"""The report's pictures: one figure, or many under a slider over the updates."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

PNG_SIZE_MAX_BYTES = 1_000_000
"""A larger picture goes into the page as JPEG, so that a page of photographs can still be mailed."""
SLIDER_SIZE_MAX_BYTES = 6_000_000
"""All pictures under one slider together; each has its even part."""
STOPS_MAX = 24
"""Updates that a slider stops at: the first, the last, and others evenly between."""
BEFORE_AFTER = "before_after.png"
"""The strip in strips/ that the report shows first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A strip as the report shows it."""

    heading: str
    png: bytes
    update: int | None = None  # None: it shows several


def read_pictures(folder: Path) -> tuple[Picture, ...]:
    """The side-by-side strip of a strips folder, and those of at most STOPS_MAX updates, rising."""
    files = {int(path.stem.removeprefix("update_")): path for path in folder.glob("update_*.png")}
    pictures = [
        Picture(heading=f"Update {update}", png=files[update].read_bytes(), update=update)
        for update in spread(sorted(files), STOPS_MAX)
    ]
    if (folder / BEFORE_AFTER).exists():
        pictures.insert(0, Picture(heading="Before and after", png=(folder / BEFORE_AFTER).read_bytes()))
    return tuple(pictures)


def spread(updates: Sequence[int], most: int) -> list[int]:
    """At most `most` of the rising updates, the first and the last among them, evenly between."""
    if len(updates) <= most:
        return list(updates)
    chosen = np.linspace(0, len(updates) - 1, most).round().astype(int)
    return [updates[index] for index in chosen]


def figure(picture: Picture) -> str:
    """One picture in its frame."""
    return f'<figure class="card"><div class="frame">{_image(picture, PNG_SIZE_MAX_BYTES)}</div></figure>'


def slider(lanes: Mapping[str, Sequence[Picture]]) -> str:
    """The lanes' pictures below each other, at the update that the slider stands at.

    lanes: by heading (empty: none), pictures of single updates, rising; a lane shows its newest at that update. It
    stands at the last update, and without a script stays there.
    """
    stops = spread(sorted({p.update for lane in lanes.values() for p in lane if p.update is not None}), STOPS_MAX)
    limit = min(PNG_SIZE_MAX_BYTES, SLIDER_SIZE_MAX_BYTES // max(1, sum(len(lane) for lane in lanes.values())))
    bodies = "".join(
        f'<div class="lane">{f"<h4>{escape(heading)}</h4>" if heading else ""}'
        f'<div class="frame">{_frames(lane, limit)}</div></div>'
        for heading, lane in lanes.items()
    )
    if len(stops) < 2:
        return f'<figure class="card">{bodies}</figure>'
    ticks = " ".join(map(str, stops))
    return (
        f'<figure class="card slider" data-stops="{ticks}"><figcaption>'
        f"<h3>Update <output>{stops[-1]}</output></h3>"
        f'<input type="range" min="0" max="{len(stops) - 1}" value="{len(stops) - 1}" aria-label="update" hidden>'
        f"<span>{stops[0]} to {stops[-1]}</span></figcaption>{bodies}</figure>"
    )


def _frames(lane: Sequence[Picture], limit_bytes: int) -> str:
    last = len(lane) - 1
    return "".join(_image(picture, limit_bytes, hidden=index != last) for index, picture in enumerate(lane))


def _image(picture: Picture, limit_bytes: int, *, hidden: bool = False) -> str:
    at = "" if picture.update is None else f' data-update="{picture.update}"'
    uri = _data_uri(picture.png, limit_bytes)
    return f'<img alt="{escape(picture.heading)}"{at}{" hidden" if hidden else ""} src="{uri}">'


def _data_uri(png: bytes, limit_bytes: int) -> str:
    kind, content = "png", png
    if len(png) > limit_bytes:
        smaller = io.BytesIO()
        Image.open(io.BytesIO(png)).convert("RGB").save(smaller, format="JPEG", quality=88)
        kind, content = "jpeg", smaller.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
