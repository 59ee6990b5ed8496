"""The held-out judge: a second reader of text that nothing is trained on.

A policy trained on a recogniser's score learns that recogniser's mistakes too. What a different network reads
tells whether the text itself got better, so `build` refuses the judge as a training reward.
"""

from rewards.model_files import model_file
from rewards.recogniser import Recogniser


def build_judge(*, threads: int = 1) -> Recogniser:
    """PP-OCRv4 (Apache-2.0, 11 MB) from the rapidocr-onnxruntime package, for evaluation only.

    threads: the recogniser's threads, at least 1. Raises MissingModelError if the package is not installed.
    """
    network = model_file("rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx", "rapidocr-onnxruntime==1.4.4")
    return Recogniser(network=network, dictionary=None, threads=threads)
