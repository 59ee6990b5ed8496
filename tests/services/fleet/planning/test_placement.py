from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cli.run_file import load_run_file
from services.config import FleetConfig
from services.errors import ConfigError
from services.fleet.planning.placement import Bundle, Needs, Node, bundles_of, crowded_out, parse_nodes, plan
from services.fleet.planning.preflight import check_places, check_reach

ROLE = {"workers": 2, "cpus": 4, "gpus": 0.5}
COLOCATED = {"layout": "colocated", "learner": ROLE, "rollout": ROLE, "reward": {"workers": 1}}


def test_separate_workers_have_a_bundle_each() -> None:
    fleet = FleetConfig.model_validate(
        {"learner": ROLE, "rollout": {"workers": 3, "gpus": 1, "resources": {"spot": 1}}}
    )
    bundles = bundles_of(fleet)
    assert [bundle.slots for bundle in bundles] == [
        ("learner-0",),
        ("learner-1",),
        ("rollout-0",),
        ("rollout-1",),
        ("rollout-2",),
        ("reward-0",),
    ]
    assert bundles[0].needs.for_ray() == {"CPU": 4, "GPU": 0.5}
    assert bundles[2].needs.for_ray() == {"CPU": 1, "GPU": 1, "spot": 1}


def test_colocated_pairs_share_a_bundle_and_its_gpu() -> None:
    bundles = bundles_of(FleetConfig.model_validate(COLOCATED))
    assert [bundle.slots for bundle in bundles] == [
        ("learner-0", "rollout-0"),
        ("learner-1", "rollout-1"),
        ("reward-0",),
    ]
    assert bundles[0].needs == Needs(cpus=8, gpus=1)
    found = plan(bundles, [Node(name="a", cpus=32, gpus=2)])
    assert [placed.gpus for placed in found.placed] == [(0,), (1,), ()]


def test_colocated_needs_as_many_ranks_as_rollout_workers() -> None:
    with pytest.raises(ValueError, match="expected as many of each, found 2 and 3"):
        FleetConfig.model_validate(COLOCATED | {"rollout": {"workers": 3}})


