import pytest
import torch

from adacache.residuals import ResidualStore


def test_a_stored_residual_is_added_without_changing_what_it_is_added_to():
    store = ResidualStore()
    store.store("default", torch.tensor([10.0, 20.0]))
    hidden_states = torch.tensor([1.0, 2.0])
    assert store.add("default", hidden_states).tolist() == [11.0, 22.0]
    assert hidden_states.tolist() == [1.0, 2.0]


def test_keys_do_not_mix_and_a_new_residual_replaces_the_old_one():
    store = ResidualStore()
    store.store("cond", torch.zeros(3))
    store.store("cond", torch.ones(3))
    store.store("uncond", torch.full((3,), 5.0))
    assert store.get("cond").tolist() == [1, 1, 1]
    assert store.get("uncond").tolist() == [5, 5, 5]
    assert store.nbytes == 2 * 3 * 4
    store.drop("cond")
    assert store.nbytes == 3 * 4
    store.free()
    assert store.nbytes == 0


def test_a_missing_residual_says_what_there_is():
    store = ResidualStore()
    with pytest.raises(RuntimeError, match="'uncond'.*stored: nothing"):
        store.get("uncond")
    store.store("cond", torch.ones(3))
    with pytest.raises(RuntimeError, match="'uncond'.*stored: 'cond'"):
        store.add("uncond", torch.ones(3))


@pytest.mark.parametrize("other", [torch.ones(1, 4), torch.ones(3, dtype=torch.bfloat16)])
def test_another_shape_or_dtype_is_refused_in_words(other):
    store = ResidualStore()
    store.store("default", torch.ones(3))
    with pytest.raises(ValueError, match=r"\(3,\) float32, the hidden states are .*new run"):
        store.add("default", other)


def test_graphs_are_not_kept_alive():
    store = ResidualStore()
    store.store("default", torch.ones(3, requires_grad=True) * 2)
    assert not store.get("default").requires_grad
