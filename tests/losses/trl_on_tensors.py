"""TRL's own loss code on given log-probs: its trainers without weights, optimiser or data.

A trainer is made without `__init__` and holds just what its loss reads, under the names of its config and with that config's defaults.
The model is a function that returns the given log-probs, or logits that have them. Every number comes out of TRL's methods, in the dtype
of the log-probs, as the mean over the batch that TRL trains on. TRL is imported where it is used: that takes seconds.

    B pairs   C completions   R rows   T completion tokens of the longest row
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections import defaultdict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from alignkit.losses.outputs import CompletionLogps, PairLogps, PairRewards

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # half of its trainers warn that they are experimental

PROMPT = 2
"""Tokens of every prompt."""
PROMPT_LOGP = -math.log(2)
"""Of a prompt's second token, where logits are asked for; its first one has no log-prob."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Completions behind prompts of `PROMPT` tokens, padded on the right."""

    token_logps: Tensor
    """[R, T] nats, 0 behind the end."""
    completion: Tensor
    """[R, PROMPT + T] 1 on completion tokens."""
    attention: Tensor
    """[R, PROMPT + T] 1 on prompt and completion tokens."""

    @property
    def next_logps(self) -> Tensor:
        """[R, PROMPT + T - 1] of the token behind each position, 0 where it is no completion token."""
        prompt = self.token_logps.new_zeros(len(self.token_logps), PROMPT - 1)
        return torch.cat([prompt, self.token_logps], dim=1)

    @property
    def logits(self) -> Tensor:
        """[R, PROMPT + T, 2] of a vocabulary of two, of which token 1 is what every row consists of."""
        inside = self.completion[:, 1:] == 1
        logps = torch.where(inside, self.next_logps, PROMPT_LOGP)
        others = torch.log(-torch.expm1(logps))
        last = logps.new_zeros(len(logps), 1, 2)
        return torch.cat([torch.stack([others, logps], dim=-1), last], dim=1)


