"""Small files of a run folder that others read while it is written."""

from __future__ import annotations

from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write a file, text as UTF-8; a reader, or a start after a kill, finds the old or the new one, never a half."""
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    return part.replace(path)
