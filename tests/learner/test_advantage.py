import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from learner.advantage import FLOOR, Rewards, advantages, build_credit, steps_read

G, K = 5, 4
MODES = ("gain", "gae", "control_variate", "to_go", "next", "terminal")
values_of = arrays(np.float64, (G, K), elements=st.integers(-8, 8).map(float))
modes = st.sampled_from(MODES)
scales = st.sampled_from(("group", "batch", "none"))
shares = st.floats(0.0, 1.0)
orders = st.sets(st.integers(0, K - 2), min_size=1).map(lambda steps: tuple(sorted(steps)))


def rewards(values, transitions=None, scored=None, span=1.0):
    values = np.asarray(values, dtype=np.float64)
    steps = values.shape[1]
    scored = np.ones(steps, dtype=bool) if scored is None else np.isin(np.arange(steps), scored)
    return Rewards(values, scored, tuple(range(steps - 1)) if transitions is None else transitions, span)


def credit(mode="gae", lam=1.0, gamma=1.0, terminal_share=0.0, scale="none"):
    return build_credit(mode, lam, gamma, terminal_share, scale)


def centred(values):
    return values - values.mean(axis=0)


def some_values(seed=0, shape=(G, K)):
    return np.random.default_rng(seed).normal(size=shape)


@st.composite
def credits(draw):
    mode, scale, share = draw(modes), draw(scales), draw(st.sampled_from((0.0, 0.3)))
    lam = draw(st.sampled_from((0.0, 0.5, 1.0))) if mode == "gae" else 1.0
    gamma = draw(st.sampled_from((0.0, 0.5, 1.0))) if mode == "to_go" else 1.0
    return credit(mode, lam, gamma, share, scale)


@given(values_of)
def test_gae_0_is_the_gain_of_the_next_step(values):
    (table,) = advantages([rewards(values)], credit("gae", lam=0.0))
    gain = values[:, 1:] - values[:, :-1]
    gain[:, np.ptp(values[:, 1:], axis=0) == 0.0] = 0.0
    np.testing.assert_allclose(table, centred(gain), atol=1e-12)


@given(values_of)
def test_gae_1_telescopes_to_the_whole_gain(values):
    (table,) = advantages([rewards(values)], credit("gae", lam=1.0))
    whole = values[:, -1:] - values[:, :-1]
    expected = centred(whole) if np.ptp(values[:, -1]) else np.zeros_like(whole)
    np.testing.assert_allclose(table, expected, atol=1e-12)


@given(st.floats(0.0, 1.0))
def test_gae_is_the_discounted_sum_of_gains(lam):
    values = some_values()
    (table,) = advantages([rewards(values)], credit("gae", lam=lam))
    gains = values[:, 1:] - values[:, :-1]
    for k in range(K - 1):
        total = sum(lam ** (j - k) * gains[:, j] for j in range(k, K - 1))
        np.testing.assert_allclose(table[:, k], centred(total), atol=1e-12)


@given(st.floats(0.0, 1.0))
def test_to_go_is_the_discounted_sum_of_later_rewards(gamma):
    values = some_values()
    (table,) = advantages([rewards(values)], credit("to_go", gamma=gamma))
    for k in range(K - 1):
        total = sum(gamma ** (j - k - 1) * values[:, j] for j in range(k + 1, K))
        np.testing.assert_allclose(table[:, k], centred(total), atol=1e-12)


def test_next_is_the_next_reward_and_terminal_the_last():
    values = some_values()
    (following,) = advantages([rewards(values)], credit("next"))
    np.testing.assert_allclose(following, centred(values[:, 1:]))
    (final,) = advantages([rewards(values)], credit("terminal"))
    np.testing.assert_allclose(final, centred(values[:, -1:]).repeat(K - 1, axis=1))


def test_same_step_is_the_trap_of_a_steps_own_reward():
    values = some_values()
    (table,) = advantages([rewards(values)], credit("same_step"))
    np.testing.assert_allclose(table, centred(values[:, :-1]))


@given(st.lists(values_of, min_size=1, max_size=3), credits())
def test_advantages_are_centred(batch, how):
    for table in advantages([rewards(values) for values in batch], how):
        assert table.shape == (G, K - 1)
        np.testing.assert_allclose(table.mean(axis=0), 0.0, atol=1e-9)


@given(values_of, values_of, st.integers(-8, 8), credits())
def test_equal_future_rewards_give_exactly_0_whatever_the_baseline(values, other, level, how):
    saturated = values.copy()
    saturated[:, 1:] = level  # every image that a transition can influence
    tables = advantages([rewards(saturated), rewards(other)], how)
    assert np.all(tables[0] == 0.0)


