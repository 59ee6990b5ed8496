import pytest
import torch
from diffusers import Flux2KleinPipeline, Flux2Transformer2DModel

from rollout.policies import stock
from rollout.policies.twins.build import save_random
from rollout.policies.twins.flux2_klein import build
from tests.rollout.policies import family_checks as checks
from tests.rollout.policies import learning_checks

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


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("num_steps", [1, 2, 4])
def test_it_makes_the_stock_pipelines_latents_and_images(klein, num_steps, size):
    checks.check_it_makes_the_stock_pipelines_latents_and_images(klein, num_steps, size)


def test_with_guidance_too_it_makes_the_stock_pipelines_latents_and_images(base):
    checks.check_it_makes_the_stock_pipelines_latents_and_images(base, 2, SIZES[0])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("num_steps", [1, 2, 4])
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
