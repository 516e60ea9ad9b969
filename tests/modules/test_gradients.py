"""Norms of gradients that one process holds; those that are cut are compared with it by `tests/distributed/test_equality.py`."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from alignkit.modules import gradients
from alignkit.modules.gradients import clip_gradients, gradient_norm


def with_gradients(*values: list[float]) -> list[nn.Parameter]:
    parameters = [nn.Parameter(torch.zeros(len(own))) for own in values]
    for parameter, own in zip(parameters, values, strict=True):
        parameter.grad = torch.tensor(own)
    return parameters


def test_the_norm_is_that_of_all_gradients_as_one_vector() -> None:
    # 1 + 4 + 4 + 16 = 25
    assert gradient_norm([torch.tensor([1.0, 2.0]), torch.tensor([[2.0], [4.0]])]) == pytest.approx(5.0)


def test_what_is_longer_than_the_limit_is_scaled_to_it_and_what_is_shorter_is_left() -> None:
    parameters = [*with_gradients([3.0], [4.0]), nn.Parameter(torch.zeros(1))]  # the last one has none
    assert clip_gradients(parameters, 10.0) == pytest.approx(5.0)
    assert clip_gradients(parameters, 1.0) == pytest.approx(5.0)
    assert [float(parameter.grad) for parameter in parameters[:2]] == pytest.approx([0.6, 0.8], abs=1e-5)


def test_a_gradient_that_is_no_number_has_no_norm() -> None:
    parameters = with_gradients([math.nan], [1.0])
    assert math.isnan(gradient_norm([parameter.grad for parameter in parameters]))


def test_a_gradient_that_is_cut_counts_with_the_parts_of_all_who_hold_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # Three processes that hold as much each: sqrt(3 * (9 + 16)) beside a whole gradient of 5, sqrt(75 + 25) = 10.
    cut, whole = torch.tensor([3.0, 4.0]), torch.tensor([5.0])
    asked: list[object] = []

    def three_times(square: torch.Tensor, group: object) -> None:
        asked.append(group)
        square *= 3

    monkeypatch.setattr(gradients, "holders", lambda gradient: ("those three",) if gradient is cut else ())
    monkeypatch.setattr(torch.distributed, "all_reduce", three_times)
    assert gradient_norm([cut, whole]) == pytest.approx(10.0)
    assert asked == ["those three"]
