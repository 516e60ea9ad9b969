"""Chunked log-probs and divergences against the plain softmax, and memory that does not follow the vocabulary."""

from __future__ import annotations

import math

import pytest
import torch

from alignkit.logps import completion_lengths, completion_sums, token_divergences, token_entropies, token_scores
from alignkit.losses.families import DivergenceLoss
from alignkit.losses.forward_kl import ForwardKL
from alignkit.losses.reverse_kl import ReverseKL

both_divergences = pytest.mark.parametrize("loss", [ForwardKL(), ReverseKL()], ids=["forward", "reverse"])


def two_models(tokens: int = 11, vocabulary: int = 7, *, with_bias: bool = True, dtype: torch.dtype = torch.float64) -> tuple:
    """Hidden states, output embedding and its bias of a policy of width 5, which wants gradients, and of a reference of width 4."""
    torch.manual_seed(0)

    def model(width: int, requires_grad: bool) -> list:
        shapes = ((tokens, width), (vocabulary, width), (vocabulary,))
        made = [torch.randn(shape, dtype=torch.float64).to(dtype).requires_grad_(requires_grad) for shape in shapes]
        return made if with_bias else [*made[:2], None]

    return model(5, True), model(4, False)


def directly(policy: list, reference: list, loss: DivergenceLoss) -> torch.Tensor:
    logps = (torch.nn.functional.linear(*parts).log_softmax(-1) for parts in (policy, reference))
    return loss(*logps)


@pytest.mark.parametrize("chunk", [1, 7, 50, 10**9])
@pytest.mark.parametrize("block", [1, 20, 10**9])
@pytest.mark.parametrize("with_bias", [False, True])
def test_chunks_equal_the_plain_log_softmax_forward_and_backward(chunk, block, with_bias, monkeypatch):
    monkeypatch.setattr("alignkit.vocabulary.CHUNK_ELEMENTS", chunk)
    monkeypatch.setattr("alignkit.vocabulary.SOFTMAX_ELEMENTS", block)
    torch.manual_seed(0)
    hidden = torch.randn(11, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(7, dtype=torch.float64, requires_grad=True) if with_bias else None
    targets = torch.randint(0, 7, (11,))
    leaves = [leaf for leaf in (hidden, weight, bias) if leaf is not None]
    plain = torch.nn.functional.linear(hidden, weight, bias).log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    ours = token_scores(hidden, weight, bias, targets).logps
    assert torch.allclose(ours, plain, atol=1e-12)
    mix = torch.randn(11, dtype=torch.float64)
    for got, expected in zip(
        torch.autograd.grad((ours * mix).sum(), leaves), torch.autograd.grad((plain * mix).sum(), leaves), strict=True
    ):
        assert torch.allclose(got, expected, atol=1e-12)


@pytest.mark.parametrize("chunk", [7, 10**9])
def test_the_gradient_that_is_there_is_added_to_and_none_is_returned(chunk, monkeypatch):
    monkeypatch.setattr("alignkit.vocabulary.CHUNK_ELEMENTS", chunk)
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(11, 5), torch.randn(7, 5, requires_grad=True), torch.randint(0, 7, (11,))
    (expected,) = torch.autograd.grad(token_scores(hidden, weight, None, targets).logps.sum(), weight)
    there = torch.ones(7, 5)
    hidden.requires_grad_()
    token_scores(hidden, weight, None, targets, gradient=there).logps.sum().backward()
    assert torch.allclose(there, 1 + expected, atol=1e-5)
    assert weight.grad is None
    assert hidden.grad is not None


def test_gradcheck_in_float64():
    hidden = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 5, 2, 2])
    assert torch.autograd.gradcheck(lambda h, w: token_scores(h, w, None, targets).logps, (hidden, weight))


def test_values_by_hand():
    # rows (0.5, 0.5, 0.5) -> -ln 3 and (1, 3, 0) at 2 -> 0 - ln(e + e^3 + 1)
    hidden = torch.tensor([[0.5, 0.5, 0.5], [1.0, 3.0, 0.0]], dtype=torch.float64)
    scores = token_scores(hidden, torch.eye(3, dtype=torch.float64), None, torch.tensor([1, 2])).logps
    assert scores.tolist() == pytest.approx([-1.0986122887, -3.1698460196], abs=1e-9)


