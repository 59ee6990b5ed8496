from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline, Flux2Transformer2DModel
from PIL import Image

from learner.guard import TOLERANCE
from learner.update import Learner
from rollout.kernel import build_process
from rollout.policies import flux2_klein, stock
from rollout.policies.twins.build import save_random
from rollout.policies.twins.flux2_klein import build
from rollout.policy import conditions_of
from rollout.prompt_cache import OnceEncodingPolicy, PromptCache
from rollout.sampler import named_noise, sample
from rollout.seeding import INITIAL
from rollout.types import Behaviour, Prompt
from tests.rollout.policies import family_checks as checks
from tests.rollout.policies import learning_checks
from tests.tiny_groups import draw_group, spec

pytestmark = pytest.mark.integration  # whole pipelines

SIZES = ((16, 24), (32, 16))
LENGTH = 48


class KnownFlow(Flux2Transformer2DModel):
    def forward(
        self,
        hidden_states,
        encoder_hidden_states=None,
        timestep=None,
        img_ids=None,
        txt_ids=None,
        guidance=None,
        joint_attention_kwargs=None,
        return_dict=True,
    ):
        return ((hidden_states - self.target) / timestep.view(-1, 1, 1),)


def describe(folder, guidance=1.0):
    return checks.Family(
        folder=folder,
        pipeline=Flux2KleinPipeline,
        known_flow=KnownFlow,
        to_stock=lambda latents: latents,
        from_stock=stock.to_planes,
        to_target=stock.to_tokens,
        max_sequence_length=LENGTH,
        guidance=guidance,
        calls_per_step=1 if guidance == 1.0 else 2,
    )


