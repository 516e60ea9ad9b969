"""One causal language model, computed on packed batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Self, final

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.attention.flex_attention import BlockMask
from torch.utils.checkpoint import checkpoint
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from alignkit.batches import Layout, PackedBatch
from alignkit.errors import UserError
from alignkit.logps import TokenScores, token_divergences, token_entropies, token_scores
from alignkit.models.attention import additive_mask, why_not_packed
from alignkit.models.flex_attention import block_mask
from alignkit.models.packed_attention import Attention, use_attention
from alignkit.models.tiled_attention import tile_table

Vocabulary = tuple[Tensor, Tensor, Tensor | None]
"""States [N, D], the output embedding [V, D] that reads them, its bias [V]."""


@final
class Backbone(nn.Module):
    """Holds one causal language model by composition: hidden states of a batch, and log-probs of its completions.

    The language model stays in evaluation mode while it is trained: policy and reference must be one function, and dropout
    would make their ratio noise from the first step on. Mode, not `p = 0`, because some models (OPT) call dropout as a
    function with a rate of their own.
    """

    def __init__(self, lm: PreTrainedModel) -> None:
        super().__init__()
        self.lm = lm
        self.lm.eval()
        self.attention: Attention = "dense"
        """How packed rows attend."""
        self.adds_gradients = False
        """Whether the vocabulary part adds its gradient to what is there: see `adding_gradients`."""
        self.conversion: Callable[[Tensor], Tensor] | None = None
        """Where conversions of weights are kept, what products read of a weight: see `conversions_kept`."""
        if self.lm.get_output_embeddings() is None:
            raise UserError(f"model.path = {lm.name_or_path!r}: a {type(lm).__name__} has no output embedding; a causal LM is needed.")

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.lm.eval()
        return self

    @property
    def decoder(self) -> nn.Module:
        """The language model without its output embedding."""
        return self.lm.base_model

    @property
    def hidden_width(self) -> int:
        """D: width of the hidden state that the vocabulary and the heads read."""
        weight = self.lm.get_output_embeddings().weight
        assert isinstance(weight, Tensor)
        return weight.shape[1]

    def why_not_packed(self) -> str | None:
        """Why this model needs `layout=rows`, or None."""
        return why_not_packed(self.decoder, self.lm.config)

    def layout(self, wanted: str) -> Layout:
        """`packed` where it is wanted and possible, else `rows`."""
        return "packed" if wanted == "packed" and self.why_not_packed() is None else "rows"

    def use_attention(self, wanted: str, device: str) -> Self:
        """Attend in packed rows as `wanted` (`auto`, `tiles`, `flex`, `dense`) on `device` (`cpu`, `cuda`).

        Raises:
            UserError: when the model or the device cannot.
        """
        self.attention = use_attention(self.lm, wanted, device)
        return self

    def layers(self) -> list[nn.Module]:
        """The layers of the trunk, each a function of a hidden state."""
        return [module for module in self.lm.modules() if isinstance(module, GradientCheckpointingLayer)]

    def checkpoint_activations(self) -> Self:
        """Keep only each layer's input for the backward pass, which computes the layer again.

        Not by `lm.gradient_checkpointing_enable()`: that works in training mode only, where dropout is on.

        Raises:
            UserError: when the model's layers cannot be told apart.
        """
        if not self.layers():
            kind = type(self.lm).__name__
            raise UserError(f"model.checkpointing = 'full': the layers of a {kind} are not known. Type model.checkpointing=off.")
        for layer in self.layers():
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
        return self

    def compile_layers(self, backend: str = "inductor") -> Self:
        """Compile each layer for sequences of any length; equal layers share the compiled code."""
        for layer in self.layers():
            layer.compile(dynamic=True, backend=backend)
        return self

    def run(self, batch: PackedBatch, **options: Any) -> Any:
        """What the decoder puts out for a batch, in transformers' words; `options` are the decoder's own."""
        if batch.layout == "packed":
            mask = self._mask(batch)
            return self.decoder(input_ids=batch.input_ids, attention_mask=mask, position_ids=batch.position_ids, use_cache=False, **options)
        # Rows start at position 0 and are padded on the right, which is what every model assumes by itself.
        padding = (batch.example_ids >= 0).to(torch.int64)
        return self.decoder(input_ids=batch.input_ids, attention_mask=padding, use_cache=False, **options)

    def hidden_states(self, batch: PackedBatch) -> Tensor:
        """[R * T, D], after the final norm: what the output embedding and the heads read."""
        hidden: Tensor = self.run(batch).last_hidden_state
        return hidden.flatten(0, 1)

    def hidden_layers(self, batch: PackedBatch, layers: Sequence[int]) -> list[Tensor]:
        """[R * T, D] of each of `layers`, in one pass: 0 is the embeddings, k what block k puts out, and the last, -1, the state after
        the final norm, which is that of `hidden_states`. Where a model counts otherwise (recurrent ones may), as it counts itself.

        Raises:
            UserError: for a layer that the model does not have, or one of another width.
        """
        check_layers(layers, self.lm.config)
        if set(layers) == {-1}:
            return [self.hidden_states(batch)] * len(layers)
        # A list, so that only these are kept where nothing else needs them.
        output = self.run(batch, output_hidden_states=sorted(set(layers)))
        states = [output.hidden_states[layer].flatten(0, 1) for layer in layers]
        for layer, state in zip(layers, states, strict=True):
            if state.shape[1] != self.hidden_width:
                raise UserError(
                    f"loss.head.layers: layer {layer} of this model is {state.shape[1]} wide, its output embedding reads "
                    f"{self.hidden_width}. Type loss.head.layers=[-1]."
                )
        return states

    def token_scores(self, hidden: Tensor, batch: PackedBatch, *, temperature: float = 1.0) -> TokenScores:
        """Log-probs [N] of the batch's completion tokens under softmax(logits / temperature); `hidden` [R * T, D] comes from
        `hidden_states`."""
        states, weight, bias = self.vocabulary(hidden, batch, temperature=temperature)
        converted = None if self.conversion is None else self.conversion(weight).detach()
        gradient = self._gradient_of(weight)
        return token_scores(states, weight, bias, batch.target_ids, gradient=gradient, converted=converted)

    def token_entropies(self, hidden: Tensor, batch: PackedBatch, *, temperature: float = 1.0) -> Tensor:
        """Entropies [N], nats, of what the batch's completion tokens were drawn from."""
        return token_entropies(*self.vocabulary(hidden, batch, temperature=temperature))

    def token_divergences(
        self, hidden: Tensor, batch: PackedBatch, reference: Vocabulary, divergence: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """[N] nats between this model's distributions and those of a reference, given as its `vocabulary` of the same batch."""
        return token_divergences(*self.vocabulary(hidden, batch), *reference, divergence)

    def vocabulary(self, hidden: Tensor, batch: PackedBatch, *, temperature: float = 1.0) -> Vocabulary:
        """The states [N, D] that predict the batch's completion tokens, and the output embedding [V, D] with its bias [V] that reads
        them; whole, where the weights are cut between processes."""
        head = self.lm.get_output_embeddings()
        states, bias = hidden.index_select(0, batch.predictor_index), getattr(head, "bias", None)
        if temperature != 1.0:  # logits are linear in both
            states, bias = states / temperature, None if bias is None else bias / temperature
        return states, _whole(head.weight), None if bias is None else _whole(bias)

    @contextmanager
    def converting(self, conversion: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """Let the vocabulary part read kept conversions of its weights, as all other products do."""
        self.conversion = conversion
        try:
            yield
        finally:
            self.conversion = None

    @contextmanager
    def adding_gradients(self) -> Iterator[None]:
        """Let each backward pass add the gradient of the output embedding to the one that is there, instead of holding a second matrix
        until an input embedding that is tied to it has its own. For `backward()` alone, and where nobody waits for that gradient, as
        DDP does."""
        self.adds_gradients = True
        try:
            yield
        finally:
            self.adds_gradients = False

    def _gradient_of(self, weight: Tensor) -> Tensor | None:
        there = self.adds_gradients and torch.is_grad_enabled() and weight.is_leaf and weight.requires_grad
        return weight.grad if there and weight.dtype is torch.float32 else None

    def next_token_logits(self, states: Tensor) -> Tensor:
        """[B, V] of hidden states [B, D], as the model itself computes them."""
        logits: Tensor = self.lm.get_output_embeddings()(states)
        return logits

    def _mask(self, batch: PackedBatch) -> Tensor | BlockMask:
        match self.attention:
            case "tiles":
                return tile_table(batch)
            case "flex":
                return block_mask(batch)
            case "dense":
                return additive_mask(batch, self._activation_dtype(batch.input_ids.device.type))

    def _activation_dtype(self, device: str) -> torch.dtype:
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.lm.dtype


def _whole(weight: Tensor) -> Tensor:
    whole: Tensor = weight.full_tensor() if isinstance(weight, DTensor) else weight
    return whole


def check_layers(layers: Sequence[int], config: PretrainedConfig) -> None:
    """Refuse layers that a model of this configuration does not have.

    Raises:
        UserError: naming the layer.
    """
    blocks: int = config.get_text_config().num_hidden_layers
    for layer in layers:
        if not -blocks - 1 <= layer <= blocks:
            raise UserError(
                f"loss.head.layers = {list(layers)}: the model has no layer {layer}; 0 is its embeddings, 1 to {blocks} are its blocks, "
                "-1 is the state after the final norm. Try loss.head.layers=[-1]."
            )
