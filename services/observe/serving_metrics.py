"""The Prometheus metrics of a reward server."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SECONDS_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class ServingMetrics:
    """What a reward server counts, each server in a registry of its own."""

    def __init__(self, reward: str) -> None:
        """`reward` is the label of every metric."""
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "tafs_reward_requests_total", "Requests by answer.", ("reward", "status"), registry=self._registry
        )
        self._images = Counter("tafs_reward_images_total", "Images scored.", ("reward",), registry=self._registry)
        self._batch = Histogram(
            "tafs_reward_batch_images",
            "Images per call of the reward.",
            ("reward",),
            buckets=BATCH_BUCKETS,
            registry=self._registry,
        )
        self._seconds = Histogram(
            "tafs_reward_call_seconds",
            "Seconds per call of the reward.",
            ("reward",),
            buckets=SECONDS_BUCKETS,
            registry=self._registry,
        )
        self._held_bytes = Gauge(
            "tafs_reward_held_bytes",
            "Bytes of requests being received, waiting or being scored.",
            ("reward",),
            registry=self._registry,
        )
        self._reward = reward
        self._held_bytes.labels(reward).set(0)

    def answered(self, status: int) -> None:
        """A request to score was answered with an HTTP status."""
        self._requests.labels(self._reward, str(status)).inc()

    def scored(self, images: int, seconds: float) -> None:
        """The reward was called on so many images, and took so long."""
        self._images.labels(self._reward).inc(images)
        self._batch.labels(self._reward).observe(images)
        self._seconds.labels(self._reward).observe(seconds)

    def held(self, size_bytes: int) -> None:
        """So many bytes of requests are held now."""
        self._held_bytes.labels(self._reward).set(size_bytes)

    def exposition(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self._registry)
