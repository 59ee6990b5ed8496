import torch

from rollout.policy import Conditions

TWO = Conditions({"tokens": torch.arange(6.0).view(2, 3), "pooled": torch.tensor([[1.0], [2.0]])})


def test_rows_are_taken_in_the_order_asked_for_and_repeated():
    for rows in ([1, 0, 1], torch.tensor([1, 0, 1])):
        taken = TWO.take(rows).tensors
        assert taken["pooled"].flatten().tolist() == [2.0, 1.0, 2.0]
        assert taken["tokens"][:, 0].tolist() == [3.0, 0.0, 3.0]


def test_concatenation_undoes_taking_apart():
    back = Conditions.concatenate([TWO.take([0]), TWO.take([1])]).tensors
    assert all(torch.equal(back[name], tensor) for name, tensor in TWO.tensors.items())
