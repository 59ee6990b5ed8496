import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel

from rollout.policies import stock
from rollout.policies.twins.build import save_random
from rollout.policies.twins.flux1 import build
from tests.rollout.policies import family_checks as checks
from tests.rollout.policies import learning_checks

pytestmark = pytest.mark.integration  # whole pipelines

SIZES = ((8, 16), (16, 16))
LENGTH = 24
KINDS = {
    "schnell": {"guidance_embeds": False, "scheduler": {"shift": 1.0}, "guidance": 1.0},
    "dev": {"guidance_embeds": True, "scheduler": {"use_dynamic_shifting": True, "shift": 3.0}, "guidance": 3.5},
    "guided": {"guidance_embeds": False, "scheduler": {"shift": 1.0}, "guidance": 2.0},
}


class KnownFlow(FluxTransformer2DModel):
    def forward(
        self,
        hidden_states,
        encoder_hidden_states=None,
        pooled_projections=None,
        timestep=None,
        img_ids=None,
        txt_ids=None,
        guidance=None,
        joint_attention_kwargs=None,
        return_dict=True,
    ):
        return ((hidden_states - self.target) / timestep.view(-1, 1, 1),)


def make(tmp_path_factory, name):
    kind = KINDS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = build(kind["scheduler"], guidance_embeds=kind["guidance_embeds"])
    return checks.Family(
        folder=save_random(pipeline, tmp_path_factory.mktemp(name)),
        pipeline=FluxPipeline,
        known_flow=KnownFlow,
        to_stock=stock.pack,
        from_stock=stock.unpack,
        to_target=stock.pack,
        max_sequence_length=LENGTH,
        guidance=kind["guidance"],
        calls_per_step=2 if name == "guided" else 1,
        absent=("image_encoder", "feature_extractor"),
    )


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    return {name: make(tmp_path_factory, name) for name in KINDS}


@pytest.fixture(scope="module")
def schnell(families):
    return families["schnell"]


def test_the_index_chooses_it(schnell):
    checks.check_the_index_chooses_it(schnell)


def test_from_shapes_alone_it_knows_what_would_be_trained(schnell, tmp_path):
    checks.check_from_shapes_alone_it_knows_what_would_be_trained(schnell, tmp_path, SIZES[0])


def test_packing_is_the_stock_pipelines():
    latents = torch.randn(2, 3, 4, 6)
    tokens = FluxPipeline._pack_latents(latents, 2, 3, 4, 6)
    assert torch.equal(stock.pack(latents), tokens)
    assert torch.equal(stock.unpack(tokens, 4, 6), latents)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("num_steps", [1, 2, 4, 8])
@pytest.mark.parametrize("kind", ["schnell", "dev"])
def test_it_makes_the_stock_pipelines_latents_and_images(families, kind, num_steps, size):
    checks.check_it_makes_the_stock_pipelines_latents_and_images(families[kind], num_steps, size)


def test_with_guidance_too_it_makes_the_stock_pipelines_latents_and_images(families):
    checks.check_it_makes_the_stock_pipelines_latents_and_images(families["guided"], 2, SIZES[0])


def test_embedded_guidance_is_an_input_of_the_network(families):
    weak, strong = (checks.load(families["dev"], guidance=guidance) for guidance in (1.0, 3.5))
    ours = [checks.draw(policy, families["dev"], 1, SIZES[0]).clean for policy in (weak, strong)]
    assert float((ours[0] - ours[1]).abs().max()) > 1e-3


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("num_steps", [1, 2, 4, 8])
@pytest.mark.parametrize("kind", ["schnell", "dev"])
def test_its_grid_is_the_one_the_stock_scheduler_walks(families, kind, num_steps, size):
    checks.check_its_grid_is_the_one_the_stock_scheduler_walks(families[kind], num_steps, size)


def test_schnell_has_a_uniform_grid_and_devs_depends_on_the_size(families):
    schnell, dev = (checks.load(families[kind]) for kind in ("schnell", "dev"))
    assert schnell.sigmas(4, 64, 64) == (1.0, 0.75, 0.5, 0.25, 0.0)
    assert dev.sigmas(4, 128, 128)[2] > dev.sigmas(4, 64, 64)[2] + 1e-3 > 0.5


@pytest.mark.parametrize("num_steps", [1, 4])
@pytest.mark.parametrize("kind", ["schnell", "dev", "guided"])
def test_the_flow_to_a_known_image_lands_on_it(families, kind, num_steps):
    checks.check_the_flow_to_a_known_image_lands_on_it(families[kind], num_steps, SIZES[0])


def test_gradients_reach_every_lora_matrix_and_nothing_else(schnell):
    checks.check_gradients_reach_every_lora_matrix_and_nothing_else(schnell, SIZES[0])


def test_the_targets_are_attention_and_mlp_of_every_block(schnell):
    checks.check_the_targets_are_exactly(schnell, r"blocks\.\d+\.(attn|ff|ff_context|proj_mlp|proj_out)")


def test_gradient_checkpointing_changes_nothing(schnell):
    checks.check_gradient_checkpointing_changes_nothing(schnell, SIZES[0])


@pytest.mark.parametrize("kind", ["schnell", "dev"])
def test_a_saved_adapter_makes_our_images_in_the_stock_pipeline(families, kind, tmp_path):
    checks.check_a_saved_adapter_makes_our_images_in_the_stock_pipeline(families[kind], tmp_path, 2, SIZES[0])


def test_the_reference_is_the_folders_own_model(schnell):
    checks.check_the_reference_is_the_folders_own_model(schnell, SIZES[0])


def test_folding_the_adapter_in_changes_rounding_only(schnell):
    checks.check_folding_the_adapter_in_changes_rounding_only(schnell, SIZES[0])


def test_a_base_adapter_stays_on_under_the_trained_one(schnell, tmp_path):
    checks.check_a_base_adapter_stays_on_under_the_trained_one(schnell, tmp_path, SIZES[0])


@pytest.mark.parametrize("kind", ["schnell", "dev", "guided"])
def test_samples_do_not_depend_on_the_batch(families, kind):
    checks.check_samples_do_not_depend_on_the_batch(families[kind], SIZES[0])


def test_rows_of_conditions_join_and_part(families):
    checks.check_rows_of_conditions_join_and_part(families["guided"], SIZES[0])


def test_the_ratio_guard_holds_in_every_arrangement(schnell):
    learning_checks.check_the_ratio_guard_holds_in_every_arrangement(schnell, SIZES[0])


def test_one_update_learns_from_groups_of_two_sizes(schnell):
    learning_checks.check_one_update_learns_from_groups_of_two_sizes(schnell, SIZES)


@pytest.mark.parametrize("everything", [False, True])
def test_one_update_makes_the_better_sample_likelier_than_the_worse(schnell, everything):
    learning_checks.check_one_update_favours_the_better_sample(schnell, SIZES[0], everything=everything)


def test_without_text_encoders_all_but_encoding_goes_on(schnell, tmp_path):
    checks.check_without_text_encoders_all_but_encoding_goes_on(schnell, tmp_path, SIZES[0])


def test_in_half_precision_it_stays_near_the_stock_pipeline(families):
    checks.check_in_half_precision_it_stays_near_the_stock_pipeline(families["dev"], SIZES[0])


def test_a_size_that_does_not_divide_into_patches_is_refused(schnell):
    with pytest.raises(ValueError, match=r"divisible by 4, found 8 x 18"):
        checks.load(schnell).initial_latents([1], 8, 18)