def test_top1_marks_the_models_first_choice():
    scores = token_scores(torch.eye(3), torch.eye(3), None, torch.tensor([0, 0, 2]))
    assert scores.top1.tolist() == [True, False, True]


def test_no_logits_matrix_of_the_whole_batch_exists(monkeypatch):
    monkeypatch.setattr("alignkit.vocabulary.CHUNK_ELEMENTS", 4 * 50)
    largest = 0
    original = torch.nn.functional.linear

    def spy(*args):
        nonlocal largest
        output = original(*args)
        largest = max(largest, output.numel())
        return output

    monkeypatch.setattr("alignkit.vocabulary.F.linear", spy)
    hidden = torch.randn(64, 8, requires_grad=True)
    weight = torch.randn(50, 8, requires_grad=True)
    token_scores(hidden, weight, None, torch.randint(0, 50, (64,))).logps.sum().backward()
    assert largest == 4 * 50


def test_bf16_inputs_give_float32_log_probs_and_gradients_summed_in_float32(monkeypatch):
    # 512 chunks that each add 1/256 of the total: summed in bf16 the later ones would be rounded away.
    monkeypatch.setattr("alignkit.vocabulary.CHUNK_ELEMENTS", 4)
    hidden = torch.ones(512, 4, dtype=torch.bfloat16)
    weight = torch.zeros(4, 4, dtype=torch.bfloat16, requires_grad=True)
    scores = token_scores(hidden, weight, None, torch.zeros(512, dtype=torch.int64)).logps
    assert scores.dtype == torch.float32
    scores.sum().backward()
    # d/dw of 512 * log softmax at uniform: 512 * (1 - 1/4) for the target row, -512 / 4 for the others.
    assert weight.grad is not None
    assert weight.grad[:, 0].tolist() == [384.0, -128.0, -128.0, -128.0]


def test_sums_and_lengths_by_completion():
    index = torch.tensor([0, 0, 2, 0])
    assert completion_sums(torch.tensor([1.0, 2.0, 4.0, 8.0]), index, 3).tolist() == [11.0, 0.0, 4.0]
    assert completion_lengths(index, 3).tolist() == [3, 0, 1]


@both_divergences
@pytest.mark.parametrize("chunk", [1, 7, 50, 10**9])
@pytest.mark.parametrize("with_bias", [False, True])
def test_chunked_divergences_equal_the_direct_form_forward_and_backward(loss, chunk, with_bias, monkeypatch):
    monkeypatch.setattr("alignkit.vocabulary.CHUNK_ELEMENTS", chunk)
    policy, reference = two_models(with_bias=with_bias)
    leaves = [leaf for leaf in policy if leaf is not None]
    ours, plain = token_divergences(*policy, *reference, loss), directly(policy, reference, loss)
    assert ours.shape == (11,)
    assert torch.allclose(ours, plain, rtol=0, atol=1e-12)
    mix = torch.randn(11, dtype=torch.float64)
    for got, expected in zip(
        torch.autograd.grad((ours * mix).sum(), leaves), torch.autograd.grad((plain * mix).sum(), leaves), strict=True
    ):
        assert torch.allclose(got, expected, rtol=0, atol=1e-12)


@both_divergences
def test_gradcheck_of_divergences_in_float64(loss):
    policy, reference = two_models(tokens=3, vocabulary=4)
    assert torch.autograd.gradcheck(lambda *parts: token_divergences(*parts, *reference, loss), policy)


def test_a_divergence_of_the_fact_sheet():
    # Facts 4.12. The embedding is the identity, so that each state is a row of logits.
    policy, reference = (torch.tensor([numbers], dtype=torch.float64).log() for numbers in ((0.6, 0.3, 0.1), (0.7, 0.2, 0.1)))
    embedding = torch.eye(3, dtype=torch.float64)
    values = [token_divergences(policy, embedding, None, reference, embedding, None, loss).item() for loss in (ForwardKL(), ReverseKL())]
    assert values == pytest.approx([0.0268124543, 0.0291491245], abs=1e-9)