@pytest.mark.parametrize("mode", ["gae", "control_variate", "terminal"])
def test_equal_final_rewards_with_varied_earlier_ones_give_exactly_0(mode):
    saturated, other = some_values(0), some_values(1)
    saturated[:, -1] = 0.7
    tables = advantages([rewards(saturated), rewards(other)], credit(mode, scale="group"))
    assert np.all(tables[0] == 0.0)
    assert np.all(tables[1] != 0.0)


@given(credits(), orders)
def test_only_the_steps_that_a_credit_says_it_reads_matter(how, transitions):
    read = steps_read(how, K, transitions)
    assert K - 1 in read
    batch = [some_values(seed) for seed in range(3)]
    spoiled = [values.copy() for values in batch]
    for values in spoiled:
        values[:, [k for k in range(K) if k not in read]] = np.nan
    whole = advantages([rewards(values, transitions) for values in batch], how)
    for scored in (None, read):  # whether the other steps were scored or not
        parts = advantages([rewards(values, transitions, scored) for values in spoiled], how)
        for table, part in zip(whole, parts, strict=True):
            np.testing.assert_allclose(part, table, atol=1e-12)


@given(credits(), orders, st.integers(0, K - 1))
def test_every_step_that_a_credit_says_it_reads_does_matter(how, transitions, place):
    read = steps_read(how, K, transitions)
    step = read[place % len(read)]
    batch = [some_values(seed) for seed in range(3)]
    whole = advantages([rewards(values, transitions) for values in batch], how)
    batch[0][:, step] += some_values(9)[:, 0]
    changed = advantages([rewards(values, transitions) for values in batch], how)
    matters = any(not np.allclose(a, b) for a, b in zip(whole, changed, strict=True))
    assert matters or (step == K - 1 and how.terminal_share == 0.0)  # the final image is always read, for the report


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (credit("gae", lam=0.0), lambda r: [r[2] - r[0], r[2] - r[0], r[4] - r[2], r[4] - r[2]]),
        (credit("gae", lam=1.0), lambda r: [r[4] - r[0], r[4] - r[0], r[4] - r[2], r[4] - r[2]]),
        (credit("next"), lambda r: [r[2], r[2], r[4], r[4]]),
        (credit("to_go"), lambda r: [r[2] + r[4], r[2] + r[4], r[4], r[4]]),
    ],
    ids=["gae 0", "gae 1", "next", "to_go"],
)
def test_gains_run_between_scored_steps_and_never_read_an_unscored_one(mode, expected):
    values = some_values(shape=(G, 5))
    values[:, [1, 3]] = np.nan
    (table,) = advantages([rewards(values, scored=(0, 2, 4))], mode)
    np.testing.assert_allclose(table, centred(np.stack(expected(values.T), axis=1)), atol=1e-12)


def test_before_the_first_scored_step_there_is_no_baseline():
    values = some_values()
    values[:, 0] = np.nan
    (table,) = advantages([rewards(values, scored=(1, 2, 3))], credit("gae", lam=1.0))
    np.testing.assert_allclose(table[:, 0], centred(values[:, 3]))


@pytest.mark.parametrize("mode", MODES)
def test_a_transition_without_a_later_reward_is_an_error(mode):
    with pytest.raises(ValueError, match=r"transition 2 has no scored later step; scored are \[0 1 2\]"):
        advantages([rewards(some_values(), scored=(0, 1, 2))], credit(mode))


def test_the_trap_without_a_reward_of_its_own_is_an_error():
    with pytest.raises(ValueError, match="transition 0 has no scored step of its own"):
        advantages([rewards(some_values(), scored=(1, 2, 3))], credit("same_step"))


def test_the_control_variates_gain_is_estimated_on_the_other_groups_only():
    final, own = some_values(2, (2, 50))
    others = np.stack([own, own, own, 0.4 * own + 0.3 * centred(final)], axis=1)
    slope = np.cov(others[:, 3], own)[0, 1] / np.var(own, ddof=1)
    mine = some_values(3, (50, K))
    table, _ = advantages([rewards(mine), rewards(others)], credit("control_variate"))
    np.testing.assert_allclose(table, centred(mine[:, 3:] - slope * mine[:, :3]), atol=1e-9)


def test_the_gain_is_that_of_the_next_step_with_a_regressed_baseline():
    batch = [rewards(some_values(seed)) for seed in range(3)]
    regressed = build_credit("gae", 0.0, 1.0, 0.0, "group", regress_baseline=True)
    np.testing.assert_array_equal(advantages(batch, credit("gain", scale="group")), advantages(batch, regressed))


def test_alone_the_gain_is_the_next_reward():
    batch = [rewards(some_values())]
    np.testing.assert_array_equal(advantages(batch, credit("gain")), advantages(batch, credit("next")))


