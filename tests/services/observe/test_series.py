import msgspec
import numpy as np

from services.observe import series


def test_columns_by_step_hold_nan_where_an_update_has_no_figure() -> None:
    columns = series.by_step([{0: 1.0, 2: 3.0}, {0: 2.0}])
    np.testing.assert_array_equal(columns[0], [1.0, 2.0])
    np.testing.assert_array_equal(columns[2], [3.0, np.nan])


def test_a_step_that_no_update_scored_has_no_column() -> None:
    assert list(series.by_step([{0: float("nan"), 1: 0.5}])) == [1]


def test_speed_is_measured_between_updates_and_undefined_where_no_time_passed(make_history) -> None:
    records = make_history(3)
    still = msgspec.structs.replace(records[2], run_seconds=records[1].run_seconds)
    speed = series.images_per_second([*records[:2], still])
    np.testing.assert_allclose(speed, [128 / 10.4, 128 / 7.4, np.nan])


def test_a_moving_mean_keeps_a_constant_and_skips_what_is_not_finite() -> None:
    np.testing.assert_allclose(series.moving_mean(np.array([2.0, np.nan, 2.0, 2.0]), 3), 2.0)


def test_bins_are_the_means_of_neighbours_the_last_one_of_fewer() -> None:
    column = np.array([1.0, 3.0, np.nan, 5.0, 7.0])
    np.testing.assert_array_equal(series.binned(column, 2), [2.0, 5.0, 7.0])
    assert series.binned(column, 1) is column


def test_the_number_of_steps_counts_those_that_are_not_trained(make_history) -> None:
    assert series.num_steps([record.figures for record in make_history(1, num_steps=6)]) == 6
    assert series.num_steps([]) == 0


def test_what_is_the_same_throughout_is_one_number_and_one_update_is_not_throughout() -> None:
    flat, gap = np.array([0.5, 0.5]), np.array([np.nan, 0.5])
    assert series.constant([flat, gap]) == 0.5
    assert series.constant([flat, np.array([0.5, 0.6])]) is None
    assert series.constant([np.array([0.5]), np.array([0.5])]) is None
    assert series.constant([np.array([np.nan, np.nan])]) is None
    assert series.constant([]) is None
