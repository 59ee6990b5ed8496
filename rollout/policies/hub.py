"""Models of the Hugging Face Hub: `hub:owner/name` at a commit becomes a folder of the local cache.

What is in the cache is never asked for again, so that a run that was once prepared starts without a network. The
token is the environment's: HF_TOKEN, or what `hf auth login` stored. No torch.
"""

from __future__ import annotations

import json
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

SCHEME = "hub:"
WANTED = ("model_index.json", "*/*.json", "*/*.safetensors", "*/*.txt", "*/*.model", "*/*.jinja")
"""What a pipeline folder is loaded from; not the single-file checkpoints that many repositories hold at their root."""
UNWANTED = ("*.fp16.*", "*.fp16-*", "*.bf16.*", "*.bf16-*", "*.non_ema.*", "*/openvino_*", "*/flax_*")
"""Variants of the same weights."""


def hub_id(path: Path) -> str | None:
    """The `owner/name` of a model on the hub, None for a folder."""
    text = str(path)
    return text.removeprefix(SCHEME) if text.startswith(SCHEME) else None


def local_folder(path: Path, revision: str | None, *, offline: bool) -> Path:
    """The pipeline folder behind a path: itself, or the hub's snapshot, fetched where the cache has not got all of it.
    revision: a commit; None = the newest one. ValueError that says what to do where it cannot be had.
    """
    name = hub_id(path)
    if name is None:
        return path
    offline_here = offline or constants.HF_HUB_OFFLINE
    cached = _snapshot(name, revision, local=True)
    absent = ["model_index.json"] if cached is None else missing_files(cached)
    if cached is not None and not absent and (revision is not None or offline_here):
        return cached
    place = f"{name} at {revision or 'its newest commit'}"
    if offline_here:
        switch = "`model.offline`" if offline else "the environment variable HF_HUB_OFFLINE"
        pinned = f" --revision {revision}" if revision else ""
        raise ValueError(
            f"{place}: expected all of it in the cache {constants.HF_HUB_CACHE}, for {switch} forbids to ask the hub; "
            f"found no {absent[0]}. Fetch it where there is a network with `hf download {name}{pinned}`, or allow it"
        )
    fetched = _fetch(name, revision, place)
    if absent := missing_files(fetched):
        raise ValueError(f"{place} is no whole diffusers pipeline: found no {absent[0]}; change `model.path`")
    return fetched


def missing_files(folder: Path) -> list[str]:
    """What a pipeline folder declares and has not got: components, and the weights of those that have any."""
    index = folder / "model_index.json"
    if not index.is_file():
        return [index.name]
    declared = json.loads(index.read_text()).items()
    parts = [name for name, value in declared if isinstance(value, list) and value[0] is not None]
    return [file for part in parts for file in _missing_in(folder, part)]


def _missing_in(folder: Path, part: str) -> list[str]:
    if not any((folder / part).glob("*")):
        return [part]
    shards = {
        shard
        for index in (folder / part).glob("*.safetensors.index.json")
        for shard in json.loads(index.read_text())["weight_map"].values()
    }
    if shards:
        return [f"{part}/{shard}" for shard in sorted(shards) if not (folder / part / shard).is_file()]
    weights = any(any((folder / part).glob(name)) for name in ("*.safetensors", "*.bin"))
    if (folder / part / "config.json").is_file() and not weights:
        return [f"{part}/*.safetensors"]
    return []


def _snapshot(name: str, revision: str | None, *, local: bool) -> Path | None:
    try:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                local_files_only=local,
                allow_patterns=list(WANTED),
                ignore_patterns=list(UNWANTED),
            )
        )
    except LocalEntryNotFoundError:
        if local:
            return None
        raise


def _fetch(name: str, revision: str | None, place: str) -> Path:
    try:
        found = _snapshot(name, revision, local=False)
    except GatedRepoError as error:
        raise ValueError(
            f"{place} is gated: accept its terms on {constants.ENDPOINT}/{name} and set HF_TOKEN to a token of the "
            "account that did"
        ) from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"{place}: the hub knows no such model, or it is private; change `model.path`, or set HF_TOKEN to a token "
            "that may read it"
        ) from error
    except RevisionNotFoundError as error:
        raise ValueError(f"{place}: the hub knows no such commit; change `model.revision`") from error
    except (HfHubHTTPError, OSError) as error:
        first = str(error).splitlines()[0]
        raise ValueError(
            f"{place}: expected an answer from {constants.ENDPOINT}, found: {first}. Try again, or fetch it elsewhere "
            f"and bring the cache folder {constants.HF_HUB_CACHE} here"
        ) from error
    assert found is not None
    return found
