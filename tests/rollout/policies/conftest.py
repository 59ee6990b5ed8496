"""Two random Stable Diffusion 3 pipelines of the stock classes, one with T5 and one without, a few kilobytes each."""

import pytest
import torch

from rollout.policies.twins.sd3 import build


def save_pipeline(folder, with_t5):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = build(with_t5=with_t5)
        for parameter in pipeline.transformer.parameters():  # some layers start at zero and would hide the others
            parameter.data += 0.1 * torch.randn_like(parameter)
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def without_t5(tmp_path_factory):
    """The folder of a pipeline that declares its third encoder absent, like the quickstart's model."""
    return save_pipeline(tmp_path_factory.mktemp("sd3"), with_t5=False)


@pytest.fixture(scope="session")
def with_t5(tmp_path_factory):
    """The folder of a pipeline with all three encoders."""
    return save_pipeline(tmp_path_factory.mktemp("sd3_t5"), with_t5=True)
