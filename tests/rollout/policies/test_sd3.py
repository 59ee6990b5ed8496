import json
import shutil

import pytest
import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

from tests.rollout.policies import family_checks as checks
from tests.rollout.policies import learning_checks

pytestmark = pytest.mark.integration  # whole pipelines

SIZES = ((8, 16), (16, 12))
LENGTH = 6


class KnownFlow(SD3Transformer2DModel):
    def forward(
        self,
        hidden_states,
        encoder_hidden_states=None,
        pooled_projections=None,
        timestep=None,
        joint_attention_kwargs=None,
        return_dict=True,
    ):
        return ((hidden_states - self.target) / (timestep.view(-1, 1, 1, 1) / 1000.0),)


def describe(folder, guidance=1.0, **options):
    return checks.Family(
        folder=folder,
        pipeline=StableDiffusion3Pipeline,
        known_flow=KnownFlow,
        to_stock=lambda latents: latents,
        from_stock=lambda latents, height, width: latents,
        to_target=lambda latents: latents,
        max_sequence_length=LENGTH,
        guidance=guidance,
        **{"passes_sigmas": True, "absent": ("text_encoder_3", "tokenizer_3"), **options},
    )


@pytest.fixture(scope="module")
def plain(without_t5):
    return describe(without_t5)


@pytest.fixture(scope="module")
def guided(without_t5):
    return describe(without_t5, guidance=3.0)


@pytest.fixture(scope="module", params=[1.0, 3.0])
def whole(with_t5, request):
    """With all three encoders."""
    return describe(with_t5, guidance=request.param, absent=())


def scheduled(folder, to, **config):
    """The folder's pipeline with another configuration of its scheduler."""
    shutil.copytree(folder, to, dirs_exist_ok=True)
    file = to / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return to


@pytest.fixture
def dynamic(without_t5, tmp_path):
    """A shift by the number of tokens, as in SD3.5-medium's larger sizes."""
    return describe(scheduled(without_t5, tmp_path, use_dynamic_shifting=True, shift=1.0))


@pytest.fixture
def terminal(without_t5, tmp_path):
    """A grid stretched to end at 0.25, like the quickstart's, so that a plain call walks ours."""
    folder = scheduled(without_t5, tmp_path, shift_terminal=0.25, shift=1.0)
    return describe(folder, passes_sigmas=False)


def test_the_index_chooses_it(plain):
    checks.check_the_index_chooses_it(plain)


def test_from_shapes_alone_it_knows_what_would_be_trained(plain, tmp_path):
    checks.check_from_shapes_alone_it_knows_what_would_be_trained(plain, tmp_path, SIZES[0])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("num_steps", [1, 2, 4, 8])
def test_it_makes_the_stock_pipelines_latents_and_images(plain, num_steps, size):
    checks.check_it_makes_the_stock_pipelines_latents_and_images(plain, num_steps, size)


@pytest.mark.parametrize("num_steps", [1, 2, 4, 8])
def test_with_guidance_too_it_makes_the_stock_pipelines_latents_and_images(guided, num_steps):
    checks.check_it_makes_the_stock_pipelines_latents_and_images(guided, num_steps, SIZES[0])


def test_with_a_t5_encoder_too_it_makes_the_stock_pipelines_latents_and_images(whole):
    checks.check_it_makes_the_stock_pipelines_latents_and_images(whole, 2, SIZES[0])


