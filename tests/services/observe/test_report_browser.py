"""The reports in a real browser: the slider moves, every word can be read in light and dark, nothing overflows."""

import shutil
from pathlib import Path

import pytest

from services.cli.report import write_reports
from services.observe.report import write_report

from .browser import CHROMIUM, probe, screenshot

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(CHROMIUM is None, reason="no browser is installed (Debian: chromium)"),
]

SLIDE = """
  const figure = document.querySelector("figure.slider"), range = figure.querySelector("input");
  const seen = [];
  for (let place = range.min; place <= Number(range.max); place++) {
    range.value = place;
    range.dispatchEvent(new Event("input"));
    const shown = [...figure.querySelectorAll("img")].filter((image) => image.offsetParent !== null);
    seen.push([Number(figure.querySelector("output").textContent), ...shown.map((i) => Number(i.dataset.update))]);
  }
  return {seen, visible: range.offsetParent !== null, loaded: [...document.images].every((i) => i.naturalWidth > 0)};
"""
READ = """
  const parts = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => {
    const [r, g, b] = rgb.slice(0, 3).map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parts(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const pale = [], sheet = light(paper(document.body));
  for (const element of document.body.querySelectorAll("*")) {
    const words = [...element.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data).join("").trim();
    if (!words || !element.getClientRects().length || ["SCRIPT", "STYLE"].includes(element.tagName)) continue;
    const style = getComputedStyle(element);
    const ink = light(parts(element.closest("svg") ? style.fill : style.color)), back = light(paper(element));
    const contrast = (Math.max(ink, back) + 0.05) / (Math.min(ink, back) + 0.05);
    if (contrast < 4.5) pale.push([words.slice(0, 40), contrast]);
  }
  const root = document.documentElement;
  return {pale, sheet, overflow: root.scrollWidth - root.clientWidth};
"""

NARROW = """
  const letter = parseFloat(getComputedStyle(document.body).fontSize);
  const words = [...document.querySelectorAll("table.journal td:last-child")].map((cell) => cell.clientWidth / letter);
  const wide = [...document.querySelectorAll("svg.wide")].map((drawing) => drawing.clientWidth);
  return {words: Math.min(...words), wide: Math.min(...wide), drawings: wide.length};
"""


@pytest.fixture
def comparison(run_folder: Path) -> Path:
    """One page about a run and one that is cut short and set up otherwise."""
    other = run_folder.with_name("shorter")
    shutil.copytree(run_folder, other)
    lines = (other / "history.jsonl").read_text().splitlines(keepends=True)
    (other / "history.jsonl").write_text("".join(lines[:60]))
    (other / "config.yaml").write_text((other / "config.yaml").read_text().replace("num_steps: 4", "num_steps: 8"))
    (other / "strips/update_000100.png").unlink()
    return write_reports([run_folder, other], None)


def test_the_slider_shows_the_strip_of_its_update(run_folder: Path) -> None:
    found = probe(write_report(run_folder), SLIDE)
    assert found == {"seen": [[0, 0], [50, 50], [100, 100]], "visible": True, "loaded": True}


def test_the_comparisons_slider_moves_all_runs_each_to_its_newest_strip(comparison: Path) -> None:
    assert probe(comparison, SLIDE)["seen"] == [[0, 0, 0], [50, 50, 50], [100, 100, 50]]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("which", ["report", "comparison"])
def test_every_word_can_be_read_and_nothing_overflows(which: str, dark: bool, run_folder: Path, request) -> None:
    page = write_report(run_folder) if which == "report" else request.getfixturevalue("comparison")
    found = probe(page, READ, dark=dark)
    assert (found["sheet"] < 0.05) == dark, "the browser did not take the scheme"
    assert found["pale"] == []
    assert found["overflow"] == 0
    assert probe(page, READ, dark=dark, width=500)["overflow"] == 0


def test_on_a_narrow_page_tables_and_wide_charts_are_scrolled_rather_than_squeezed(run_folder: Path) -> None:
    found = probe(write_report(run_folder), NARROW, width=500)
    assert found["words"] > 10
    assert found["drawings"] == 2
    assert found["wide"] >= 680


def test_a_picture_of_the_page_is_not_blank(run_folder: Path, tmp_path: Path) -> None:
    from PIL import Image

    screenshot(write_report(run_folder), tmp_path / "page.png", dark=True)
    assert len(Image.open(tmp_path / "page.png").convert("RGB").getcolors(10**6) or ()) > 100
