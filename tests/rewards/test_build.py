import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rewards.build import HELD_OUT, PLUGINS, REWARDS, _builder, build, look_at
from rewards.reward import BadScoresError, checked

MODULE = """
import numpy as np

def brightness(images, prompts, metadata):
    return images.mean(axis=(1, 2, 3)) / 255

def length(images, prompts, metadata):
    return [len(prompt) for prompt in prompts]
length.range = (0, 77)
length.required_metadata = ["author"]

class Scaled:
    def __init__(self, factor, offset=0.0):
        self.factor, self.offset = factor, offset
        self.range = (offset, offset + factor)
    def __call__(self, images, prompts, metadata):
        return [self.factor + self.offset] * len(images)

class Silent:
    pass

class Refuses:
    def __init__(self):
        raise KeyError("no licence")

def words(images, prompts, metadata): return ["good"] * len(images)
def ragged(images, prompts, metadata): return [1.0, [2.0, 3.0]]
def nothing(images, prompts, metadata): return None
def unbounded(images, prompts, metadata): return [1e300] * len(images)
def two(images, prompts): return [0.0] * len(images)
def upside_down(images, prompts, metadata): return [0.0] * len(images)
upside_down.range = (1, 0)
def endless(images, prompts, metadata): return [0.0] * len(images)
endless.range = (0, float("inf"))
def keyed(images, prompts, metadata): return [0.0] * len(images)
keyed.required_metadata = "target"
number = 3
"""

