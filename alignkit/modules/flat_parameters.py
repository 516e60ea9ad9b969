"""The trained parameters of a model as one vector."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

import torch
from torch import Tensor, nn


@final
class FlatParameters:
    """Reads, writes and differentiates in one vector [D] all parameters that are trained, in the order of the model.

    Parameters keep their own storage, which optimizers, tied weights and compiled layers hold on to.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self._sizes = [parameter.numel() for parameter in self._parameters]

    def read(self) -> Tensor:
        """[D], a copy."""
        return torch.cat([parameter.detach().flatten() for parameter in self._parameters])

    @torch.no_grad()
    def write(self, vector: Tensor) -> None:
        """Set all parameters from [D]; what was read comes back to the bit."""
        for parameter, values in zip(self._parameters, vector.split(self._sizes), strict=True):
            parameter.copy_(values.view_as(parameter))

    def gradient(self, values: Iterable[Tensor]) -> Tensor:
        """[D] of the sum of values [], each of which is differentiated and let go before the next one is asked for.

        Zero in parameters that no value depends on. No `grad` is touched.
        """
        total = torch.zeros_like(self.read())
        for value in values:
            gradients = torch.autograd.grad(value, self._parameters, materialize_grads=True)
            total += torch.cat([gradient.flatten() for gradient in gradients])
        return total
