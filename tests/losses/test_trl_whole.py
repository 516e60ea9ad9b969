"""TRL's `DPOTrainer` as users build it, on a real model: what `trl_on_tensors` leaves out, collating and the forward passes, agrees too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from alignkit.data.collate import micro_batches
from alignkit.data.packing import Packing
from alignkit.models.backbone import Backbone
from alignkit.models.reference import MovingReference

pytest.importorskip("trl", reason="needs TRL: pip install trl==1.16.0")


def whole_trainer(
    models: Sequence[PreTrainedModel],
    examples: Sequence[Any],
    tokenizer: Any,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    **options: Any,
) -> Any:
    """TRL's trainer of one micro-batch with all examples, which are tokenised already."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    monkeypatch.setattr(DPOTrainer, "_prepare_dataset", lambda self, dataset, *_: dataset)
    monkeypatch.setattr(DPOTrainer, "_send_telemetry", lambda self: None)
    args = DPOConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
        per_device_train_batch_size=len(examples),
        train_sampling_strategy="sequential",
        dataloader_pin_memory=False,
        report_to="none",
        **options,
    )
    rows = [{"prompt_ids": [*e.prompt_ids], "chosen_ids": [*e.completion_ids[0]], "rejected_ids": [*e.completion_ids[1]]} for e in examples]
    policy, reference = models
    return DPOTrainer(model=policy, ref_model=reference, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # TRL 1.16 with transformers 5.23
def test_a_batch_has_the_dpo_loss_of_trl_which_ignores_its_label_smoothing(
    lm_factory: Callable[..., PreTrainedModel],
    examples_factory: Callable[..., list[Any]],
    module_factory: Callable[..., Any],
    losses_of: Callable[..., Tensor],
    tokenizer_factory: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy, reference = lm_factory("gpt2"), lm_factory("gpt2")
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.mul_(0.5)
    examples = examples_factory(6)
    (batch,) = micro_batches(examples, Packing(layout="packed", tokens=1000, row_tokens=100))
    modules = [module_factory(objective, policy, reference=reference).eval() for objective in ("dpo", "cdpo")]  # beta and epsilon are 0.1
    with torch.no_grad():
        dpo, cdpo = (losses_of(module, batch).mean() for module in modules)

    trainer = whole_trainer((policy, reference), examples, tokenizer_factory(), tmp_path, monkeypatch, beta=0.1, label_smoothing=0.1)
    inputs = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        theirs = trainer.compute_loss(trainer.model, inputs)
    torch.testing.assert_close(theirs, dpo, rtol=1e-5, atol=0)
    assert abs(theirs - cdpo) > 1e-3


def test_a_moving_reference_moves_like_that_of_trl(lm_factory: Callable[..., PreTrainedModel]) -> None:
    """TR-DPO: `sync_ref_model` with `ref_model_mixup_alpha`, every `ref_model_sync_steps`."""
    from trl import SyncRefModelCallback

    policy, start = lm_factory("gpt2"), lm_factory("gpt2")
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.5)
    theirs = lm_factory("gpt2")
    SyncRefModelCallback._sync_target_model(policy, theirs, 0.6)

    ours = MovingReference(Backbone(start), mix=0.6, every=4)
    assert not ours.after_step(3, Backbone(policy))
    assert ours.after_step(4, Backbone(policy))
    for mine, other in zip(ours.backbone.lm.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)
