import math
from itertools import pairwise

import pytest
import torch
from diffusers import SanaSprintPipeline, SanaTransformer2DModel

from rollout.kernel import build_process
from rollout.policies.twins.build import save_random
from rollout.policies.twins.sana_sprint import SIGMA_DATA, build
from rollout.sampler import named_noise, sample
from rollout.seeding import INITIAL
from rollout.types import Behaviour
from tests.rollout.policies import family_checks as checks
from tests.rollout.policies import learning_checks

pytestmark = pytest.mark.integration  # whole pipelines

SIZES = ((32, 64), (64, 32))
LENGTH = 12
GUIDANCE = 4.5


class KnownFlow(SanaTransformer2DModel):
    """In the variables that the network reads; the stock pipeline rotates its output into TrigFlow and back."""

    def forward(
        self,
        hidden_states,
        encoder_hidden_states,
        timestep,
        guidance=None,
        encoder_attention_mask=None,
        attention_mask=None,
        attention_kwargs=None,
        controlnet_block_samples=None,
        return_dict=True,
    ):
        return ((hidden_states - self.target) / timestep.view(-1, 1, 1, 1),)


@pytest.fixture(scope="module")
def sprint(tmp_path_factory):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = build()
    return checks.Family(
        folder=save_random(pipeline, tmp_path_factory.mktemp("sana_sprint")),
        pipeline=SanaSprintPipeline,
        known_flow=KnownFlow,
        to_stock=lambda latents: latents,
        from_stock=lambda latents, height, width: latents / SIGMA_DATA,
        to_target=lambda latents: latents,
        max_sequence_length=LENGTH,
        guidance=GUIDANCE,
        tau=1.0,
    )


def test_the_index_chooses_it(sprint):
    checks.check_the_index_chooses_it(sprint)


def test_from_shapes_alone_it_knows_what_would_be_trained(sprint, tmp_path):
    checks.check_from_shapes_alone_it_knows_what_would_be_trained(sprint, tmp_path, SIZES[0])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("num_steps", [1, 2, 4, 8])
def test_at_temperature_1_it_makes_the_stock_pipelines_latents_and_images(sprint, num_steps, size):
    checks.check_it_makes_the_stock_pipelines_latents_and_images(sprint, num_steps, size)


@pytest.mark.parametrize("num_steps", [1, 2, 4, 8])
def test_its_grid_is_the_stock_schedulers_in_noise_levels(sprint, num_steps):
    pipe = checks.load_stock(sprint)
    checks.draw_stock(pipe, checks.load(sprint), sprint, num_steps, SIZES[0])
    angles = pipe.scheduler.timesteps
    expected = angles.sin() / (angles.cos() + angles.sin())
    sigmas = checks.load(sprint).sigmas(num_steps, *SIZES[0])
    torch.testing.assert_close(torch.tensor(sigmas), expected, atol=1e-5, rtol=0)
    assert (sigmas[0], sigmas[-1]) == (1.0, 0.0)


@pytest.mark.parametrize("num_steps", [1, 2, 4, 8])
def test_at_temperature_0_it_follows_the_trigflow_ode(sprint, num_steps):
    """One step of the ODE in TrigFlow's own variables is the rotation cos(t - t') z - sin(t - t') F, with the F that
    the stock pipeline forms from the network's output.
    """
    policy = checks.load(sprint)
    conditions = policy.encode(list(checks.PROMPTS))
    sigmas = policy.sigmas(num_steps, *SIZES[0])
    how = Behaviour(sigmas=sigmas, temperatures=(0.0,) * num_steps, height=SIZES[0][0], width=SIZES[0][1])
    noise = named_noise(policy, how, 1, 2, (0, 1))
    ours = sample(policy, conditions, build_process(sigmas, how.temperatures), noise)
    angles = [math.atan2(sigma, 1.0 - sigma) for sigma in sigmas]
    z = noise(INITIAL)
    with torch.no_grad():
        for angle, angle_next in pairwise(angles):
            s = math.sin(angle) / (math.cos(angle) + math.sin(angle))
            norm = math.hypot(s, 1.0 - s)
            out = policy.network(
                hidden_states=z * norm,
                encoder_hidden_states=conditions.tensors["tokens"],
                timestep=torch.full((2,), s),
                guidance=torch.full((2,), GUIDANCE * policy.network.config.guidance_embeds_scale),
                encoder_attention_mask=conditions.tensors["mask"],
                return_dict=False,
            )[0]
            F = ((1.0 - 2.0 * s) * z * norm + (1.0 - 2.0 * s + 2.0 * s * s) * out) / norm
            z = math.cos(angle - angle_next) * z - math.sin(angle - angle_next) * F
    torch.testing.assert_close(ours.clean[:, -1], z, atol=1e-4, rtol=0)


