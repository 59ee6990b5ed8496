"""A policy that encodes every prompt once.

Text encoders often outweigh the network that is trained, and a run meets each of its prompts many times: in rollouts,
in updates and in evaluations. Prompts are encoded one by one, so that a row is a function of its text alone and not of
what shared its batch: rollout and learner then read the same numbers, whatever was encoded before.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from rollout.policy import Conditions, Policy

Placement = Literal["keep", "cpu", "drop"]

MEMORY_LIMIT = 2**30
"""Bytes of encoded prompts that a process keeps while it can encode them again, or read them back."""


class PromptFiles:
    """Encoded prompts in a folder that processes and runs share, one file each."""

    def __init__(self, folder: Path, encoders: str) -> None:
        """encoders: a digest of all that fixes an encoding but the text (see `encoders_digest`)."""
        self._folder = folder / encoders[:32]
        self._folder.mkdir(parents=True, exist_ok=True)

    def get(self, text: str) -> Conditions | None:
        """The prompt's row, or None. ValueError naming a file that cannot be read."""
        path = self._path(text)
        if not path.is_file():
            return None
        try:
            return Conditions(load_file(path))
        except SafetensorError as error:
            raise ValueError(f"{path}: expected an encoded prompt ({error}); delete the file") from error

    def put(self, text: str, row: Conditions) -> None:
        """Write the prompt's row; complete or absent, whoever else writes it."""
        with tempfile.NamedTemporaryFile(dir=self._folder, suffix=".half", delete=False) as half:
            half.write(save({name: tensor.contiguous() for name, tensor in row.tensors.items()}))
        Path(half.name).replace(self._path(text))

    def _path(self, text: str) -> Path:
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()}.safetensors"


class PromptCache:
    """Rows by text on the CPU: the most recently used in memory, all of them in `files` where there are any."""

    def __init__(self, files: PromptFiles | None, limit_bytes: int | None) -> None:
        """limit_bytes: of the rows in memory; None = no limit."""
        self._files = files
        self._limit_bytes = limit_bytes
        self._rows: OrderedDict[str, Conditions] = OrderedDict()
        self._bytes = 0

    def get(self, text: str) -> Conditions | None:
        """The prompt's row, if it was encoded before."""
        row = self._rows.get(text)
        if row is not None:
            self._rows.move_to_end(text)
            return row
        row = None if self._files is None else self._files.get(text)
        if row is not None:
            self._remember(text, row)
        return row

    def put(self, text: str, row: Conditions) -> None:
        """Keep a row."""
        if self._files is not None:
            self._files.put(text, row)
        self._remember(text, row)

    def _remember(self, text: str, row: Conditions) -> None:
        self._rows[text] = row
        self._bytes += _size(row)
        while self._limit_bytes is not None and self._bytes > self._limit_bytes and len(self._rows) > 1:
            self._bytes -= _size(self._rows.popitem(last=False)[1])


def _size(row: Conditions) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in row.tensors.values())


class OnceEncodingPolicy:
    """A policy whose `encode` looks into a cache first; everything else is the policy's own."""

    def __init__(self, policy: Policy, cache: PromptCache, placement: Placement) -> None:
        """placement: where the text encoders are between prompts. keep: on the network's device; cpu: in the
        machine's memory, they visit the device to encode; drop: likewise, until `drop_text_encoders`.
        """
        self._policy = policy
        self._cache = cache
        self._references = PromptCache(None, MEMORY_LIMIT)
        self._visiting = placement != "keep"
        self._dropped = False
        self.network: nn.Module = policy.network
        self.adapter_targets = policy.adapter_targets
        self.guidance = policy.guidance

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device

    def encode(self, prompts: Sequence[str]) -> Conditions:
        """One row per prompt on the network's device. ValueError for a prompt that is not known once the encoders are
        dropped.
        """
        device = self._device
        known = {prompt: row for prompt in prompts if (row := self._cache.get(prompt)) is not None}
        known |= self._encode_anew([prompt for prompt in dict.fromkeys(prompts) if prompt not in known])
        found = Conditions.concatenate([known[prompt] for prompt in prompts])
        return Conditions({name: tensor.to(device) for name, tensor in found.tensors.items()})

    def encode_references(self, paths: Sequence[str]) -> Conditions:
        """The policy's own, once: a file that changes while the run goes on is not read again."""
        name = "\n".join(paths)
        row = self._references.get(name)
        if row is None:
            row = Conditions({n: t.cpu() for n, t in self._policy.encode_references(paths).tensors.items()})
            self._references.put(name, row)
        return Conditions({n: t.to(self._device) for n, t in row.tensors.items()})

    def _encode_anew(self, prompts: Sequence[str]) -> dict[str, Conditions]:
        if not prompts:
            return {}
        if self._dropped:
            raise ValueError(
                f"the prompt {prompts[0]!r} was not encoded before the text encoders were dropped; set "
                "`model.text_encoders` to keep or cpu"
            )
        fresh = {}
        if self._visiting:
            self._policy.place_text_encoders(self._device)
        for prompt in prompts:
            row = self._policy.encode([prompt])
            fresh[prompt] = Conditions({name: tensor.cpu() for name, tensor in row.tensors.items()})
            self._cache.put(prompt, fresh[prompt])
        if self._visiting:
            self._policy.place_text_encoders(torch.device("cpu"))
        return fresh

    def drop_text_encoders(self, prompts: Iterable[str]) -> None:
        """Encode all prompts that will ever be asked for, then give the encoders up."""
        texts = list(dict.fromkeys(prompts))
        for start in range(0, len(texts), 64):  # not all rows at once where they are written to files
            self._encode_anew([text for text in texts[start : start + 64] if self._cache.get(text) is None])
        self.place_text_encoders(None)

    def place_text_encoders(self, device: torch.device | None) -> None:
        """The policy's own; None gives them up."""
        self._dropped = self._dropped or device is None
        self._policy.place_text_encoders(device)

    def initial_latents(self, seeds: Sequence[int], height: int, width: int) -> Tensor:
        """The policy's own."""
        return self._policy.initial_latents(seeds, height, width)

    def sigmas(self, num_steps: int, height: int, width: int) -> tuple[float, ...]:
        """The policy's own."""
        return self._policy.sigmas(num_steps, height, width)

    def velocity(self, x: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
        """The policy's own."""
        return self._policy.velocity(x, sigma, conditions)

    def decode(self, x0: Tensor) -> Tensor:
        """The policy's own."""
        return self._policy.decode(x0)

    def preview(self, x0: Tensor) -> Tensor:
        """The policy's own."""
        return self._policy.preview(x0)

    def save_trained(self, folder: Path) -> None:
        """The policy's own."""
        self._policy.save_trained(folder)

    def load_adapter(self, source: Path) -> None:
        """The policy's own."""
        self._policy.load_adapter(source)


def encoders_digest(folder: Path, *settings: object) -> str:
    """sha256 of a pipeline folder's text encoders and tokenizers, and of all settings that fix an encoding."""
    sha = hashlib.sha256(repr(settings).encode())
    parts = [part for part in sorted(folder.iterdir()) if part.name.startswith(("text_encoder", "tokenizer"))]
    for file in (file for part in parts for file in sorted(part.rglob("*")) if file.is_file()):
        sha.update(f"|{file.relative_to(folder)}|{file.stat().st_size}|".encode())
        with file.open("rb") as content:
            while chunk := content.read(1 << 20):
                sha.update(chunk)
    return sha.hexdigest()