@pytest.mark.parametrize(
    ("role", "sentence"),
    [
        ({"gpus": 1.5}, r"whole ones, found gpus: 1\.5"),
        ({"resources": {"GPU": 1}}, "GPU is no custom resource"),
        ({"memory_gib": -1}, "greater than or equal to 0"),
    ],
)
def test_resources_that_ray_would_refuse_are_refused_at_once(role, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        FleetConfig.model_validate({"rollout": role})


def test_a_fraction_goes_to_the_fullest_gpu_that_has_it_and_whole_gpus_to_free_ones() -> None:
    wanted = [0.5, 1, 0.25, 2, 0.5]
    bundles = [Bundle((str(index),), Needs(gpus=gpus)) for index, gpus in enumerate(wanted)]
    found = plan(bundles, [Node(name="a", cpus=1, gpus=4), Node(name="b", cpus=1, gpus=1)])
    assert [(placed.node, placed.gpus) for placed in found.placed] == [
        ("a", (0,)),
        ("a", (1,)),
        ("a", (0,)),
        ("a", (2, 3)),
        ("b", (0,)),
    ]


def test_a_role_runs_only_where_its_custom_resource_is() -> None:
    fleet = FleetConfig.model_validate({"rollout": {"workers": 2, "resources": {"spot": 1}}})
    found = plan(bundles_of(fleet), [Node(name="kept", cpus=64), *parse_nodes("cpus=64 spot=2", "cheap")])
    where = {placed.bundle.slots[0]: placed.node for placed in found.placed}
    assert where == {"learner-0": "kept", "reward-0": "kept", "rollout-0": "cheap-0", "rollout-1": "cheap-0"}


def test_workers_that_fit_in_sum_but_on_no_node_are_told() -> None:
    fleet = FleetConfig.model_validate({"learner": {"cpus": 6, "memory_gib": 10}, "rollout": {"cpus": 6}})
    nodes = [Node(name="a", cpus=8, memory_gib=64), Node(name="b", cpus=5, memory_gib=64)]
    with pytest.raises(ConfigError, match="no node has room for rollout-0"):
        check_places(fleet, nodes)
    check_places(fleet, [nodes[0], Node(name="b", cpus=6, memory_gib=64)])


def test_a_role_that_may_go_anywhere_is_told_to_crowd_out_one_that_may_not() -> None:
    """What Ray really does with such a fleet: tests/services/fleet/planning/test_places.py."""
    roles = {"learner": {"gpus": 1}, "rollout": {"gpus": 1, "resources": {"spot": 1}}}
    nodes = [*parse_nodes("cpus=8 gpus=1 steady=9", "kept"), *parse_nodes("cpus=8 gpus=1 spot=9", "cheap")]
    crowded = crowded_out(bundles_of(FleetConfig.model_validate(roles)), nodes)
    assert [bundle.slots for bundle in crowded] == [("rollout-0",)]
    roles["learner"]["resources"] = {"steady": 1}
    assert crowded_out(bundles_of(FleetConfig.model_validate(roles)), nodes) == ()


@given(
    needs=st.lists(
        st.tuples(st.sampled_from([0.25, 0.5, 1, 2, 4]), st.sampled_from([0, 0.25, 0.5, 1, 2])), min_size=1, max_size=20
    ),
    nodes=st.lists(st.tuples(st.integers(1, 8), st.integers(0, 4)), min_size=1, max_size=4),
)
def test_no_node_and_no_gpu_is_given_away_twice(needs, nodes) -> None:
    bundles = [Bundle((str(i),), Needs(cpus=cpus, gpus=gpus)) for i, (cpus, gpus) in enumerate(needs)]
    have = [Node(name=str(i), cpus=cpus, gpus=gpus) for i, (cpus, gpus) in enumerate(nodes)]
    found = plan(bundles, have)
    assert sorted(b.slots for b in (*found.homeless, *(p.bundle for p in found.placed))) == sorted(
        b.slots for b in bundles
    )
    for node in have:
        here = [placed for placed in found.placed if placed.node == node.name]
        assert sum(placed.bundle.needs.cpus for placed in here) <= node.cpus + 1e-6
        for gpu in range(node.gpus):
            assert sum(min(p.bundle.needs.gpus, 1) for p in here if gpu in p.gpus) <= 1 + 1e-6
        assert all(index < node.gpus for placed in here for index in placed.gpus)


def test_nodes_are_described_in_words() -> None:
    nodes = list(parse_nodes("2x cpus=32 gpus=8 memory_gib=512 gpu_gib=80 spot=1", "n"))
    assert nodes[1] == Node(name="n-1", cpus=32, gpus=8, memory_gib=512, gpu_gib=80, resources={"spot": 1})
    for wrong in ("eight gpus", "gpus=many", ""):
        with pytest.raises(ValueError, match="--node: expected"):
            list(parse_nodes(wrong))


def test_several_nodes_need_a_server_and_a_run_folder_that_all_of_them_reach() -> None:
    path = Path(__file__).resolve().parents[4] / "deploy/configs/quickstart.yaml"
    nodes = [Node(name="a", cpus=2), Node(name="b", cpus=2)]
    check_reach(load_run_file(path), nodes[:1])
    with pytest.raises(ConfigError, match="expected the URL of a server that all 2 nodes reach"):
        check_reach(load_run_file(path), nodes)
    with pytest.raises(ConfigError, match="expected an absolute path that all 2 nodes mount, found runs"):
        check_reach(load_run_file(path, ["fleet.redis=redis://h"]), nodes)
    check_reach(load_run_file(path, ["fleet.redis=redis://h", "runs=/runs"]), nodes)