@pytest.mark.parametrize("num_steps", [1, 4])
def test_the_flow_to_a_known_image_lands_on_it(sprint, num_steps):
    checks.check_the_flow_to_a_known_image_lands_on_it(sprint, num_steps, SIZES[0])


def test_guidance_is_an_input_of_the_network(sprint):
    weak, strong = (checks.load(sprint, guidance=guidance) for guidance in (1.0, GUIDANCE))
    ours = [checks.draw(policy, sprint, 1, SIZES[0]).clean for policy in (weak, strong)]
    assert float((ours[0] - ours[1]).abs().max()) > 1e-3


def test_gradients_reach_every_lora_matrix_and_nothing_else(sprint):
    checks.check_gradients_reach_every_lora_matrix_and_nothing_else(sprint, SIZES[0])


def test_the_targets_are_self_and_cross_attention_of_every_block(sprint):
    checks.check_the_targets_are_exactly(sprint, r"blocks\.\d+\.attn")


def test_gradient_checkpointing_changes_nothing(sprint):
    checks.check_gradient_checkpointing_changes_nothing(sprint, SIZES[0])


def test_a_saved_adapter_makes_our_images_in_the_stock_pipeline(sprint, tmp_path):
    checks.check_a_saved_adapter_makes_our_images_in_the_stock_pipeline(sprint, tmp_path, 2, SIZES[0])


def test_the_reference_is_the_folders_own_model(sprint):
    checks.check_the_reference_is_the_folders_own_model(sprint, SIZES[0])


def test_folding_the_adapter_in_changes_rounding_only(sprint):
    checks.check_folding_the_adapter_in_changes_rounding_only(sprint, SIZES[0])


def test_a_base_adapter_stays_on_under_the_trained_one(sprint, tmp_path):
    checks.check_a_base_adapter_stays_on_under_the_trained_one(sprint, tmp_path, SIZES[0])


def test_samples_do_not_depend_on_the_batch(sprint):
    checks.check_samples_do_not_depend_on_the_batch(sprint, SIZES[0])


def test_rows_of_conditions_join_and_part(sprint):
    checks.check_rows_of_conditions_join_and_part(sprint, SIZES[0])


def test_the_ratio_guard_holds_in_every_arrangement(sprint):
    learning_checks.check_the_ratio_guard_holds_in_every_arrangement(sprint, SIZES[0])


def test_one_update_learns_from_groups_of_two_sizes(sprint):
    learning_checks.check_one_update_learns_from_groups_of_two_sizes(sprint, SIZES)


@pytest.mark.parametrize("everything", [False, True])
def test_one_update_makes_the_better_sample_likelier_than_the_worse(sprint, everything):
    learning_checks.check_one_update_favours_the_better_sample(sprint, SIZES[0], everything=everything)


def test_without_text_encoders_all_but_encoding_goes_on(sprint, tmp_path):
    checks.check_without_text_encoders_all_but_encoding_goes_on(sprint, tmp_path, SIZES[0])


def test_in_half_precision_it_stays_near_the_stock_pipeline(sprint):
    checks.check_in_half_precision_it_stays_near_the_stock_pipeline(sprint, SIZES[0])


def test_a_size_that_does_not_divide_is_refused(sprint):
    with pytest.raises(ValueError, match=r"divisible by 4, found 16 x 18"):
        checks.load(sprint).initial_latents([1], 16, 18)
