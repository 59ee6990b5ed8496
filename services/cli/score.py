"""`tafs score`: what rewards say about pictures, as a table, a CSV file and a contact sheet, best first."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from rewards.build import build
from rewards.reward import MissingModelError, Reward, RewardError, checked
from services.cli.pictures import Picture, load_picture
from services.errors import ConfigError, RewardFailed
from services.observe.contact_sheet import compose_sheet, thumbnail

SHEET_PICTURES = 200
"""More than these are thinned out evenly over the ranking."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A picture with its scores."""

    picture: Picture
    scores: tuple[float, ...]  # in the order of the rewards
    small: Image.Image  # its thumbnail


def build_rewards(given: Sequence[str]) -> list[Reward]:
    """A reward for each `NAME key=value ...`; values are YAML, dots lead into blocks. Raises ConfigError."""
    rewards = []
    for text in given:
        name, *settings = text.split()
        try:
            rewards.append(build(name, _options(settings)))
        except (ValueError, MissingModelError) as error:
            raise ConfigError(f"--reward {text!r}: {error}") from error
        except RewardError as error:
            raise RewardFailed(f"--reward {text!r}: {error}") from error
    return rewards


def score_pictures(pictures: Sequence[Picture], rewards: Sequence[Reward], batch: int) -> list[Scored]:
    """The pictures, best first by the first reward; up to `batch` of one size are scored together.

    Raises ConfigError for a picture that cannot be read or lacks metadata, RewardFailed where a reward fails.
    """
    scored = []
    for chosen, images in _batches(pictures, batch):
        columns = [_column(reward, images, chosen) for reward in rewards]
        for picture, image, scores in zip(chosen, images, zip(*columns, strict=True), strict=True):
            small = thumbnail(Image.fromarray(image))
            scored.append(Scored(picture=picture, scores=tuple(float(score) for score in scores), small=small))
    return sorted(scored, key=lambda entry: -entry.scores[0])


def print_table(scored: Sequence[Scored], rewards: Sequence[Reward], console: Console) -> None:
    """A line for each picture. A folder that is common to all, and a prompt that is, stand above."""
    folder = Path(os.path.commonpath([entry.picture.path.absolute().parent for entry in scored]))
    prompts = {entry.picture.prompt for entry in scored}
    wanted = f" for {min(prompts)!r}" if len(prompts) == 1 and any(prompts) else ""
    console.print(f"{len(scored)} pictures in {folder}{wanted}", markup=False, highlight=False, soft_wrap=True)
    table = Table(Column("", justify="right"))
    for reward in rewards:
        table.add_column(reward.name, no_wrap=True, justify="right")
    table.add_column("picture", overflow="fold")
    if len(prompts) > 1:
        table.add_column("prompt")
    for rank, entry in enumerate(scored, start=1):
        scores = (f"{score:.4f}" for score in entry.scores)
        texts = [str(entry.picture.path.absolute().relative_to(folder)), entry.picture.prompt]
        table.add_row(str(rank), *scores, *map(escape, texts if len(prompts) > 1 else texts[:1]))
    console.print(table)


def write_csv(scored: Sequence[Scored], rewards: Sequence[Reward], path: Path) -> None:
    """A row for each picture."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "prompt", *(reward.name for reward in rewards)])
        writer.writerows([entry.picture.path, entry.picture.prompt, *entry.scores] for entry in scored)


def write_sheet(scored: Sequence[Scored], rewards: Sequence[Reward], path: Path) -> None:
    """A contact sheet, with rank, scores and file name under each picture."""
    ranks = np.unique(np.linspace(0, len(scored) - 1, min(len(scored), SHEET_PICTURES)).round().astype(int))
    shown = [(rank, scored[rank]) for rank in ranks]
    first, *others = [reward.name for reward in rewards]
    title = f"{first}, best first; {len(shown)} of {len(scored)} pictures"
    captions = [
        "\n".join([
            f"{rank + 1}.  {entry.scores[0]:.4f}",
            *(f"{name} {score:.4f}" for name, score in zip(others, entry.scores[1:], strict=True)),
            entry.picture.path.name,
        ])
        for rank, entry in shown
    ]  # fmt: skip
    compose_sheet(title, [entry.small for _, entry in shown], captions).save(path)


def _batches(pictures: Sequence[Picture], size: int) -> Iterator[tuple[list[Picture], NDArray[np.uint8]]]:
    """Pictures that follow one another and have one size, with their pixels [n, H, W, 3]."""
    chosen: list[Picture] = []
    images: list[NDArray[np.uint8]] = []
    for picture in pictures:
        image = load_picture(picture)
        if images and (len(images) == size or image.shape != images[0].shape):
            yield chosen, np.stack(images)
            chosen, images = [], []
        chosen.append(picture)
        images.append(image)
    if images:
        yield chosen, np.stack(images)


def _column(reward: Reward, images: NDArray[np.uint8], pictures: Sequence[Picture]) -> NDArray[np.float32]:
    prompts, metadata = [picture.prompt for picture in pictures], [picture.metadata for picture in pictures]
    try:
        return checked(reward, images, prompts, metadata)
    except RewardError as error:
        raise RewardFailed(str(error)) from error
    except ValueError as error:
        raise ConfigError(f"{error}, or give it with --metadata key=value") from error


def _options(settings: Sequence[str]) -> Mapping[str, Any]:
    options: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"expected key=value after the reward's name; found {setting!r}")
        *blocks, last = key.split(".")
        place = options
        for block in blocks:
            place = place.setdefault(block, {})
            if not isinstance(place, dict):
                raise ValueError(f"expected a block at {block!r}; found a value, too")
        place[last] = yaml.safe_load(text)
    return options
