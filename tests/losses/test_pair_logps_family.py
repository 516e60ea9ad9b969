"""What thirteen losses on pairs of log-ratios share: facts of the sheet, textbook forms in 60 digits, limits, signs and ranges.

a and b are the log-ratios of the chosen and the rejected completion, h = a - b, all nats; beta is 0.1 but where a case says otherwise.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from decimal import Decimal, localcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alignkit.errors import UserError
from alignkit.losses.apo_down import APODown
from alignkit.losses.apo_zero import APOZero
from alignkit.losses.discopop import DiscoPOP
from alignkit.losses.dpo_alpha import DPOAlpha
from alignkit.losses.dpo_forward_kl import DPOForwardKL
from alignkit.losses.dpo_js import DPOJS
from alignkit.losses.dpop import DPOP
from alignkit.losses.exo import EXO
from alignkit.losses.families import PairLogpsLoss
from alignkit.losses.hinge import Hinge
from alignkit.losses.nca import NCA
from alignkit.losses.outputs import PairLogps, PairwiseOutput
from alignkit.losses.robust_dpo import RobustDPO
from alignkit.losses.ropo import ROPO
from alignkit.losses.sppo import SPPO

BETA = Decimal("0.1")
LN_2 = 0.6931471805599453


def sigma(x: Decimal) -> Decimal:
    return 1 / (1 + (-x).exp())


def nll(x: Decimal) -> Decimal:
    """-log sigmoid(x)."""
    return (1 + (-x).exp()).ln()


def robust(a: Decimal, b: Decimal) -> Decimal:
    z, flip = BETA * (a - b), Decimal("0.2")
    return ((1 - flip) * nll(z) - flip * nll(-z)) / (1 - 2 * flip)


def exo(a: Decimal, b: Decimal) -> Decimal:
    q, flip = sigma(BETA * (a - b)), Decimal("0.001")
    return q * (q / (1 - flip)).ln() + (1 - q) * ((1 - q) / flip).ln()


def discopop(a: Decimal, b: Decimal) -> Decimal:
    z = BETA * (a - b)
    weight = sigma(z / Decimal("0.05"))
    return (1 - weight) * nll(z) + weight * (-z).exp()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    loss: PairLogpsLoss
    values: tuple[float, float, float]
    """The losses of the pairs of facts 2.6, a = (1, -.5, -1) and b = (-.5, .5, .5)."""
    at_reference: float
    textbook: Callable[[Decimal, Decimal], Decimal]
    falls: bool
    """Whether the loss falls in a and rises in b everywhere (up to a = b + 10, where the hinge ends)."""
    turned: bool = False
    """Whether the first step on a pair alone does not widen it, as it should."""


CASES = {
    "robust_dpo": Case(
        loss=RobustDPO(beta=0.1, epsilon=0.2),
        values=(0.5709570478, 0.7777299934, 0.8209570478),  # facts 4.6
        at_reference=LN_2,
        textbook=robust,
        falls=True,
    ),
    "hinge": Case(
        loss=Hinge(beta=0.1),
        values=(0.85, 1.1, 1.15),  # facts 4.5
        at_reference=1.0,
        textbook=lambda a, b: max(Decimal(0), 1 - BETA * (a - b)),
        falls=True,
    ),
    "dpop": Case(
        loss=DPOP(beta=0.1, penalty=5.0),
        values=(0.6209570478, 0.8833821554, 1.0700553357),  # ln(1 + e^x) of -.15, .35 and .65: h less 5 max(0, -a)
        at_reference=LN_2,
        textbook=lambda a, b: nll(BETA * (a - b - 5 * max(Decimal(0), -a))),
        falls=True,
    ),
    "apo_zero": Case(
        loss=APOZero(beta=0.1),
        values=(0.9625234160, 1.0249947930, 1.0374765840),  # facts 4.12
        at_reference=1.0,
        textbook=lambda a, b: 1 - sigma(BETA * a) + sigma(BETA * b),
        falls=True,
    ),
    "apo_down": Case(
        loss=APODown(beta=0.1),
        values=(0.9875493422, 1.0124817910, 1.0124506578),  # facts 4.4 and 4.7: sigmoid(beta a) + sigmoid(-beta h)
        at_reference=1.0,
        textbook=lambda a, b: 1 + sigma(BETA * a) - sigma(BETA * (a - b)),
        falls=False,
        turned=True,
    ),
    "nca": Case(
        loss=NCA(beta=0.1),
        values=(1.3508248141, 1.4119192960, 1.4258248141),  # facts 4.12
        at_reference=2 * LN_2,
        textbook=lambda a, b: nll(BETA * a) + (nll(-BETA * a) + nll(-BETA * b)) / 2,
        falls=False,
    ),
    "exo": Case(
        loss=EXO(beta=0.1, epsilon=0.001),
        values=(2.5055165555, 2.9350042708, 3.0225540819),  # facts 4.12
        at_reference=2.761230709097915,  # -ln 2 - (ln .001 + ln .999) / 2
        textbook=exo,
        falls=False,
    ),
    "sppo": Case(
        loss=SPPO(beta=0.1),
        values=(36.25, 60.5, 66.25),  # facts 4.12
        at_reference=50.0,
        textbook=lambda a, b: (a - 1 / (2 * BETA)) ** 2 + (b + 1 / (2 * BETA)) ** 2,
        falls=False,
    ),
    "discopop": Case(
        loss=DiscoPOP(beta=0.1, tau=0.05),
        values=(0.8493375793, 0.7874020058, 0.7894947401),  # facts 4.12
        at_reference=0.5 + LN_2 / 2,
        textbook=discopop,
        falls=False,
        turned=True,
    ),
    "dpo_forward_kl": Case(
        loss=DPOForwardKL(beta=0.1),
        values=(0.6311543836, 0.7466137987, 0.8042987781),  # facts 4.12
        at_reference=LN_2,
        textbook=lambda a, b: nll(BETA * ((-b).exp() - (-a).exp())),
        falls=True,
    ),
    "dpo_js": Case(
        loss=DPOJS(beta=0.1),
        values=(0.6606521625, 0.7184596480, 0.7359864463),  # facts 4.12
        at_reference=LN_2,
        textbook=lambda a, b: nll(BETA * ((2 / (1 + (-a).exp())).ln() - (2 / (1 + (-b).exp())).ln())),
        falls=True,
    ),
    "dpo_alpha": Case(
        loss=DPOAlpha(beta=0.1, alpha=0.25),
        values=(0.6247867927, 0.7445334887, 0.7766739265),  # z = .4 (e^(-b/4) - e^(-a/4)) = .141739, -.100261, -.160611
        at_reference=LN_2,
        textbook=lambda a, b: nll(BETA * 4 * ((-b / 4).exp() - (-a / 4).exp())),
        falls=True,
    ),
    "ropo": Case(
        loss=ROPO(beta=0.1, dpo_weight=0.0),
        values=(0.4625701547, 0.5249791875, 0.5374298453),  # facts 4.7 (d)
        at_reference=0.5,
        textbook=lambda a, b: sigma(-BETA * (a - b)),
        falls=True,
    ),
}
each_case = pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in CASES.items()])
each_falling = pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in CASES.items() if case.falls])

NOT_POSITIVE = (0, -0.1, math.inf, math.nan, "0.1", None, True)
OUT_OF_RANGE = {
    "beta": dict.fromkeys(CASES, NOT_POSITIVE),
    "epsilon": {"robust_dpo": (-0.01, 0.5, 1, math.nan, "0.1", None, False), "exo": (0, -0.01, 0.5, 1, math.nan, "0.1", None)},
    "penalty": {"dpop": (-0.1, math.inf, math.nan, "1", None, True)},
    "tau": {"discopop": (0, -0.05, 1.01, math.nan, "0.05", None)},
    "alpha": {"dpo_alpha": (0, 1, -0.5, math.nan, "0.5", None)},
    "dpo_weight": {"ropo": (-0.1, math.inf, math.nan, "0", None, False)},
}


def evaluate(loss: PairLogpsLoss, a: Tensor, b: Tensor) -> PairwiseOutput:
    """The loss of one-token completions with log-ratios a and b [B] to a reference that gives each of them 1 / e."""
    tokens = torch.ones(len(a), dtype=torch.int64)
    start = torch.full_like(a, -1.0, requires_grad=False)
    policy = PairLogps(chosen=start + a, rejected=start + b, chosen_tokens=tokens, rejected_tokens=tokens)
    return loss(policy, PairLogps(chosen=start, rejected=start, chosen_tokens=tokens, rejected_tokens=tokens))


def gradients(loss: PairLogpsLoss, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """[B] and [B]: the derivatives of each pair's loss by its own a and b."""
    a, b = a.clone().requires_grad_(), b.clone().requires_grad_()
    by_a, by_b = torch.autograd.grad(evaluate(loss, a, b).losses.sum(), (a, b))
    return by_a, by_b