def test_where_only_the_final_image_is_scored_the_gain_is_the_terminal_reward():
    batch = [rewards(some_values(seed), scored=(K - 1,)) for seed in range(2)]
    np.testing.assert_array_equal(advantages(batch, credit("gain")), advantages(batch, credit("terminal")))


def test_alone_the_control_variate_is_the_terminal_reward():
    batch = [rewards(some_values())]
    np.testing.assert_array_equal(advantages(batch, credit("control_variate")), advantages(batch, credit("terminal")))


def test_a_constant_baseline_gets_no_gain():
    flat = some_values(1)
    flat[:, :3] = 0.5
    tables = advantages([rewards(some_values()), rewards(flat)], credit("control_variate"))
    final = advantages([rewards(some_values())], credit("terminal"))
    np.testing.assert_array_equal(tables[0], final[0])


@given(shares)
def test_mixing_weighs_the_normalised_step_term_and_the_normalised_final_reward(share):
    batch = [rewards(some_values())]
    (step,) = advantages(batch, credit("gae", lam=0.0, scale="group"))
    (final,) = advantages(batch, credit("terminal", scale="group"))
    (mixed,) = advantages(batch, credit("gae", lam=0.0, terminal_share=share, scale="group"))
    np.testing.assert_allclose(mixed, (1.0 - share) * step + share * final, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_a_group_is_divided_by_the_spread_of_its_future_never_of_the_difference(mode):
    batch = [rewards(some_values(0)), rewards(some_values(1))]
    plain, scaled = (advantages(batch, credit(mode, lam=1.0, scale=scale))[0] for scale in ("none", "group"))
    values = some_values(0)
    following = [values[:, k + 1].std() for k in range(K - 1)]
    future = {
        "to_go": [values[:, k + 1 :].sum(axis=1).std() for k in range(K - 1)],
        "next": following,
        "gain": following,
    }.get(mode, [values[:, -1].std()] * (K - 1))
    np.testing.assert_allclose(scaled, plain / np.array(future), atol=1e-12)


def test_the_batch_scale_is_the_root_of_the_mean_variance_over_groups():
    first, second = some_values(0), 3.0 * some_values(1)
    tables = advantages([rewards(first), rewards(second)], credit("terminal", scale="batch"))
    divisor = np.sqrt((first[:, -1].var() + second[:, -1].var()) / 2.0)
    np.testing.assert_allclose(tables[0], centred(first[:, -1:]).repeat(3, axis=1) / divisor)
    np.testing.assert_allclose(tables[1], centred(second[:, -1:]).repeat(3, axis=1) / divisor)


def test_the_divisor_is_never_below_a_hundredth_of_the_scorers_range():
    values = 1e-6 * some_values()
    (table,) = advantages([rewards(values, span=2.0)], credit("terminal", scale="group"))
    np.testing.assert_allclose(table, centred(values[:, -1:]).repeat(3, axis=1) / (FLOOR * 2.0))


@given(credits(), st.sampled_from((0.25, 2.0, 64.0)), st.integers(-4, 4))
def test_the_scorers_unit_and_zero_do_not_matter(how, unit, zero):
    batch = [some_values(seed) for seed in range(3)]
    here = advantages([rewards(values) for values in batch], how)
    there = advantages([rewards(unit * values + zero, span=unit) for values in batch], how)
    raw = unit if how.scale == "none" else 1.0
    for a, b in zip(here, there, strict=True):
        np.testing.assert_allclose(b, raw * a, atol=1e-9)


def test_groups_may_differ_in_their_transitions_and_steps():
    long, short = some_values(0, (G, 6)), some_values(1, (3, 3))
    batch = [rewards(long, transitions=(0, 4)), rewards(short, transitions=(0, 1))]
    tables = advantages(batch, credit("terminal", scale="batch"))
    assert [table.shape for table in tables] == [(G, 2), (3, 2)]
    np.testing.assert_allclose(tables[0][:, 1], centred(long[:, -1]) / long[:, -1].std())


def test_a_group_alone_in_the_batch_scale_is_its_own_batch():
    batch = [rewards(some_values())]
    np.testing.assert_allclose(
        advantages(batch, credit("next", scale="batch")), advantages(batch, credit("next", scale="group"))
    )


@pytest.mark.parametrize(("mode", "scale"), [("best", "group"), ("gae", "global")])
def test_an_unknown_mode_or_scale_is_refused(mode, scale):
    with pytest.raises(ValueError, match=f"found {mode}, {scale}"):
        build_credit(mode, 1.0, 1.0, 0.0, scale)


def test_a_reward_that_is_not_a_number_spoils_its_advantage_visibly():
    values = some_values()
    values[1, 2] = np.nan
    (table,) = advantages([rewards(values)], credit("next", scale="group"))
    assert np.isnan(table[:, 1]).all()
    assert np.isfinite(table[:, [0, 2]]).all()