@both_divergences
def test_the_same_model_twice_has_no_divergence_and_no_gradient(loss):
    policy, _ = two_models()
    values = token_divergences(*policy, *policy, loss)
    gradients = torch.autograd.grad(values.sum(), policy)
    assert values.abs().max() < 1e-14
    assert all(gradient.abs().max() < 1e-14 for gradient in gradients)


def test_the_reference_has_no_gradient():
    policy, reference = two_models()
    reference = [part.requires_grad_() for part in reference]
    values = token_divergences(*policy, *reference, ForwardKL())
    assert torch.autograd.grad(values.sum(), reference, allow_unused=True) == (None, None, None)
    frozen = [part.detach() for part in policy]
    assert not token_divergences(*frozen, *reference, ForwardKL()).requires_grad


def test_only_what_is_trained_gets_a_gradient():
    policy, reference = two_models()
    hidden, weight, bias = policy[0], policy[1].detach(), policy[2].detach()
    (gradient,) = torch.autograd.grad(token_divergences(hidden, weight, bias, *reference, ForwardKL()).sum(), hidden)
    (expected,) = torch.autograd.grad(directly([hidden, weight, bias], reference, ForwardKL()).sum(), hidden)
    assert torch.allclose(gradient, expected, rtol=0, atol=1e-12)


