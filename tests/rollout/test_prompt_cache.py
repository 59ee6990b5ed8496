import pytest
import torch

from rollout.policy import Conditions
from rollout.prompt_cache import OnceEncodingPolicy, PromptCache, PromptFiles, encoders_digest
from tests.tiny_policies import TinyPolicy

CPU = torch.device("cpu")


class Recording(TinyPolicy):
    """Says what was encoded, in which calls, and where its encoders went."""

    def __init__(self):
        super().__init__()
        self.calls = []
        self.places = []

    def encode(self, prompts):
        self.calls.append(list(prompts))
        return super().encode(prompts)

    def place_text_encoders(self, device):
        self.places.append(device)


def once(placement="keep", files=None, limit_bytes=None):
    policy = Recording()
    return policy, OnceEncodingPolicy(policy, PromptCache(files, limit_bytes), placement)


def assert_rows_of(conditions, prompts):
    assert torch.equal(conditions.tensors["prompt"], TinyPolicy().encode(prompts).tensors["prompt"])


def test_every_prompt_is_encoded_once_and_alone():
    policy, cached = once()
    assert_rows_of(cached.encode(["a", "b", "a"]), ["a", "b", "a"])
    assert_rows_of(cached.encode(["c", "b"]), ["c", "b"])
    assert policy.calls == [["a"], ["b"], ["c"]]


def test_everything_else_is_the_policys_own():
    policy, cached = once()
    x, sigma = cached.initial_latents([1, 2], 2, 3), torch.tensor([0.5, 0.9])
    assert torch.equal(x, policy.initial_latents([1, 2], 2, 3))
    assert cached.sigmas(4, 2, 3) == policy.sigmas(4, 2, 3)
    conditions = policy.encode(["a", "b"])
    assert torch.equal(cached.velocity(x, sigma, conditions), policy.velocity(x, sigma, conditions))
    assert cached.network is policy.network
    assert (cached.adapter_targets, cached.guidance) == (policy.adapter_targets, policy.guidance)


def test_beyond_the_limit_the_least_recently_used_prompt_is_forgotten():
    row_bytes = 2 * 4
    policy, cached = once(limit_bytes=2 * row_bytes)
    for prompt in "abac":  # b is the oldest when c comes
        cached.encode([prompt])
    cached.encode(["a"])
    assert policy.calls == [["a"], ["b"], ["c"]]
    cached.encode(["b"])
    assert policy.calls[3:] == [["b"]]


def test_waiting_encoders_visit_the_device_for_unknown_prompts_only():
    policy, cached = once("cpu")
    cached.encode(["a", "b"])
    assert policy.places == [CPU, CPU]  # there, and back; both are the CPU here
    cached.encode(["b"])
    assert policy.places == [CPU, CPU]
    policy, cached = once("keep")
    cached.encode(["a"])
    assert policy.places == []


def test_dropped_encoders_leave_all_announced_prompts_behind_and_no_others():
    policy, cached = once("drop")
    cached.drop_text_encoders(["a", "b", "a"])
    assert policy.calls == [["a"], ["b"]]
    assert policy.places[-1] is None
    assert_rows_of(cached.encode(["b", "a"]), ["b", "a"])
    with pytest.raises(ValueError, match=r"the prompt 'c' was not encoded .* set `model\.text_encoders` to keep"):
        cached.encode(["a", "c"])


def test_files_are_shared_with_other_processes_and_later_runs(tmp_path):
    once(files=PromptFiles(tmp_path, "digest"))[1].encode(["a", "b"])
    policy, cached = once("drop", PromptFiles(tmp_path, "digest"), limit_bytes=1)
    cached.drop_text_encoders(["a", "b"])
    assert_rows_of(cached.encode(["a", "b"]), ["a", "b"])
    assert policy.calls == []
    assert not list(tmp_path.rglob("*.half"))
    other, cached = once(files=PromptFiles(tmp_path, "another digest"))
    cached.encode(["a"])
    assert other.calls == [["a"]]


def test_rows_come_back_from_files_bit_by_bit_in_every_dtype(tmp_path):
    files = PromptFiles(tmp_path, "digest")
    tensors = {
        "tokens": torch.randn(1, 3, 2).bfloat16(),
        "mask": torch.tensor([[True, False]]),
        "lengths": torch.tensor([3]),
    }
    files.put("a", Conditions(tensors))
    found = files.get("a")
    assert found is not None
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in tensors.items())
    assert found.tensors["tokens"].dtype == torch.bfloat16


def test_a_broken_file_is_named(tmp_path):
    once(files=PromptFiles(tmp_path, "digest"))[1].encode(["a"])
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=rf"{file}: expected an encoded prompt .*; delete the file"):
        once(files=PromptFiles(tmp_path, "digest"))[1].encode(["a"])


def test_the_digest_follows_encoders_tokenizers_and_settings_and_nothing_else(tmp_path):
    for part in ("text_encoder", "text_encoder_2", "tokenizer", "transformer"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(part)
    first = encoders_digest(tmp_path, "float32", 77)
    (tmp_path / "transformer" / "config.json").write_text("trained")
    assert encoders_digest(tmp_path, "float32", 77) == first
    assert encoders_digest(tmp_path, "bfloat16", 77) != first
    (tmp_path / "tokenizer" / "config.json").write_text("other")
    assert encoders_digest(tmp_path, "float32", 77) != first