def make(tmp_path_factory, is_distilled, guidance=1.0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = build(is_distilled=is_distilled)
    return describe(save_random(pipeline, tmp_path_factory.mktemp("flux2")), guidance)


@pytest.fixture(scope="module")
def klein(tmp_path_factory):
    return make(tmp_path_factory, is_distilled=True)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A base model, sampled with classifier-free guidance."""
    return make(tmp_path_factory, is_distilled=False, guidance=3.0)


def test_the_index_chooses_it(klein):
    checks.check_the_index_chooses_it(klein)


def test_from_shapes_alone_it_knows_what_would_be_trained(klein, tmp_path):
    checks.check_from_shapes_alone_it_knows_what_would_be_trained(klein, tmp_path, SIZES[0])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("num_steps", [1, 2, 4, 8])
def test_it_makes_the_stock_pipelines_latents_and_images(klein, num_steps, size):
    checks.check_it_makes_the_stock_pipelines_latents_and_images(klein, num_steps, size)


def test_with_guidance_too_it_makes_the_stock_pipelines_latents_and_images(base):
    checks.check_it_makes_the_stock_pipelines_latents_and_images(base, 2, SIZES[0])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("num_steps", [1, 2, 4, 8])
def test_its_grid_is_the_one_the_stock_scheduler_walks(klein, num_steps, size):
    checks.check_its_grid_is_the_one_the_stock_scheduler_walks(klein, num_steps, size)


def test_its_grid_depends_on_the_size_and_on_the_number_of_steps(klein):
    policy = checks.load(klein)
    halfway = policy.sigmas(2, 128, 128)[1]
    assert abs(halfway - policy.sigmas(4, 128, 128)[2]) > 1e-4
    assert halfway > policy.sigmas(2, 32, 32)[1] + 1e-3


@pytest.mark.parametrize("num_steps", [1, 4])
def test_the_flow_to_a_known_image_lands_on_it(klein, num_steps):
    checks.check_the_flow_to_a_known_image_lands_on_it(klein, num_steps, SIZES[0])


def test_gradients_reach_every_lora_matrix_and_nothing_else(klein):
    checks.check_gradients_reach_every_lora_matrix_and_nothing_else(klein, SIZES[0])


def test_the_targets_are_attention_and_mlp_of_every_block(klein):
    checks.check_the_targets_are_exactly(klein, r"blocks\.\d")


def test_gradient_checkpointing_changes_nothing(klein):
    checks.check_gradient_checkpointing_changes_nothing(klein, SIZES[0])


def test_a_saved_adapter_makes_our_images_in_the_stock_pipeline(klein, tmp_path):
    checks.check_a_saved_adapter_makes_our_images_in_the_stock_pipeline(klein, tmp_path, 2, SIZES[0])


def test_the_reference_is_the_folders_own_model(klein):
    checks.check_the_reference_is_the_folders_own_model(klein, SIZES[0])


def test_folding_the_adapter_in_changes_rounding_only(klein):
    checks.check_folding_the_adapter_in_changes_rounding_only(klein, SIZES[0])


def test_a_base_adapter_stays_on_under_the_trained_one(klein, tmp_path):
    checks.check_a_base_adapter_stays_on_under_the_trained_one(klein, tmp_path, SIZES[0])


def test_samples_do_not_depend_on_the_batch(klein, base):
    checks.check_samples_do_not_depend_on_the_batch(klein, SIZES[0])
    checks.check_samples_do_not_depend_on_the_batch(base, SIZES[0])


def test_rows_of_conditions_join_and_part(base):
    checks.check_rows_of_conditions_join_and_part(base, SIZES[0])


def test_the_ratio_guard_holds_in_every_arrangement(klein):
    learning_checks.check_the_ratio_guard_holds_in_every_arrangement(klein, SIZES[0])


def test_one_update_learns_from_groups_of_two_sizes(klein):
    learning_checks.check_one_update_learns_from_groups_of_two_sizes(klein, SIZES)


@pytest.mark.parametrize("everything", [False, True])
def test_one_update_makes_the_better_sample_likelier_than_the_worse(klein, everything):
    learning_checks.check_one_update_favours_the_better_sample(klein, SIZES[0], everything=everything)


def test_without_text_encoders_all_but_encoding_goes_on(klein, tmp_path):
    checks.check_without_text_encoders_all_but_encoding_goes_on(klein, tmp_path, SIZES[0])


def test_in_half_precision_it_stays_near_the_stock_pipeline(klein):
    checks.check_in_half_precision_it_stays_near_the_stock_pipeline(klein, SIZES[0])


def test_guidance_on_a_distilled_model_is_refused(klein):
    with pytest.raises(ValueError, match=r"is distilled, found 3; set `sampling\.guidance: 1`"):
        checks.load(klein, guidance=3.0)


def test_a_size_that_does_not_divide_into_patches_is_refused(klein):
    with pytest.raises(ValueError, match=r"divisible by 4, found 16 x 18"):
        checks.load(klein).initial_latents([1], 16, 18)


def test_a_tiny_decoder_is_refused(klein, tmp_path):
    with pytest.raises(ValueError, match=r"expected no tiny decoder.* remove `model\.tiny_decoder`"):
        checks.load(klein, tiny_decoder=tmp_path)


def picture(path, size, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(size).save(path)
    return str(path)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A wide one that is cut to whole patches, and a tall one of as many."""
    folder = tmp_path_factory.mktemp("pictures")
    return [picture(folder / f"{seed}.png", size, seed) for seed, size in enumerate(((98, 64), (64, 96)))]


def with_references(policy, paths, how, noise):
    """Our clean latents of one sample."""
    prompt = Prompt(id="1", text=checks.PROMPTS[0], references=tuple(paths))
    process = build_process(how.sigmas, how.temperatures)
    return sample(policy, conditions_of(policy, prompt), process, noise).clean[:, -1]


@pytest.mark.parametrize(("kind", "chosen"), [("klein", (0,)), ("klein", (1, 0)), ("base", (0, 1))])
def test_with_reference_images_it_makes_the_stock_pipelines_latents(request, pictures, kind, chosen):
    family, paths = request.getfixturevalue(kind), [pictures[place] for place in chosen]
    policy, pipe = checks.load(family), checks.load_stock(family)
    (height, width), kept = SIZES[0], {}
    how = Behaviour(sigmas=policy.sigmas(2, height, width), temperatures=(0.0,) * 2, height=height, width=width)
    noise = named_noise(policy, how, 1, 2, (0,))

    def keep(_, step, timestep, tensors):
        kept["latents"] = tensors["latents"]
        return tensors

    pipe(
        image=[Image.open(path) for path in paths],
        prompt=checks.PROMPTS[0],
        height=height,
        width=width,
        num_inference_steps=2,
        latents=noise(INITIAL),
        guidance_scale=family.guidance,
        max_sequence_length=LENGTH,
        callback_on_step_end=keep,
    )
    theirs = family.from_stock(kept["latents"], *noise(INITIAL).shape[2:])
    ours = with_references(policy, paths, how, noise)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    without = with_references(policy, (), how, noise)
    assert float((ours - without).abs().max()) > 1e-3, "the references change nothing: the test would be blind"


def test_a_reference_of_more_pixels_than_the_pipeline_takes_is_shrunk(klein, tmp_path, monkeypatch):
    monkeypatch.setattr(flux2_klein, "AREA_MAX", 4096)  # in the place of a megapixel
    policy = checks.load(klein)
    (latents,) = policy.encode_references([picture(tmp_path / "large.png", (128, 96), 0)]).tensors.values()
    assert latents.shape == (1, 16, 55 // 4, 73 // 4)


def test_the_order_of_reference_images_counts(klein, pictures):
    policy = checks.load(klein)
    how = Behaviour(sigmas=(1.0, 0.5, 0.0), temperatures=(0.0,) * 2, height=16, width=24)
    noise = named_noise(policy, how, 1, 2, (0,))
    orders = [with_references(policy, order, how, noise) for order in (pictures[:2], pictures[1::-1])]
    assert all(float((one - other).abs().max()) > 1e-4 for one, other in pairwise(orders))


def test_the_learner_reads_the_rollouts_reference_images(klein, pictures):
    """One update of groups without any, with a wide and with a tall one: equally many tokens, at other places."""
    rollouts, trained = (checks.adapt(checks.load(klein)) for _ in range(2))
    how = Behaviour(sigmas=(1.0, 0.7, 0.4, 0.0), temperatures=(0.9,) * 3, height=16, width=24)
    named = ((), (pictures[0],), (pictures[1],))
    groups = [
        draw_group(rollouts, place, num_samples=2, how=how, text=checks.PROMPTS[0], references=references)
        for place, references in enumerate(named)
    ]
    learner = Learner(OnceEncodingPolicy(trained, PromptCache(None, None), "keep"), spec(micro_batch=3))
    report = learner.update(groups, guard=True)
    assert report.trained
    assert 0.0 <= report.guard_drift <= TOLERANCE[torch.float32]


def test_other_families_refuse_reference_images():
    with pytest.raises(ValueError, match=r"this model family reads none, found \['a\.png'\]; remove `references`"):
        stock.refuse_references(("a.png",))
