"""References to blobs: made once, checked before they are followed, verified by what they lead to."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence

from services.data.wire import BlobRef
from services.errors import BlobCorrupt, BlobError, BlobMissing


def new_refs(prefix: str, names: Sequence[str], blobs: Sequence[bytes | memoryview]) -> tuple[BlobRef, ...]:
    """References that nobody has used."""
    token = secrets.token_hex(6)
    refs = []
    for name, blob in zip(names, blobs, strict=True):
        if not re.fullmatch(r"[\w-]+([./][\w-]+)*", name, re.ASCII):
            raise ValueError(f"expected a blob name of words between '/' and '.', found {name!r}")
        data = memoryview(blob)
        refs.append(
            BlobRef(uri=f"{prefix}{name}.{token}", sha256=hashlib.sha256(data).hexdigest(), size_bytes=data.nbytes)
        )
    return tuple(refs)


def require_prefix(ref: BlobRef, prefix: str) -> None:
    """BlobError for a reference that leads out of the run's store: entries come over a network."""
    if not ref.uri.startswith(prefix) or ".." in ref.uri:
        raise BlobError(f"expected a blob of this run's store, {prefix}..., found {ref.uri}")


def verified(ref: BlobRef, blob: bytes | None) -> bytes:
    """The blob. BlobMissing if it is None, BlobCorrupt if it is not what the reference was made for."""
    if blob is None:
        raise BlobMissing(f"{ref.uri}: expected {ref.size_bytes} bytes, found nothing")
    found = hashlib.sha256(blob).hexdigest()
    if found != ref.sha256:
        raise BlobCorrupt(f"{ref.uri}: expected sha256 {ref.sha256}, found {found} over {len(blob)} bytes")
    return blob