@both_divergences
def test_no_matrix_of_the_whole_batch_exists_and_none_is_kept_for_the_backward_pass(loss, monkeypatch):
    monkeypatch.setattr("alignkit.vocabulary.CHUNK_ELEMENTS", 4 * 50)
    largest = {"made": 0, "kept": 0}
    original = torch.nn.functional.linear

    def spy(*args):
        output = original(*args)
        largest["made"] = max(largest["made"], output.numel())
        return output

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        largest["kept"] = max(largest["kept"], tensor.untyped_storage().nbytes() // 4)
        return tensor

    monkeypatch.setattr("alignkit.vocabulary.F.linear", spy)
    policy, reference = two_models(tokens=64, vocabulary=50, dtype=torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        values = token_divergences(*policy, *reference, loss)
    values.sum().backward()
    assert largest == {"made": 4 * 50, "kept": 64 * 5}  # the policy's states are the largest thing that is kept


@both_divergences
def test_divergences_under_autocast_are_float32_of_rounded_products(loss):
    policy, reference = two_models(dtype=torch.float32)
    exact = directly(policy, reference, loss)
    rounded = [[part.to(torch.bfloat16) for part in model[:2]] for model in (policy, reference)]
    logits = [(states @ weight.T).float() for states, weight in rounded]
    biases = (policy[2], reference[2])
    expected = loss(*((part + bias).log_softmax(-1) for part, bias in zip(logits, biases, strict=True)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = token_divergences(*policy, *reference, loss)
    mixed.sum().backward()
    assert mixed.dtype == torch.float32
    assert torch.allclose(mixed, expected, rtol=1e-6, atol=1e-6)
    assert (mixed - exact).abs().max() > 1e-4
    assert all(part.grad.dtype == torch.float32 for part in policy)


def test_divergences_of_bf16_models_are_float32_and_their_gradients_are_summed_in_float32(monkeypatch):
    # As for log-probs above: 512 chunks that each add 1/512 of the total.
    monkeypatch.setattr("alignkit.vocabulary.CHUNK_ELEMENTS", 4)
    hidden = torch.ones(512, 4, dtype=torch.bfloat16)
    weight = torch.zeros(4, 4, dtype=torch.bfloat16, requires_grad=True)
    certain = torch.zeros(4, 4, dtype=torch.bfloat16)
    certain[0] = 64
    values = token_divergences(hidden, weight, None, hidden, certain, None, ForwardKL())
    assert values.dtype == torch.float32
    assert values.tolist() == pytest.approx([1.3862943611] * 512)  # ln 4: a certain reference, a uniform policy
    values.sum().backward()
    # d/dw: 512 * (pi - pi_ref), 1/4 - 1 for the certain token and 1/4 for the others.
    assert weight.grad is not None
    assert weight.grad[:, 0].tolist() == [-384.0, 128.0, 128.0, 128.0]


def test_no_tokens_have_no_divergences():
    policy, reference = two_models(tokens=0)
    values = token_divergences(*policy, *reference, ForwardKL())
    values.sum().backward()
    assert values.shape == (0,)
    assert policy[1].grad.abs().max() == 0


def test_models_of_other_tokens_or_another_vocabulary_are_refused():
    policy, reference = two_models()
    with pytest.raises(ValueError, match="11 hidden states of the policy, 10 of the reference"):
        token_divergences(*policy, reference[0][:10], *reference[1:], ForwardKL())
    with pytest.raises(ValueError, match="vocabulary has 7 rows, the reference's 6"):
        token_divergences(*policy, reference[0], reference[1][:6], reference[2][:6], ForwardKL())


def entropies_directly(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    probabilities = torch.nn.functional.linear(hidden, weight, bias).softmax(-1)
    return -(probabilities * probabilities.log()).sum(-1)


def test_entropies_of_known_distributions():
    # equal logits: ln 4; (1/2, 1/4, 1/4): 3/2 ln 2; one token alone: 0
    logits = torch.tensor([[1.0, 1.0, 1.0, 1.0], [math.log(2), 0.0, 0.0, -1e4], [0.0, -1e4, -1e4, -1e4]])
    entropies = token_entropies(logits, torch.eye(4), None)
    assert entropies.tolist() == pytest.approx([math.log(4), 1.5 * math.log(2), 0.0], abs=1e-6)


@pytest.mark.parametrize("chunk", [1, 7, 50, 10**9])
@pytest.mark.parametrize("with_bias", [False, True])
def test_chunks_equal_the_plain_entropy_forward_and_backward(chunk, with_bias, monkeypatch):
    monkeypatch.setattr("alignkit.vocabulary.CHUNK_ELEMENTS", chunk)
    policy, _ = two_models(with_bias=with_bias)
    leaves = [leaf for leaf in policy if leaf is not None]
    ours, plain = token_entropies(*policy), entropies_directly(*policy)
    assert torch.allclose(ours, plain, atol=1e-12)
    mix = torch.randn(11, dtype=torch.float64)
    for got, expected in zip(
        torch.autograd.grad((ours * mix).sum(), leaves), torch.autograd.grad((plain * mix).sum(), leaves), strict=True
    ):
        assert torch.allclose(got, expected, atol=1e-12)


def test_entropies_pass_gradcheck_in_float64():
    (hidden, weight, bias), _ = two_models(tokens=3, vocabulary=5)
    assert torch.autograd.gradcheck(token_entropies, (hidden, weight, bias))


def test_entropies_keep_no_matrix_for_the_backward_pass_and_make_none_of_the_whole_batch(monkeypatch):
    monkeypatch.setattr("alignkit.vocabulary.CHUNK_ELEMENTS", 4 * 50)
    sizes: list[int] = []
    original = torch.nn.functional.linear

    def spy(*args):
        output = original(*args)
        sizes.append(output.numel())
        return output

    monkeypatch.setattr("alignkit.vocabulary.F.linear", spy)
    policy, _ = two_models(tokens=64, vocabulary=50, dtype=torch.float32)
    token_entropies(*policy).sum().backward()
    assert max(sizes) == 4 * 50


def test_entropies_under_autocast_are_float32_of_rounded_products():
    policy, _ = two_models(dtype=torch.float32)
    rounded = policy[0].to(torch.bfloat16) @ policy[1].to(torch.bfloat16).T
    logps_of = (rounded.float() + policy[2]).log_softmax(-1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = token_entropies(*policy)
    assert mixed.dtype == torch.float32
    assert torch.allclose(mixed, -(logps_of.exp() * logps_of).sum(-1), rtol=1e-6, atol=1e-6)