def test_at_temperature_1_it_is_stock_stochastic_sampling_with_the_same_noise(guided, without_t5, tmp_path):
    """The stock scheduler draws from the global generator, once a step."""
    family = describe(scheduled(without_t5, tmp_path, stochastic_sampling=True), guidance=3.0, tau=1.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(checks.SEED)
        checks.check_it_makes_the_stock_pipelines_latents_and_images(family, 4, SIZES[0])
    deterministic = checks.draw(checks.load(guided), guided, 4, SIZES[0]).clean[:, -1]
    assert float((deterministic - checks.draw(checks.load(family), family, 4, SIZES[0]).clean[:, -1]).abs().max()) > 0.1


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("num_steps", [1, 2, 4, 8])
def test_its_grid_is_the_one_the_stock_scheduler_walks(plain, num_steps, size):
    checks.check_its_grid_is_the_one_the_stock_scheduler_walks(plain, num_steps, size)
    assert num_steps == 1 or checks.load(plain).sigmas(num_steps, *size)[-2] > 1.0 / num_steps  # shifted


def test_a_dynamic_shift_depends_on_the_size_as_in_the_stock_pipeline(dynamic):
    for size in SIZES:
        checks.check_its_grid_is_the_one_the_stock_scheduler_walks(dynamic, 4, size)
    checks.check_it_makes_the_stock_pipelines_latents_and_images(dynamic, 4, SIZES[0])
    policy = checks.load(dynamic)
    assert policy.sigmas(4, 64, 64)[1] > policy.sigmas(4, 8, 8)[1] + 1e-3


@pytest.mark.parametrize("num_steps", [2, 4, 8])
def test_with_a_terminal_shift_its_grid_is_that_of_a_plain_call(terminal, num_steps):
    checks.check_its_grid_is_the_one_the_stock_scheduler_walks(terminal, num_steps, SIZES[0])
    assert checks.load(terminal).sigmas(num_steps, *SIZES[0])[-2] == pytest.approx(0.25)
    checks.check_it_makes_the_stock_pipelines_latents_and_images(terminal, num_steps, SIZES[0])


def test_a_terminal_shift_leaves_one_step_undefined(terminal):
    with pytest.raises(ValueError, match=r"expected a grid from 1 to 0 .* in 1 step\(s\)"):
        checks.load(terminal).sigmas(1, *SIZES[0])


@pytest.mark.parametrize("num_steps", [1, 4])
def test_the_flow_to_a_known_image_lands_on_it(plain, num_steps):
    checks.check_the_flow_to_a_known_image_lands_on_it(plain, num_steps, SIZES[0])


def test_gradients_reach_every_lora_matrix_and_nothing_else(plain):
    checks.check_gradients_reach_every_lora_matrix_and_nothing_else(plain, SIZES[0])


def test_the_targets_are_the_linear_layers_but_for_queries_that_nobody_reads(plain):
    checks.check_the_targets_are_exactly(plain, r"^(?!transformer_blocks\.1\.attn\.add_q_proj)")


def test_gradient_checkpointing_changes_nothing(plain):
    checks.check_gradient_checkpointing_changes_nothing(plain, SIZES[0])


def test_a_saved_adapter_makes_our_images_in_the_stock_pipeline(plain, tmp_path):
    checks.check_a_saved_adapter_makes_our_images_in_the_stock_pipeline(plain, tmp_path, 2, SIZES[0])


def test_the_reference_is_the_folders_own_model(plain):
    checks.check_the_reference_is_the_folders_own_model(plain, SIZES[0])


def test_folding_the_adapter_in_changes_rounding_only(plain):
    checks.check_folding_the_adapter_in_changes_rounding_only(plain, SIZES[0])


def test_a_base_adapter_stays_on_under_the_trained_one(plain, tmp_path):
    checks.check_a_base_adapter_stays_on_under_the_trained_one(plain, tmp_path, SIZES[0])


def test_samples_do_not_depend_on_the_batch(plain, guided):
    checks.check_samples_do_not_depend_on_the_batch(plain, SIZES[0])
    checks.check_samples_do_not_depend_on_the_batch(guided, SIZES[0])


def test_rows_of_conditions_join_and_part(plain, guided, whole):
    checks.check_rows_of_conditions_join_and_part(plain, SIZES[0])
    checks.check_rows_of_conditions_join_and_part(guided, SIZES[0])
    checks.check_rows_of_conditions_join_and_part(whole, SIZES[0])


def test_the_ratio_guard_holds_in_every_arrangement(plain):
    learning_checks.check_the_ratio_guard_holds_in_every_arrangement(plain, SIZES[0])


def test_one_update_learns_from_groups_of_two_sizes(plain):
    learning_checks.check_one_update_learns_from_groups_of_two_sizes(plain, SIZES)


@pytest.mark.parametrize("everything", [False, True])
def test_one_update_makes_the_better_sample_likelier_than_the_worse(plain, everything):
    learning_checks.check_one_update_favours_the_better_sample(plain, SIZES[0], everything=everything)


def test_without_text_encoders_all_but_encoding_goes_on(plain, tmp_path):
    checks.check_without_text_encoders_all_but_encoding_goes_on(plain, tmp_path, SIZES[0])


def test_in_half_precision_it_stays_near_the_stock_pipeline(plain):
    checks.check_in_half_precision_it_stays_near_the_stock_pipeline(plain, SIZES[0])


def test_guidance_moves_the_velocity_away_from_the_empty_prompt(plain, guided):
    x, sigma = torch.randn(2, 4, 4, 8), torch.full((2,), 0.5)
    ours, theirs = checks.load(plain), checks.load(guided)
    empty = ours.velocity(x, sigma, ours.encode(["", ""]))
    here = ours.velocity(x, sigma, ours.encode(checks.PROMPTS))
    expected = empty + 3.0 * (here - empty)
    found = theirs.velocity(x, sigma, theirs.encode(checks.PROMPTS))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert "negative_tokens" not in ours.encode(checks.PROMPTS).tensors


def test_a_size_that_does_not_divide_into_patches_is_refused(plain):
    with pytest.raises(ValueError, match=r"divisible by 4, found 8 x 18; change `height` and `width` in `sampling`"):
        checks.load(plain).initial_latents([1], 8, 18)
