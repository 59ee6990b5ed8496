"""An onnxruntime session on the CPU, with types."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray


class Named(Protocol):
    """An input or an output of a network."""

    name: str
    shape: Sequence[int | str]


class ModelMetadata(Protocol):
    """What a network's file says about itself."""

    custom_metadata_map: Mapping[str, str]


class Session(Protocol):
    """What is used of onnxruntime.InferenceSession, which has no types of its own."""

    def run(self, output_names: None, feed: Mapping[str, NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Every output of the network for these inputs."""

    def get_inputs(self) -> Sequence[Named]:
        """The network's inputs."""

    def get_outputs(self) -> Sequence[Named]:
        """The network's outputs."""

    def get_modelmeta(self) -> ModelMetadata:
        """The file's metadata."""


def open_session(network: Path, threads: int) -> Session:
    """A session of the .onnx file. Raises ValueError for threads below 1.

    threads: intra-op threads; use as many as the CPUs given to the process.
    """
    if not isinstance(threads, int) or threads < 1:
        raise ValueError(f"expected threads of at least 1; found {threads!r}; change it under rewards[i].options")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session: Session = onnxruntime.InferenceSession(str(network), options, providers=["CPUExecutionProvider"])
    return session
