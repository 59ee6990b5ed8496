"""The head that the LAION aesthetic predictor and ImageReward share: five linear layers, and nothing between them."""

from torch import Tensor, nn


class LinearHead(nn.Module):
    """An embedding [n, D] becomes a number [n, 1].

    Layers of 1024, 128, 64, 16 and 1 with dropout in between, which does nothing at inference; the activations are
    commented out in the published code, and the published weights were trained without them.
    """

    def __init__(self, width: int) -> None:
        """`width` is D; both publications have 768."""
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, 1024),
            nn.Dropout(0.2),
            nn.Linear(1024, 128),
            nn.Dropout(0.2),
            nn.Linear(128, 64),
            nn.Dropout(0.1),
            nn.Linear(64, 16),
            nn.Linear(16, 1),
        )

    def forward(self, embeddings: Tensor) -> Tensor:
        """[n, 1] of embeddings [n, D]."""
        answer: Tensor = self.layers(embeddings)
        return answer
