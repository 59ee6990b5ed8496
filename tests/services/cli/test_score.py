"""`tafs score`, from files to table, CSV and contact sheet."""

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from rich.console import Console

from rewards.jpeg_size import bits_per_pixel
from services.cli.pictures import find_pictures
from services.cli.score import build_rewards, print_table, score_pictures, write_csv, write_sheet
from services.errors import ConfigError, RewardFailed
from services.observe.contact_sheet import GAP, LINE, SIDE, compose_sheet, thumbnail

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An even picture, noise and, of another size, a number."""
    random = np.random.default_rng(0)
    Image.new("RGB", (32, 16), "white").save(tmp_path / "a.png")
    Image.fromarray(random.integers(0, 256, (16, 32, 3), dtype=np.uint8)).save(tmp_path / "b.png")
    number = Image.new("RGB", (48, 24), "white")
    ImageDraw.Draw(number).text((24, 12), "42", "black", anchor="mm", font_size=20)
    number.save(tmp_path / "c.PNG")
    (tmp_path / "notes.txt").touch()
    return tmp_path


def names(scored) -> list[str]:
    return [entry.picture.path.name for entry in scored]


def test_a_folders_pictures_of_any_size_are_sorted_by_the_first_reward(folder) -> None:
    rewards = build_rewards(["jpeg_size direction=larger", "text_rendering"])
    scored = score_pictures(find_pictures([folder], "", {"target": "42"}), rewards, batch=64)
    assert names(scored) == ["b.png", "c.PNG", "a.png"]
    for entry in scored:
        image = np.asarray(Image.open(entry.picture.path))
        assert entry.scores[0] == pytest.approx(bits_per_pixel(image))
    assert scored[1].scores[1] == 1.0


def test_scores_do_not_depend_on_the_batch(folder) -> None:
    rewards = build_rewards(["jpeg_size direction=smaller"])
    found = find_pictures([folder], "", {})
    assert score_pictures(found, rewards, batch=1) != []
    one, many = (score_pictures(found, rewards, batch=batch) for batch in (1, 64))
    assert [entry.scores for entry in one] == [entry.scores for entry in many]


def test_a_csv_says_prompt_and_metadata_of_each_picture(folder) -> None:
    table = folder / "list.csv"
    table.write_text('image,prompt,target,metadata\na.png,"one, two",1,\nb.png,two,2,"{""target"": 3, ""n"": [1]}"\n')
    first, second = find_pictures([table], "default", {"author": "me"})
    assert (first.path, first.prompt, first.metadata) == (folder / "a.png", "one, two", {"author": "me", "target": "1"})
    assert second.metadata == {"author": "me", "target": 3, "n": [1]}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("picture\na.png\n", "expected a column `image`; found picture"),
        ("", "expected a column `image`; found none"),
        ("image,prompt\na.png\n", "line 2: expected 2 values"),
        ("image\na.png,b\n", "line 2: expected 1 values"),
        ("image,metadata\na.png,{\n", "line 2: expected JSON under `metadata`"),
        ("image,metadata\na.png,[]\n", "line 2: expected a JSON object"),
    ],
)
def test_a_csv_that_cannot_be_read_says_where(folder, text, complaint) -> None:
    (folder / "list.csv").write_text(text)
    with pytest.raises(ConfigError, match=complaint):
        find_pictures([folder / "list.csv"], "", {})


def test_paths_without_pictures_are_named(folder, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"expected pictures .* in the folder .*empty; found none"):
        find_pictures([tmp_path / "empty"], "", {})
    (folder / "list.csv").write_text("image\n")
    with pytest.raises(ConfigError, match=r"expected pictures behind .*list\.csv; found none"):
        find_pictures([folder / "list.csv"], "", {})
    with pytest.raises(ConfigError, match=r"expected a picture, a folder or a CSV file at .*absent"):
        find_pictures([tmp_path / "absent"], "", {})
    with pytest.raises(ConfigError, match=r"expected a picture at .*notes\.txt"):
        found = find_pictures([folder / "notes.txt"], "", {})
        score_pictures(found, build_rewards(["jpeg_size direction=larger"]), batch=1)


@pytest.mark.parametrize(
    ("reward", "complaint"),
    [
        ("jpg_size", "did you mean 'jpeg_size'"),
        ("jpeg_size larger", "expected key=value after the reward's name; found 'larger'"),
        ("jpeg_size", "found no direction"),
        ("vlm_yes_no judge=3 judge.url=http://x", "expected a block at 'judge'"),
    ],
)
def test_a_reward_that_cannot_be_built_is_named(reward, complaint) -> None:
    with pytest.raises(ConfigError, match=complaint):
        build_rewards([reward])


def test_metadata_that_are_missing_say_how_to_give_them(folder) -> None:
    with pytest.raises(ConfigError, match=r"expected metadata key 'target'.*--metadata key=value"):
        score_pictures(find_pictures([folder], "", {}), build_rewards(["text_rendering"]), batch=1)


def test_a_reward_whose_server_is_down_can_be_tried_again() -> None:
    with pytest.raises(RewardFailed, match="cannot be reached") as caught:
        build_rewards(["remote url=http://127.0.0.1:1 attempts=1"])
    assert caught.value.exit_code == 75


def test_the_csv_has_every_score_best_first(folder, tmp_path) -> None:
    rewards = build_rewards(["jpeg_size direction=larger"])
    scored = score_pictures(find_pictures([folder], "p", {}), rewards, batch=64)
    write_csv(scored, rewards, tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["image"]).name for row in rows] == ["b.png", "c.PNG", "a.png"]
    assert float(rows[0]["jpeg_size"]) == pytest.approx(scored[0].scores[0])
    assert rows[0]["prompt"] == "p"


def test_the_contact_sheet_shows_the_pictures_in_order(folder, tmp_path) -> None:
    rewards = build_rewards(["jpeg_size direction=larger"])
    scored = score_pictures(find_pictures([folder], "", {}), rewards, batch=64)
    write_sheet(scored, rewards, tmp_path / "sheet.png")
    sheet, top = np.asarray(Image.open(tmp_path / "sheet.png")), LINE + 2 * GAP
    assert sheet.shape == (top + SIDE + 2 * LINE + 2 * GAP, 3 * (SIDE + GAP) + GAP, 3)
    noise = [sheet[top : top + SIDE, GAP + i * (SIDE + GAP) :][:, :SIDE].std() for i in range(3)]
    assert noise[0] > noise[1] > noise[2] == 0


def test_the_contact_sheet_has_a_line_for_every_further_reward(folder, tmp_path) -> None:
    found = find_pictures([folder], "", {"target": "42"})
    heights = []
    for names in (["text_rendering"], ["text_rendering", "jpeg_size direction=larger"]):
        rewards = build_rewards(names)
        write_sheet(score_pictures(found, rewards, batch=64), rewards, tmp_path / "sheet.png")
        with Image.open(tmp_path / "sheet.png") as sheet:
            heights.append(sheet.height)
    assert heights[1] - heights[0] == LINE


def test_thumbnails_are_shrunk_or_grow_by_whole_factors() -> None:
    assert thumbnail(Image.new("RGB", (1024, 512))).size == (SIDE, SIDE // 2)
    assert thumbnail(Image.new("RGB", (32, 16))).size == (128, 64)


def test_a_caption_that_is_too_long_is_cut_and_an_empty_sheet_is_a_sheet() -> None:
    long, short = (compose_sheet(text, [Image.new("RGB", (8, 8))], [text]) for text in ("m" * 500, "m"))
    assert long.size == short.size == compose_sheet("", [], []).size


def test_the_table_says_once_what_all_pictures_share(folder) -> None:
    rewards = build_rewards(["jpeg_size direction=larger"])
    (folder / "more").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "more/d.png")
    shared = find_pictures([folder, folder / "more"], "a [red] 7", {})
    own = [*shared, *find_pictures([folder / "a.png"], "a blue 3", {})]
    tables = []
    for found in (shared, own):
        console = Console(record=True, width=250, file=io.StringIO())
        print_table(score_pictures(found, rewards, batch=64), rewards, console)
        tables.append(console.export_text())
    assert tables[0].startswith(f"4 pictures in {folder} for 'a [red] 7'")
    assert (tables[0].count("[red]"), tables[1].count("[red]"), tables[1].count("a blue 3")) == (1, 4, 1)
    assert " more/d.png " in tables[0]
    assert [table.count(str(folder)) for table in tables] == [1, 1]


def test_the_command_prints_a_table_and_writes_what_it_is_asked_to(folder, tmp_path) -> None:
    command = [sys.executable, "-m", "services", "score", str(folder), "--reward", "jpeg_size direction=larger"]
    command += ["--sheet", str(tmp_path / "sheet.png"), "--output", str(tmp_path / "scores.csv")]
    wide = {**os.environ, "COLUMNS": "250"}
    done = subprocess.run(command, cwd=ROOT, env=wide, capture_output=True, text=True, check=True)
    assert done.stdout.index("b.png") < done.stdout.index("c.PNG") < done.stdout.index("a.png")
    assert (tmp_path / "sheet.png").is_file()
    assert (tmp_path / "scores.csv").is_file()
