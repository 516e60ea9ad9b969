from __future__ import annotations

import torch
import torch.nn.functional as F

from alignkit.losses.outputs import TokenLogps
from alignkit.losses.sft import SFT


def test_losses_of_the_gather_example(close, float64) -> None:
    # Facts 2.6: sum of the log-probs -4.2684583082, mean -2.1342291541.
    losses = SFT()(TokenLogps(token_logps=float64(-1.0986122887, -3.1698460196))).losses
    close(losses, (1.0986122887, 3.1698460196))
    close(losses.sum(), 4.2684583083)
    close(losses.mean(), 2.13422915415)


def test_losses_are_the_cross_entropy_of_each_token() -> None:
    numbers = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 11, generator=numbers, dtype=torch.float64)
    targets = torch.randint(11, (6,), generator=numbers)
    token_logps = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(SFT()(TokenLogps(token_logps=token_logps)).losses, F.cross_entropy(logits, targets, reduction="none"))


def test_every_token_is_made_likelier_by_the_same_gradient() -> None:
    token_logps = torch.tensor([-0.1, -2.0, -1e4], requires_grad=True)
    SFT()(TokenLogps(token_logps=token_logps)).losses.sum().backward()
    assert token_logps.grad is not None
    assert token_logps.grad.tolist() == [-1.0, -1.0, -1.0]


def test_losses_of_bfloat16_log_probs_are_float32() -> None:
    assert SFT()(TokenLogps(token_logps=torch.tensor([-1.5], dtype=torch.bfloat16))).losses.dtype == torch.float32


def test_no_tokens_give_no_losses() -> None:
    assert SFT()(TokenLogps(token_logps=torch.zeros(0))).losses.shape == (0,)
