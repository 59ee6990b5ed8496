"""What needs a CUDA device. `make gpu` runs it; elsewhere every test is skipped and says why."""

import pytest
import torch


def pytest_collection_modifyitems(items) -> None:
    """Everything below this folder carries the marker; without a device nothing of it can be told."""
    here = __file__.rpartition("/")[0]
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="no CUDA device that PyTorch can use"))
