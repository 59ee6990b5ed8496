import pytest
import torch
from diffusers import (
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)

from rollout.policies import stock
from rollout.policies.twins.build import save_random
from rollout.policies.twins.qwen_image import BASE, LIGHTNING, build
from tests.rollout.policies import family_checks as checks
from tests.rollout.policies import learning_checks

pytestmark = pytest.mark.integration  # whole pipelines

SIZES = ((8, 16), (16, 16))
LENGTH = 320


class KnownFlow(QwenImageTransformer2DModel):
    def forward(
        self,
        hidden_states,
        encoder_hidden_states=None,
        encoder_hidden_states_mask=None,
        timestep=None,
        img_shapes=None,
        guidance=None,
        attention_kwargs=None,
        controlnet_block_samples=None,
        additional_t_cond=None,
        return_dict=True,
    ):
        return ((hidden_states - self.target) / timestep.view(-1, 1, 1),)


def make(tmp_path_factory, scheduler, guidance=1.0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = build(scheduler)
    return checks.Family(
        folder=save_random(pipeline, tmp_path_factory.mktemp("qwen_image")),
        pipeline=QwenImagePipeline,
        known_flow=KnownFlow,
        to_stock=stock.pack,
        from_stock=stock.unpack,
        to_target=stock.pack,
        max_sequence_length=LENGTH,
        guidance=guidance,
        calls_per_step=1 if guidance == 1.0 else 2,
    )


@pytest.fixture(scope="module")
def lightning(tmp_path_factory):
    """With the scheduler of a few-step distillation adapter."""
    return make(tmp_path_factory, LIGHTNING)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """With the base model's scheduler and guidance."""
    return make(tmp_path_factory, BASE, guidance=3.0)


def test_the_index_chooses_it(lightning):
    checks.check_the_index_chooses_it(lightning)


def test_from_shapes_alone_it_knows_what_would_be_trained(lightning, tmp_path):
    checks.check_from_shapes_alone_it_knows_what_would_be_trained(lightning, tmp_path, SIZES[0])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("num_steps", [1, 2, 4, 8])
def test_it_makes_the_stock_pipelines_latents_and_images(lightning, num_steps, size):
    checks.check_it_makes_the_stock_pipelines_latents_and_images(lightning, num_steps, size)


@pytest.mark.parametrize("num_steps", [2, 4])
def test_with_guidance_too_it_makes_the_stock_pipelines_latents_and_images(base, num_steps):
    checks.check_it_makes_the_stock_pipelines_latents_and_images(base, num_steps, SIZES[0])


@pytest.mark.parametrize("num_steps", [1, 2, 4, 8])
def test_its_grid_is_the_one_the_stock_scheduler_walks(lightning, num_steps):
    checks.check_its_grid_is_the_one_the_stock_scheduler_walks(lightning, num_steps, SIZES[0])


def test_a_grid_that_the_scheduler_does_not_have_is_refused(base):
    with pytest.raises(ValueError, match=r"expected a grid from 1 to 0 .* in 1 step\(s\), found \[nan, 0\.0\]"):
        checks.load(base).sigmas(1, *SIZES[0])


@pytest.mark.parametrize("num_steps", [1, 4])
def test_the_flow_to_a_known_image_lands_on_it(lightning, num_steps):
    checks.check_the_flow_to_a_known_image_lands_on_it(lightning, num_steps, SIZES[0])


def test_gradients_reach_every_lora_matrix_and_nothing_else(lightning):
    checks.check_gradients_reach_every_lora_matrix_and_nothing_else(lightning, SIZES[0])


def test_the_targets_are_attention_and_mlp_but_for_what_only_feeds_the_last_blocks_text(lightning):
    ends = r"1\.(txt_mlp|attn\.(add_q_proj|to_add_out))$|1\.txt_mlp\."
    checks.check_the_targets_are_exactly(lightning, rf"blocks\.(?!{ends})\d+\.(attn|img_mlp|txt_mlp)\.")


def test_gradient_checkpointing_changes_nothing(lightning):
    checks.check_gradient_checkpointing_changes_nothing(lightning, SIZES[0])


def test_a_saved_adapter_makes_our_images_in_the_stock_pipeline(lightning, tmp_path):
    checks.check_a_saved_adapter_makes_our_images_in_the_stock_pipeline(lightning, tmp_path, 2, SIZES[0])


def test_the_reference_is_the_folders_own_model(lightning):
    checks.check_the_reference_is_the_folders_own_model(lightning, SIZES[0])


def test_folding_the_adapter_in_changes_rounding_only(lightning):
    checks.check_folding_the_adapter_in_changes_rounding_only(lightning, SIZES[0])


def test_a_base_adapter_stays_on_under_the_trained_one(lightning, tmp_path):
    checks.check_a_base_adapter_stays_on_under_the_trained_one(lightning, tmp_path, SIZES[0])


def test_samples_do_not_depend_on_the_batch(lightning, base):
    checks.check_samples_do_not_depend_on_the_batch(lightning, SIZES[0])
    checks.check_samples_do_not_depend_on_the_batch(base, SIZES[0])


def test_rows_of_conditions_join_and_part(base):
    checks.check_rows_of_conditions_join_and_part(base, SIZES[0])


def test_the_ratio_guard_holds_in_every_arrangement(lightning):
    learning_checks.check_the_ratio_guard_holds_in_every_arrangement(lightning, SIZES[0])


def test_one_update_learns_from_groups_of_two_sizes(lightning):
    learning_checks.check_one_update_learns_from_groups_of_two_sizes(lightning, SIZES)


@pytest.mark.parametrize("everything", [False, True])
def test_one_update_makes_the_better_sample_likelier_than_the_worse(lightning, everything):
    learning_checks.check_one_update_favours_the_better_sample(lightning, SIZES[0], everything=everything)


def test_without_text_encoders_all_but_encoding_goes_on(lightning, tmp_path):
    checks.check_without_text_encoders_all_but_encoding_goes_on(lightning, tmp_path, SIZES[0])


def test_in_half_precision_it_stays_near_the_stock_pipeline(lightning):
    checks.check_in_half_precision_it_stays_near_the_stock_pipeline(lightning, SIZES[0])


def test_a_size_that_does_not_divide_into_patches_is_refused(lightning):
    with pytest.raises(ValueError, match=r"divisible by 4, found 8 x 18"):
        checks.load(lightning).initial_latents([1], 8, 18)


def test_a_missing_base_adapter_is_named(lightning, tmp_path):
    with pytest.raises(ValueError, match=r"expected an adapter at .*, found none; change `model\.base_adapter`"):
        checks.load(lightning, base_adapter=tmp_path)
