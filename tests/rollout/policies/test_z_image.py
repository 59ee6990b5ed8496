import pytest
import torch
from diffusers import ZImagePipeline, ZImageTransformer2DModel

from rollout.policies.twins.build import save_random
from rollout.policies.twins.z_image import build
from tests.rollout.policies import family_checks as checks
from tests.rollout.policies import learning_checks

pytestmark = pytest.mark.integration  # whole pipelines

SIZES = ((8, 16), (16, 16))
LENGTH = 48


class KnownFlow(ZImageTransformer2DModel):
    """Towards `target` from a time that runs from 0, noise, to 1."""

    def forward(
        self,
        x,
        t,
        cap_feats,
        return_dict=True,
        controlnet_block_samples=None,
        siglip_feats=None,
        image_noise_mask=None,
        patch_size=2,
        f_patch_size=1,
        joint_attention_kwargs=None,
    ):
        return ([(there - here) / (1.0 - time) for here, there, time in zip(x, self.target, t, strict=False)],)


def make(tmp_path_factory, guidance):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = build()
    return checks.Family(
        folder=save_random(pipeline, tmp_path_factory.mktemp("z_image")),
        pipeline=ZImagePipeline,
        known_flow=KnownFlow,
        to_stock=lambda latents: latents,
        from_stock=lambda latents, height, width: latents,
        to_target=lambda latents: latents.unsqueeze(2).repeat(2, 1, 1, 1, 1),  # guided, both prompts at once
        max_sequence_length=LENGTH,
        guidance=guidance,
    )


@pytest.fixture(scope="module")
def turbo(tmp_path_factory):
    return make(tmp_path_factory, guidance=1.0)


@pytest.fixture(scope="module")
def guided(tmp_path_factory):
    """Classifier-free guidance; both prompts share one call."""
    return make(tmp_path_factory, guidance=3.0)


def test_the_index_chooses_it(turbo):
    checks.check_the_index_chooses_it(turbo)


def test_from_shapes_alone_it_knows_what_would_be_trained(turbo, tmp_path):
    checks.check_from_shapes_alone_it_knows_what_would_be_trained(turbo, tmp_path, SIZES[0])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("num_steps", [1, 2, 4, 8])
def test_it_makes_the_stock_pipelines_latents_and_images(turbo, num_steps, size):
    checks.check_it_makes_the_stock_pipelines_latents_and_images(turbo, num_steps, size)


def test_with_guidance_too_it_makes_the_stock_pipelines_latents_and_images(guided):
    checks.check_it_makes_the_stock_pipelines_latents_and_images(guided, 2, SIZES[0])


@pytest.mark.parametrize("num_steps", [1, 2, 4, 8])
def test_its_grid_is_the_one_the_stock_scheduler_walks(turbo, num_steps):
    checks.check_its_grid_is_the_one_the_stock_scheduler_walks(turbo, num_steps, SIZES[0])


@pytest.mark.parametrize("num_steps", [1, 4])
def test_the_flow_to_a_known_image_lands_on_it(turbo, guided, num_steps):
    checks.check_the_flow_to_a_known_image_lands_on_it(turbo, num_steps, SIZES[0])
    checks.check_the_flow_to_a_known_image_lands_on_it(guided, num_steps, SIZES[0])


def test_gradients_reach_every_lora_matrix_and_nothing_else(turbo):
    checks.check_gradients_reach_every_lora_matrix_and_nothing_else(turbo, SIZES[0])


def test_the_targets_are_attention_and_mlp_of_every_block(turbo):
    checks.check_the_targets_are_exactly(turbo, r"\.(attention|feed_forward)\.")


def test_gradient_checkpointing_changes_nothing(turbo):
    checks.check_gradient_checkpointing_changes_nothing(turbo, SIZES[0])


def test_a_saved_adapter_makes_our_images_in_the_stock_pipeline(turbo, tmp_path):
    checks.check_a_saved_adapter_makes_our_images_in_the_stock_pipeline(turbo, tmp_path, 2, SIZES[0])


def test_the_reference_is_the_folders_own_model(turbo):
    checks.check_the_reference_is_the_folders_own_model(turbo, SIZES[0])


def test_folding_the_adapter_in_changes_rounding_only(turbo):
    checks.check_folding_the_adapter_in_changes_rounding_only(turbo, SIZES[0])


def test_a_base_adapter_stays_on_under_the_trained_one(turbo, tmp_path):
    checks.check_a_base_adapter_stays_on_under_the_trained_one(turbo, tmp_path, SIZES[0])


def test_samples_do_not_depend_on_the_batch(turbo, guided):
    checks.check_samples_do_not_depend_on_the_batch(turbo, SIZES[0])
    checks.check_samples_do_not_depend_on_the_batch(guided, SIZES[0])


def test_rows_of_conditions_join_and_part(guided):
    checks.check_rows_of_conditions_join_and_part(guided, SIZES[0])


def test_the_ratio_guard_holds_in_every_arrangement(turbo):
    learning_checks.check_the_ratio_guard_holds_in_every_arrangement(turbo, SIZES[0])


def test_one_update_learns_from_groups_of_two_sizes(turbo):
    learning_checks.check_one_update_learns_from_groups_of_two_sizes(turbo, SIZES)


@pytest.mark.parametrize("everything", [False, True])
def test_one_update_makes_the_better_sample_likelier_than_the_worse(turbo, everything):
    learning_checks.check_one_update_favours_the_better_sample(turbo, SIZES[0], everything=everything)


def test_without_text_encoders_all_but_encoding_goes_on(turbo, tmp_path):
    checks.check_without_text_encoders_all_but_encoding_goes_on(turbo, tmp_path, SIZES[0])


def test_in_half_precision_it_stays_near_the_stock_pipeline(turbo):
    checks.check_in_half_precision_it_stays_near_the_stock_pipeline(turbo, SIZES[0])


def test_a_size_that_does_not_divide_into_patches_is_refused(turbo):
    with pytest.raises(ValueError, match=r"divisible by 4, found 8 x 18"):
        checks.load(turbo).initial_latents([1], 8, 18)
