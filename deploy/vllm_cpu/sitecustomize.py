"""Lets PyPI's torchvision, which is built for CUDA, be imported beside the CPU's torch.

Its compiled operators cannot be loaded then. Two of them are expected to exist when it is imported; vLLM and
transformers use its Python part alone. Without effect where the CPU's torchvision is installed.
"""

import importlib.abc
import importlib.metadata
import sys


class DeclareOperators(importlib.abc.MetaPathFinder):
    """Finds nothing; declares what is missing in front of the first import."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        """None, so that the import goes on as usual."""
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            if importlib.metadata.version(fullname).endswith("+cpu"):
                return
            import torch

            for name in ("nms", "qnms"):
                torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float threshold) -> Tensor")
        return


sys.meta_path.insert(0, DeclareOperators())
