import numpy as np
import pytest

from services.observe.strips import (
    BEFORE_AFTER,
    STRIP,
    StripPanel,
    StripRow,
    compose_before_after,
    compose_strip,
    legible_size,
)

STEPS = ("step 0", "step 1", "step 2", "step 3")


@pytest.mark.parametrize(
    "size", [(8, 8), (32, 16), (64, 64), (100, 100), (128, 96), (256, 256), (1024, 768), (2048, 512)]
)
@pytest.mark.parametrize("look", [STRIP, BEFORE_AFTER])
def test_an_image_of_any_size_is_shown_at_a_legible_one(size, look) -> None:
    width, height = legible_size(*size, look)
    assert 0.66 * look.side_min <= max(width, height) <= look.side_max
    assert width / height == pytest.approx(size[0] / size[1], rel=0.02)


def test_a_tiny_image_is_enlarged_by_a_whole_factor_with_hard_edges(make_rows) -> None:
    rows = make_rows(1)
    assert legible_size(32, 16) == (192, 96)
    strip = np.asarray(compose_strip(rows, STEPS, "update 0"))
    enlarged = rows[0].images[2].repeat(6, axis=0).repeat(6, axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(strip, enlarged.shape[:2], axis=(0, 1))
    corners = np.argwhere((windows[:, :, :, 0, 0] == enlarged[0, 0]).all(axis=-1))
    assert any((strip[y : y + 96, x : x + 192] == enlarged).all() for y, x in corners)


def test_a_strip_grows_by_one_row_per_prompt_and_one_column_per_step(make_rows) -> None:
    one, two = (compose_strip(make_rows(count), STEPS, "t") for count in (1, 2))
    three = compose_strip(make_rows(3), STEPS, "t")
    assert three.height - two.height == two.height - one.height >= 96
    wider = compose_strip(make_rows(1, num_steps=5), (*STEPS, "step 4"), "t")
    assert wider.width - one.width >= 192
    assert wider.height == one.height


def test_before_and_after_stand_side_by_side_in_one_row_per_prompt(make_rows) -> None:
    panels = [StripPanel(heading=heading, rows=make_rows(3)) for heading in ("update 0", "update 50", "update 100")]
    both, one = compose_before_after(panels, STEPS, "t"), compose_before_after(panels[:1], STEPS, "t")
    assert both.height == one.height
    assert both.width - one.width >= 2 * 4 * 128


def test_a_strip_of_large_images_and_one_step_without_notes_is_composed() -> None:
    row = StripRow(caption="a very long prompt " * 30, images=np.full((1, 1024, 1024, 3), 127, dtype=np.uint8))
    strip = compose_strip([row], ("step 0",), "a title far too long for so narrow a strip " * 4)
    assert strip.width < 640
    assert strip.height < 480


def test_rows_that_do_not_fit_together_are_refused(make_rows) -> None:
    rows = make_rows(2)
    with pytest.raises(ValueError, match="expected images"):
        compose_strip(rows, STEPS[:3], "t")
    with pytest.raises(ValueError, match="notes"):
        compose_strip([StripRow(caption="a", images=rows[0].images, notes=("1",))], STEPS, "t")
    with pytest.raises(ValueError, match="same order"):
        compose_before_after([StripPanel(heading="a", rows=rows), StripPanel(heading="b", rows=rows[::-1])], STEPS, "t")
    with pytest.raises(ValueError, match="at least one row"):
        compose_strip([], STEPS, "t")


def test_a_note_with_a_character_that_the_font_lacks_is_drawn_like_one_with_a_question_mark(make_rows) -> None:
    def noted(note: str) -> np.ndarray:
        rows = [StripRow(caption=row.caption, images=row.images, notes=(note,) * 4) for row in make_rows(1)]
        return np.asarray(compose_strip(rows, STEPS, "update 0"))

    assert (noted("\u7a0b3") == noted("?3")).all()
    assert (noted("\u00e93") != noted("?3")).any()