IMAGES = np.full((2, 4, 4, 3), 255, np.uint8)
PROMPTS = ["four", "seven !"]
METADATA = [{"author": "a"}, {"author": "b"}]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The import path of a module of user rewards."""
    folder = tmp_path / "my_rewards"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "mine.py").write_text(MODULE)
    (folder / "broken.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_rewards"]:
        monkeypatch.delitem(sys.modules, name)
    return "my_rewards.mine"


@pytest.mark.parametrize(
    ("name", "options"), [("text_rendering", {"threads": 1}), ("jpeg_size", {"direction": "smaller"})]
)
def test_every_built_reward_carries_its_own_name_and_an_ordered_range(name, options) -> None:
    reward = build(name, options)
    assert reward.name == name
    assert reward.range[0] < reward.range[1]


def test_every_name_in_the_table_is_listed_here_and_leads_to_a_builder() -> None:
    scorers = ["aesthetic", "clip_score", "hps", "image_reward", "nsfw", "pick_score", "remote"]
    judges = ["vlm_counting", "vlm_pairwise", "vlm_rubric", "vlm_yes_no"]
    assert sorted(REWARDS) == sorted([*scorers, *judges, "jpeg_size", "text_rendering"])
    for name, path in REWARDS.items():
        module, _, attribute = path.partition(":")
        assert callable(vars(importlib.import_module(module))[attribute]), name


def test_a_reward_for_a_gpu_is_looked_at_by_its_class_and_any_other_is_built() -> None:
    seen = {}
    for name, path in REWARDS.items():
        parameters = inspect.signature(_builder(name, path)).parameters
        if "device" in parameters:
            needed = {option: "absent" for option, given in parameters.items() if given.default is given.empty}
            seen[name] = look_at(build, name, {**needed, "device": "cuda"})
    assert set(seen) == {"aesthetic", "clip_score", "hps", "image_reward", "pick_score"}
    for name, kind in seen.items():
        assert kind.name == name
        assert kind.range[0] < kind.range[1]
        assert kind.required_metadata == ()
        assert isinstance(kind, type)
    assert not isinstance(look_at(build, "jpeg_size", {"direction": "larger"}), type)


def test_the_built_text_reward_scores_a_real_picture(draw) -> None:
    reward = build("text_rendering", {})
    assert checked(reward, draw(["42"]), ["the number 42"], [{"target": "42"}]) == [1.0]
    assert reward.required_metadata == ("target",)


@pytest.mark.parametrize(("name", "meant"), [("text_renderin", "text_rendering"), ("jpg-size", "jpeg_size")])
def test_an_unknown_name_is_refused_with_the_nearest_one_and_where_to_change_it(name, meant) -> None:
    complaint = rf"unknown reward '{name}'; did you mean '{meant}'\?.*rewards\[i\].use"
    with pytest.raises(ValueError, match=complaint):
        build(name, {})


@pytest.mark.parametrize("name", HELD_OUT)
def test_a_held_out_judge_is_refused_as_a_training_reward(name) -> None:
    with pytest.raises(ValueError, match=r"held out for evaluation; use one of .*rewards\[i\].use"):
        build(name, {})
    assert name not in REWARDS


def test_the_builder_of_the_judge_is_no_training_reward_by_its_import_path_either() -> None:
    with pytest.raises(ValueError, match=r"expected a function of \(images, prompts, metadata\)"):
        build("rewards.judge:build_judge", {})


def test_an_unknown_option_is_refused_with_the_nearest_one() -> None:
    complaint = r"unknown option 'thread'; did you mean 'threads'\?.*rewards\[i\].options"
    with pytest.raises(ValueError, match=complaint):
        build("text_rendering", {"thread": 1})


def test_a_missing_option_is_named() -> None:
    with pytest.raises(ValueError, match="expected the options direction; found no direction"):
        build("jpeg_size", {})


@pytest.mark.parametrize("threads", [0, "2"])
def test_threads_must_be_a_number_of_at_least_one(threads) -> None:
    with pytest.raises(ValueError, match="threads of at least 1; found"):
        build("text_rendering", {"threads": threads})


def test_a_users_function_is_a_reward_with_a_range_from_zero_to_one(mine) -> None:
    reward = build(f"{mine}:brightness", {})
    assert (reward.name, reward.range, reward.required_metadata) == (f"{mine}:brightness", (0.0, 1.0), ())
    assert checked(reward, IMAGES, PROMPTS, METADATA).tolist() == [1, 1]


def test_a_users_function_may_declare_its_range_and_metadata_and_score_in_whole_numbers(mine) -> None:
    reward = build(f"{mine}:length", {})
    assert (reward.range, reward.required_metadata) == ((0.0, 77.0), ("author",))
    scores = checked(reward, IMAGES, PROMPTS, METADATA)
    assert scores.dtype == np.float32
    assert scores.tolist() == [4, 7]


def test_a_users_class_is_built_with_the_options(mine) -> None:
    reward = build(f"{mine}:Scaled", {"factor": 2.0, "offset": 1.0})
    assert reward.range == (1.0, 3.0)
    assert checked(reward, IMAGES, PROMPTS, METADATA).tolist() == [3, 3]


@pytest.mark.parametrize(
    ("name", "options", "complaint"),
    [
        ("brightness", {"scale": 2}, "expected no options, for a function takes none; found scale"),
        ("Scaled", {"factr": 2.0}, "unknown option 'factr'; did you mean 'factor'"),
        ("Scaled", {}, "expected the options factor; found no factor"),
        ("Silent", {"loud": True}, "unknown option 'loud'; it takes no options"),
        ("Silent", {}, r"expected a function of \(images, prompts, metadata\).*found Silent"),
        ("number", {}, r"expected a function of \(images, prompts, metadata\).*found int"),
        ("two", {}, r"found the arguments \(images, prompts\); change it under rewards\[i\].use"),
        ("missing", {}, r"expected 'missing' in .*mine.py; found none; change it under rewards\[i\].use"),
        ("upside_down", {}, r"expected its `range` to be two finite numbers, lowest first; found \(1, 0\)"),
        ("endless", {}, "expected its `range` to be two finite numbers"),
        ("keyed", {}, "expected its `required_metadata` to be a tuple of texts; found 'target'"),
    ],
)
def test_a_users_reward_that_does_not_fit_is_refused_when_it_is_built(mine, name, options, complaint) -> None:
    with pytest.raises(ValueError, match=complaint):
        build(f"{mine}:{name}", options)


@pytest.mark.parametrize(
    ("use", "complaint"),
    [
        ("no_such_module:f", "No module named 'no_such_module'; put its folder on PYTHONPATH"),
        ("my_rewards.broken:f", "No module named 'no_such_dependency'"),
        ("my_rewards.mine:", "expected an import path 'package.module:name'; found 'my_rewards.mine:'"),
        (":f", "expected an import path"),
        ("my_rewards/mine.py:f", "expected an import path"),
    ],
)
def test_an_import_path_that_leads_nowhere_says_why_and_where_to_change_it(mine, use, complaint) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        build(use, {})
    assert "rewards[i].use" in str(caught.value)


def test_what_a_users_class_raises_when_built_passes_through(mine) -> None:
    with pytest.raises(KeyError, match="no licence"):
        build(f"{mine}:Refuses", {})


def install(folder: Path, name: str, value: str) -> None:
    """What pip leaves behind of a package that offers this reward."""
    info = folder / "my_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{PLUGINS}]\n{name} = {value}\n")


def test_another_packages_reward_is_found_by_the_name_of_its_entry_point(mine, tmp_path) -> None:
    install(tmp_path, "scaled", f"{mine}:Scaled")
    reward = build("scaled", {"factor": 2.0})
    assert (reward.name, reward.range) == ("scaled", (0.0, 2.0))
    with pytest.raises(ValueError, match=r"did you mean 'scaled'\?"):
        build("scald", {})


def test_a_plugin_that_cannot_be_imported_is_named_with_its_reason(mine, tmp_path) -> None:
    install(tmp_path, "broken", "my_rewards.broken:f")
    with pytest.raises(
        ValueError, match=r"'broken'.*'my-plugin'.*No module named 'no_such_dependency'; mend or uninstall"
    ):
        build("broken", {})


@pytest.mark.parametrize("name", ["words", "ragged", "nothing", "unbounded"])
def test_a_users_scores_that_are_no_finite_numbers_are_never_turned_into_any(mine, name) -> None:
    with pytest.raises(BadScoresError, match=f"{mine}:{name}"):
        checked(build(f"{mine}:{name}", {}), IMAGES, PROMPTS, METADATA)


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("rewards", ["numpy", "PIL", "onnxruntime"]),
        (
            "rewards.build",
            [
                "torch",
                "transformers",
                "onnxruntime",
                "httpx",
                "ray",
                "cv2",
                "rollout",
                "learner",
                "services",
                "onnxocr",
            ],
        ),
        ("rewards.judge", ["torch", "ray", "cv2", "rapidocr_onnxruntime"]),
    ],
)
def test_importing_the_room_loads_nothing_that_it_does_not_need(module, unwanted) -> None:
    program = f"import sys, {module}; print(*[name for name in {unwanted} if name in sys.modules])"
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
