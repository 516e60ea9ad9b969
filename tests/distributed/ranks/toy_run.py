"""A run of several processes, or of one, with everything that a checkpoint has to keep: cut weights, whole heads, a frozen reference that
is not kept, an optimizer that decays towards the first weights, a schedule."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from conftest import ADAMW, build_examples, build_lm
from lightning import LightningModule, Trainer
from lightning.fabric.plugins.environments import TorchElasticEnvironment
from torch import Tensor, nn
from torch.utils.data import DataLoader

from alignkit.callbacks.checkpoint_files import CheckpointFiles
from alignkit.callbacks.sharded_checkpoints import ShardedStrategy
from alignkit.data.collate import collate
from alignkit.models.backbone import Backbone
from alignkit.models.reference import LiveReference, frozen_copy
from alignkit.models.sharding import shard
from alignkit.models.tensor_parallel import cut_products
from alignkit.modules.gradients import average_gradients
from alignkit.optim import build_optimizer
from alignkit.run_dir import RunDir

PROCESSES = 2
SHARES = [collate([build_examples(8)[rank::PROCESSES]], "packed") for rank in range(PROCESSES)]


class Toy(LightningModule):
    """Learns to tell its completions from those of the reference."""

    automatic_optimization = False

    def __init__(self, tensor_parallel: bool) -> None:
        super().__init__()
        self.backbone = Backbone(build_lm("llama"))
        self.reference = LiveReference(frozen_copy(self.backbone))
        torch.manual_seed(0)
        self.heads = nn.Linear(self.backbone.hidden_width, 1)
        self.tensor_parallel = tensor_parallel
        self.losses: list[float] = []

    def configure_model(self) -> None:
        if self._device_mesh is not None:
            for backbone in (self.backbone, self.reference.backbone):
                cut_products(backbone, self._device_mesh["tensor_parallel"])
                shard(backbone, self._device_mesh["data_parallel"], precision="32-true")

    def loss_on(self, share: int) -> Tensor:
        batch = SHARES[share]
        hidden = self.backbone.hidden_states(batch)
        gain = self.backbone.token_scores(hidden, batch).logps - self.reference.token_logps(batch)
        loss: Tensor = -gain.sigmoid().mean() + self.heads(hidden[batch.terminal_index]).square().mean()
        return loss

    def training_step(self, batch: Any, index: int) -> None:
        one_share = self._device_mesh is not None and not self.tensor_parallel
        shares = [self.global_rank] if one_share else range(PROCESSES)
        loss = sum((self.loss_on(share) for share in shares), torch.zeros(())) / len(shares)
        self.manual_backward(loss)
        if one_share:
            average_gradients(list(self.heads.parameters()), self._device_mesh["data_parallel"].get_group())
        optimizer = self.optimizers()
        optimizer.step()
        optimizer.zero_grad()
        self.lr_schedulers().step()
        total = loss.detach()
        if one_share:
            torch.distributed.all_reduce(total)
            total /= PROCESSES
        self.losses.append(float(total))

    def configure_optimizers(self) -> Any:
        settings = replace(ADAMW, weight_decay=0.1)
        trunk = dict(self.backbone.named_parameters())
        optimizer = build_optimizer(settings, trunk=trunk, heads=self.heads.parameters())
        if self.tensor_parallel:  # what is cut and what is not cannot be updated in one call
            for group in optimizer.param_groups:
                group["fused"] = False
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = {name: value for name, value in checkpoint["state_dict"].items() if not name.startswith("reference.")}
        checkpoint["noted"] = {"steps": len(self.losses)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] |= {name: value for name, value in self.state_dict().items() if name.startswith("reference.")}
        assert checkpoint["noted"]["steps"] > 0


def run(folder: Path, kind: str, steps: int, checkpoint: Path | None) -> list[float]:
    """Train to step `steps`, from a checkpoint or from the start, and leave one in `folder`; losses of the steps done.

    `kind`: `fsdp`, `tensor`, or `one`, where each process runs all of it.
    """
    strategy: Any = "auto"
    if kind != "one":
        sizes = {"fsdp": (PROCESSES, 1), "tensor": (1, PROCESSES)}[kind]
        strategy = ShardedStrategy(data_parallel_size=sizes[0], tensor_parallel_size=sizes[1])
        strategy.cluster_environment = TorchElasticEnvironment()
    module = Toy(kind == "tensor")
    trainer = Trainer(
        accelerator="cpu",
        strategy=strategy,
        devices=1 if kind == "one" else PROCESSES,
        max_steps=steps,
        max_epochs=-1,
        plugins=[CheckpointFiles(RunDir(folder), print)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )
    trainer.fit(module, DataLoader(range(100)), ckpt_path=checkpoint, weights_only=checkpoint is not None or None)
    alone = kind == "one" and torch.distributed.get_rank() > 0  # each process is the only one of its own run
    trainer.save_checkpoint((folder / "of_another" if alone else folder) / "last.ckpt")
    return module.losses
