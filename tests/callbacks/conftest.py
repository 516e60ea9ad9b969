"""Training under a certificate, and what it says of a wrong one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from transformers import PreTrainedModel

from alignkit.callbacks.certificate import Certificate
from alignkit.data.examples import EncodedExample
from alignkit.errors import UserError
from alignkit.models.reference import fingerprint
from alignkit.modules.alignment import AlignmentModule

TERMINATOR = 2


@pytest.fixture
def certify(fit) -> Callable[..., dict[str, float | int]]:
    """Trains under a certificate and returns what it measured."""

    def run(module: AlignmentModule, examples: Sequence[EncodedExample], *, reference_is_policy: bool = True, before=(), **options):
        certificate = Certificate(examples, terminator=TERMINATOR, reference_is_policy=reference_is_policy)
        fit(module, examples, callbacks=[*before, certificate], **options)
        return certificate.results

    return run


@pytest.fixture
def refused(certify) -> Callable[..., str]:
    """The message of the refusal, after checking that no weight has moved."""

    def run(module: AlignmentModule, examples: Sequence[EncodedExample], **options) -> str:
        weights = fingerprint(module.backbone)
        with pytest.raises(UserError) as caught:
            certify(module, examples, **options)
        assert module.steps_done == 0
        if "nan" not in str(caught.value):
            assert fingerprint(module.backbone) == weights
        return str(caught.value)

    return run


@pytest.fixture
def other_lm(lm_factory) -> PreTrainedModel:
    """A llama that differs from the usual one in a thousandth of its weights' size."""
    lm = lm_factory("llama")
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter.mul_(1.001)
    return lm
