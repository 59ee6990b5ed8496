import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from services.observe.headline import headline
from services.observe.pictures import Picture
from services.observe.report import RunContents, read_run, render_report, write_report
from services.observe.summary import build_summary

SECTIONS = {"results", "rewards", "learning", "system", "events", "pictures", "configuration", "provenance"}
STEPS = tuple(f"step {step}" for step in range(4))
VOID = {"meta", "img", "input", "br", "path", "line", "circle", "use", "rect"}


class Page(HTMLParser):
    """The ids, links and open elements of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.mismatched: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs) -> None:
        self._attributes(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self._attributes(attrs)

    def handle_endtag(self, tag) -> None:
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.mismatched.append(tag)

    def _attributes(self, attrs) -> None:
        self.ids += [value for key, value in attrs if key == "id"]
        self.links += [value for key, value in attrs if key in {"href", "src", "xlink:href", "srcset", "action"}]


def check(text: str, sections: set[str] = SECTIONS) -> Page:
    page = Page(text)
    assert not page.mismatched
    assert not page.open
    assert len(page.ids) == len(set(page.ids)), "an id stands twice"
    assert set(page.ids) >= sections
    for link in page.links:
        assert link.startswith("data:image/") or link.removeprefix("#") in page.ids
    assert not re.search(r"https?://|@import|<script src|<link", text)
    assert not re.search(r"url\((?!#)", text)
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(page.ids)
    assert not re.search(r"#0[abc]00[0-9a-f]{2}\b", text), "a stand-in colour is left"
    used = set(re.findall(r"var\((--[\w-]+)\)", text))
    assert used <= set(re.findall(r"(--[\w-]+):", text)), "a CSS variable is not defined"
    assert not re.search(r"\bnan\b", re.sub(r'src="[^"]*"', "", text), flags=re.IGNORECASE)
    return page


def test_a_whole_run_becomes_one_page_that_needs_no_network(run_folder: Path) -> None:
    path = write_report(run_folder, planned_updates=100)
    text = path.read_text(encoding="utf-8")
    page = check(text)
    assert len(page.links) - sum(link.startswith("#") for link in page.links) == 4
    for words in (
        "74.1 %",
        "exact_match",
        "judge",
        "lt;a &amp; b",
        "0123abc",
        "versions torch",
        "step 3",
        "100 updates",
        "rollout-1: died: &lt;signal 9&gt;",
        "<td>learner-0 died: hung; stacks in stacks/1.txt</td>",
    ):
        assert words in text
    assert "Updates without a finite gradient changed nothing: 17." in text
    assert "The same throughout: temperature 0.9." in text
    assert "font-family" not in re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL), "charts have the page's font"
    for card in re.findall(r'<figure class="card"><figcaption>.*?</figure>', text.split('id="learning"')[1], re.DOTALL):
        if "<svg" in card and "On the clock" not in card:
            assert 'class="caption"' in card, "every chart says in a sentence what it shows"
    assert path.stat().st_size < 3_000_000


def test_an_interrupted_run_says_how_far_it_came(run_folder: Path) -> None:
    (run_folder / "summary.json").unlink()
    text = render_report(read_run(run_folder, planned_updates=400))
    check(text)
    assert "Unfinished: 100 of 400 updates" in text
    assert "This run has no evaluation." in text


def test_a_run_without_any_file_still_has_every_section(tmp_path: Path) -> None:
    text = render_report(read_run(tmp_path, planned_updates=10))
    check(text)
    assert "No update has been made yet." in text


@pytest.mark.parametrize("num_steps", [1, 2, 12])
def test_a_single_update_of_any_number_of_steps_is_drawn(make_history, num_steps: int) -> None:
    records = make_history(1, rewards=("<odd> & name",), num_steps=num_steps)
    text = render_report(RunContents(name="one <b>", records=records))
    check(text)
    assert "&lt;odd&gt; &amp; name" in text


def test_a_reward_that_scored_nothing_or_only_some_steps_is_drawn(make_history) -> None:
    records = []
    for record in make_history(3, rewards=("a", "b")):
        rewards = record.report["rewards"]
        rewards["a"]["mean"] = (float("nan"),) * 4
        rewards["b"]["mean"] = (float("nan"), 0.1 * record.update, float("nan"), 0.5)
        records.append(msgspec.structs.replace(record, staleness=(), phase_seconds={}, call_seconds={}))
    text = render_report(RunContents(name="partial", records=tuple(records)))
    check(text)
    assert "No step has been scored." in text


def test_a_metric_that_is_no_share_is_drawn_on_its_own_scale(mean_reward) -> None:
    summary = build_summary((), mean_reward, wall_seconds=1.0, slots=1)
    text = render_report(RunContents(name="means", summary=summary))
    check(text)
    assert "-1.2" in text
    assert "jpeg size" in text


def test_an_evaluation_that_was_only_made_before_training_is_shown(evaluations) -> None:
    before = [entry for entry in evaluations if entry.when == "before"]
    text = render_report(RunContents(name="half", summary=build_summary((), before, wall_seconds=1.0, slots=1)))
    check(text)
    assert '<span class="after">–</span>' in text


def test_samplers_of_the_same_figures_share_a_row(evaluations) -> None:
    serving = [entry for entry in evaluations if entry.sampler == "serving"]
    again = [replace(entry, sampler="tau_1") for entry in serving]
    text = headline([*serving, *again])
    assert text.count('class="row"') == len({entry.metric for entry in serving})
    assert "serving, τ = 1" in text


def test_a_large_picture_goes_into_the_page_as_jpeg() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (700, 700, 3), dtype=np.uint8)
    png = io.BytesIO()
    Image.fromarray(noise).save(png, format="PNG")
    text = render_report(RunContents(name="big", pictures=(Picture(heading="Update 1", png=png.getvalue()),)))
    check(text)
    assert "data:image/jpeg" in text