def spread(sums: Tensor, tokens: Tensor) -> Rows:
    """Rows whose sums are the log-probs [R] given: the n-th token of a completion has a share in proportion to n."""
    position = torch.arange(1, int(tokens.max()) + 1)
    inside = position <= tokens[:, None]
    shares = torch.where(inside, position, 0).double() / (tokens * (tokens + 1) // 2)[:, None]
    completion = torch.cat([torch.zeros(len(sums), PROMPT, dtype=torch.long), inside.long()], dim=1)
    attention = torch.cat([torch.ones(len(sums), PROMPT, dtype=torch.long), inside.long()], dim=1)
    return Rows(token_logps=sums[:, None] * shares.to(sums), completion=completion, attention=attention)


def rows_of(pairs: PairLogps) -> Rows:
    """[2 B] rows: all chosen completions, then all rejected ones."""
    return spread(torch.cat([pairs.chosen, pairs.rejected]), torch.cat([pairs.chosen_tokens, pairs.rejected_tokens]))


class NoWeights(torch.nn.Module):
    """What trainers ask whether it is in training, has adapters or computes activations again."""

    is_gradient_checkpointing = False


def dpo(policy: PairLogps, reference: PairLogps, **options: Any) -> Tensor:
    """`DPOTrainer`; `options` are fields of `DPOConfig`, `loss_type` as a list."""
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    args = _arguments(DPOConfig, options)
    rows, reference_rows = rows_of(policy), rows_of(reference)
    trainer = _bare(
        DPOTrainer,
        args,
        loss_types=args.loss_type,
        loss_weights=args.loss_weights or [1.0] * len(args.loss_type),
        precompute_ref_logps=False,
        ref_model=lambda **_: _fused_head(reference_rows),
    )
    return trainer.compute_loss(lambda **_: _fused_head(rows), _inputs(rows))


def kto(policy: CompletionLogps, reference: CompletionLogps, desirable: Tensor, mismatched: Tensor, **options: Any) -> Tensor:
    """`KTOTrainer`; `mismatched` [C] are log-ratios of completions under prompts that they do not answer."""
    from trl.trainer.kto_config import KTOConfig
    from trl.trainer.kto_trainer import KTOTrainer

    args = _arguments(KTOConfig, options)
    rows = spread(policy.logps, policy.tokens)
    others = spread(mismatched, torch.ones_like(policy.tokens))
    with_level = args.loss_type == "kto"
    trainer = _bare(KTOTrainer, args, precompute_ref_logps=True, calculate_KL=with_level)
    inputs = {
        **_inputs(rows),
        **{f"KL_{name}": value for name, value in _inputs(others).items()},
        "label": desirable,
        "ref_logps": reference.logps,
        "ref_KL_logps": torch.zeros_like(mismatched),
    }
    passes = iter([others, rows] if with_level else [rows])
    return trainer.compute_loss(lambda **_: _fused_head(next(passes)), inputs)


def cpo(policy: PairLogps, **options: Any) -> Tensor:
    """`CPOTrainer`."""
    from trl.experimental.cpo.cpo_config import CPOConfig
    from trl.experimental.cpo.cpo_trainer import CPOTrainer

    return _pairs_from_logits(CPOTrainer, _arguments(CPOConfig, options), policy)


def orpo(policy: PairLogps, **options: Any) -> Tensor:
    """`ORPOTrainer`, which computes the odds in float32."""
    from trl.experimental.orpo.orpo_config import ORPOConfig
    from trl.experimental.orpo.orpo_trainer import ORPOTrainer

    return _pairs_from_logits(ORPOTrainer, _arguments(ORPOConfig, options), policy)


def tpo(policy: PairLogps, gold: CompletionLogps | None = None, **options: Any) -> Tensor:
    """`TPOTrainer`, with a third completion of each prompt unless `tpo_alpha` is 0."""
    from trl.experimental.tpo.tpo_config import TPOConfig
    from trl.experimental.tpo.tpo_trainer import TPOTrainer

    args = _arguments(TPOConfig, options)
    sums, tokens = [policy.chosen, policy.rejected], [policy.chosen_tokens, policy.rejected_tokens]
    if gold is not None:
        sums, tokens = [*sums, gold.logps], [*tokens, gold.tokens]
    rows = spread(torch.cat(sums), torch.cat(tokens))
    return _bare(TPOTrainer, args).compute_loss(lambda **_: SimpleNamespace(logits=rows.logits), _inputs(rows))


def online_dpo(policy: PairLogps, reference: PairLogps, *, loss_type: str, beta: float) -> Tensor:
    """`OnlineDPOTrainer`, on completions that were sampled already; a score says which one of two is the chosen one."""
    from trl.experimental.online_dpo.online_dpo_config import OnlineDPOConfig
    from trl.experimental.online_dpo.online_dpo_trainer import OnlineDPOTrainer

    rows, reference_rows, pairs = rows_of(policy), rows_of(reference), len(policy.chosen)
    args = _arguments(OnlineDPOConfig, {"loss_type": loss_type})
    args.n_gpu = 1
    losses: list[Tensor] = []
    mask = rows.completion[:, PROMPT:]
    # What is sampled first is rejected: TRL has to bring the two in order.
    swapped = torch.arange(2 * pairs).roll(pairs)
    trainer = _bare(
        OnlineDPOTrainer,
        args,
        ref_model=reference_rows,
        eos_token_ids=[2],
        processing_class=SimpleNamespace(batch_decode=lambda ids, **_: ["text"] * len(ids)),
        reward_funcs=None,
        stats=defaultdict(list),
        state=SimpleNamespace(global_step=1, epoch=0),
        _beta=beta,
        _generate=lambda *_: (None, None, mask[swapped], mask[swapped], None),
        _forward=lambda model, *_: model.token_logps[swapped],
        _calculate_rewards_from_functions=lambda **_: torch.arange(2.0).repeat_interleave(pairs),
    )
    trainer.accelerator.backward = lambda loss, **_: losses.append(loss)
    rows_as_model = SimpleNamespace(token_logps=rows.token_logps, train=lambda: None)
    trainer.training_step(rows_as_model, {"prompt": ["text"] * pairs})
    return losses[0]


def reward(scores: PairRewards, **options: Any) -> Tensor:
    """`RewardTrainer`."""
    from trl.trainer.reward_config import RewardConfig
    from trl.trainer.reward_trainer import RewardTrainer

    logits = torch.cat([scores.chosen, scores.rejected])[:, None]
    inputs = {"attention_mask": torch.ones(len(logits), 1)} | ({} if scores.margins is None else {"margin": scores.margins})
    return _bare(RewardTrainer, _arguments(RewardConfig, options)).compute_loss(lambda **_: SimpleNamespace(logits=logits), inputs)


def sft(policy: CompletionLogps, *, step_tokens: Tensor | None = None, **options: Any) -> Tensor:
    """`SFTTrainer` on one micro-batch; `step_tokens` is the count of the whole step, which Hugging Face's loop hands in."""
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    rows = spread(policy.logps, policy.tokens)
    args = _arguments(SFTConfig, options)
    trainer = _bare(SFTTrainer, args, compute_loss_func=None, label_smoother=None, get_tp_size=lambda: 1)
    inputs = {"attention_mask": rows.attention, "labels": rows.completion}
    return trainer.compute_loss(lambda **_: _fused_head(rows), inputs, num_items_in_batch=step_tokens)


def generalized_jsd(student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    """[N] of `GKDTrainer`, from logits [N, V]: beta is 0 for the forward and 1 for the reverse KL divergence."""
    from trl.experimental.gkd.gkd_trainer import GKDTrainer

    return GKDTrainer.generalized_jsd_loss(student, teacher, beta=beta, reduction="none").sum(-1)


def distillation(student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    """[] of `DistillationTrainer`, the mean over tokens. Logits [N, V] are hidden states where the output embedding is the identity."""
    from trl.trainer.distillation_trainer import _chunked_divergence_loss

    embedding = torch.eye(student.shape[-1], dtype=student.dtype)
    mask = torch.ones(1, len(student))
    return _chunked_divergence_loss(student[None], teacher[None], embedding, embedding, mask, beta)[0]


def _arguments(config: type, options: dict[str, Any]) -> SimpleNamespace:
    """The fields of a config with TRL's defaults where nothing else is asked for; the config itself would look for devices."""
    made = {}
    for field in dataclasses.fields(config):
        made[field.name] = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    assert options.keys() <= made.keys(), f"{config.__name__} has no {sorted(options.keys() - made.keys())}"
    return SimpleNamespace(**made | options)


def _bare(trainer: type, args: SimpleNamespace, **fields: Any) -> Any:
    """A trainer of one process on the CPU that has not been initialised. Configs and trainers name what they share alike."""
    made = object.__new__(trainer)
    taken_over = {name: value for name, value in vars(args).items() if name not in ("output_dir", *dir(trainer)) and name not in fields}
    accelerator = SimpleNamespace(
        device=torch.device("cpu"),
        num_processes=1,
        parallelism_config=None,
        gather=lambda value: value,
        gather_for_metrics=lambda value: value,
    )
    vars(made).update(
        **taken_over,
        **fields,
        args=args,
        model=NoWeights(),
        accelerator=accelerator,
        aux_loss_enabled=False,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    return made


def _inputs(rows: Rows) -> dict[str, Tensor]:
    return {"input_ids": torch.ones_like(rows.attention), "attention_mask": rows.attention, "completion_mask": rows.completion}


def _fused_head(rows: Rows) -> SimpleNamespace:
    """What a model with TRL's fused head returns. Metrics read the zeros; to WPO, they are a policy that knows one token only."""
    nothing = torch.zeros_like(rows.next_logps)
    return SimpleNamespace(
        log_probs=rows.next_logps,
        label_mask=rows.completion[:, 1:] == 1,
        entropy=nothing,
        mean_logits=nothing,
        log_sum_sq_probs=nothing,
        is_top1=nothing.bool(),
    )


def _pairs_from_logits(trainer: type, args: SimpleNamespace, policy: PairLogps) -> Tensor:
    """The trainers that put chosen and rejected rows together themselves."""
    rows, pairs = rows_of(policy), len(policy.chosen)
    batch = {}
    for side, part in (("chosen", slice(pairs)), ("rejected", slice(pairs, None))):
        batch[f"{side}_input_ids"] = torch.ones_like(rows.attention[part])
        batch[f"{side}_attention_mask"] = rows.attention[part]
        batch[f"{side}_labels"] = torch.where(rows.completion[part] == 1, 1, -100)
    made = _bare(trainer, args, is_encoder_decoder=False, pad_token_id=0, padding_value=0)
    loss, _ = made.get_batch_loss_metrics(lambda *_, **__: SimpleNamespace(logits=rows.logits), batch)
    return loss