def grid(*values: float, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """All pairs of the values, as a and b [B]."""
    a, b = zip(*itertools.product(values, values), strict=True)
    return torch.tensor(a, dtype=dtype), torch.tensor(b, dtype=dtype)


@each_case
def test_losses_and_rewards_of_the_fact_sheet(close, policy: PairLogps, reference: PairLogps, case: Case) -> None:
    output = case.loss(policy, reference)
    close(output.losses, case.values)
    close(output.chosen_rewards, (0.1, -0.05, -0.1))
    close(output.rejected_rewards, (-0.05, 0.05, 0.05))


@each_case
def test_policy_at_reference_costs_what_is_promised(close, reference: PairLogps, case: Case) -> None:
    assert case.loss.value_at_reference() == pytest.approx(case.at_reference, rel=1e-10)
    close(case.loss(reference, reference).losses, case.at_reference)


@each_case
@settings(derandomize=True, deadline=None)
@given(a=st.floats(-8, 8), b=st.floats(-8, 8))
def test_losses_equal_the_textbook_form_in_60_digits(float64, case: Case, a: float, b: float) -> None:
    with localcontext() as context:
        context.prec = 60
        expected = float(case.textbook(Decimal(a), Decimal(b)))
    assert evaluate(case.loss, float64(a), float64(b)).losses.item() == pytest.approx(expected, rel=1e-11, abs=1e-11)


@each_case
def test_gradients_are_the_derivatives_of_the_losses(case: Case) -> None:
    a, b = (values.requires_grad_() for values in grid(-2.3, -0.4, 0.7, 3.1))
    assert torch.autograd.gradcheck(lambda a, b: evaluate(case.loss, a, b).losses, (a, b))


@each_case
def test_the_first_step_widens_a_pair(case: Case) -> None:
    by_a, by_b = gradients(case.loss, torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    assert bool(by_a < 0 < by_b) is not case.turned


@each_falling
def test_the_loss_falls_with_the_chosen_side_and_rises_with_the_rejected_one(case: Case) -> None:
    by_a, by_b = gradients(case.loss, *grid(*(0.37 + 2 * k for k in range(-3, 2))))
    assert (by_a < 0).all()
    assert (by_b > 0).all()


@each_falling
def test_the_loss_falls_as_the_gap_grows(logps_with_gaps, case: Case) -> None:
    losses = case.loss(*logps_with_gaps(torch.linspace(-30, 9, 40, dtype=torch.float64))).losses
    assert (losses.diff() < 0).all()


@each_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_and_gradients_are_finite_far_out(case: Case, dtype: torch.dtype) -> None:
    a, b = grid(-1e4, -5e3, -1.0, 0.0, 1.0, 5e3, 1e4, dtype=dtype)
    assert evaluate(case.loss, a, b).losses.isfinite().all()
    for gradient in gradients(case.loss, a, b):
        assert gradient.isfinite().all()
        assert gradient.square().sum().isfinite()


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [(name, field, value) for field, losses in OUT_OF_RANGE.items() for name, values in losses.items() for value in values],
)
def test_a_value_out_of_range_is_named(name: str, field: str, value: object) -> None:
    with pytest.raises(UserError, match=rf"loss\.{field} = .*must be a number in .*\. .*Try "):
        dataclasses.replace(CASES[name].loss, **{field: value})  # type: ignore[type-var]


def test_every_field_has_a_range() -> None:
    for name, case in CASES.items():
        assert {field.name for field in dataclasses.fields(case.loss)} == {  # type: ignore[arg-type]
            field for field, losses in OUT_OF_RANGE.items() if name in losses
        }
