"""Numbers in words."""

from __future__ import annotations

import math


def duration_text(seconds: float) -> str:
    """A duration in its two largest units; a dash for NaN."""
    if not math.isfinite(seconds):
        return "–"
    whole = round(seconds)
    days, hours, minutes = whole // 86_400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {whole % 60:02d} s" if minutes else f"{whole} s"


def share_text(share: float) -> str:
    """A share in whole percent."""
    return f"{100 * share:.0f} %"
