"""Samples from a vLLM engine that is given the weights of the policy before each call."""

from __future__ import annotations

import importlib
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import torch
from transformers import PreTrainedTokenizerBase

from alignkit.models.backbone import Backbone
from alignkit.models.export import save_model
from alignkit.sampling.sampler import Sample

MEMORY_SHARE = 0.3
"""Of the GPU, which the policy is trained on too: what vLLM's weights, keys and values may take."""


@final
class VLLMSampler:
    """Draws completions with an engine of its own, in a process of its own, for models whose sampling is most of an update.

    The first call starts the engine on a folder that holds the policy as any run would export it; each later one writes the folder
    again and has the engine read it, and forget keys and values of prompts under the old weights. A file in between works across
    processes and for every model that vLLM loads, adapters included, which are merged.

    Log-probs are those of softmax(logits / temperature), which `processed_logprobs` stands for (vLLM 0.10.2 and later); by default vLLM
    reports them before the temperature. They differ from those of the trunk by another order of rounding, so that tokens get importance
    weights. What the engine draws is a function of weights, prompts and seed as far as its kernels are.
    """

    def __init__(
        self,
        backbone: Backbone,
        tokenizer: PreTrainedTokenizerBase,
        *,
        terminator: int,
        max_tokens: int,
        temperature: float,
        positions: int,
        dtype: str,
    ) -> None:
        """
        Args:
            backbone: the policy.
            tokenizer: goes into the folder; prompts and completions stay token ids.
            terminator: ends a completion, which it belongs to.
            max_tokens: of the longest completion.
            temperature: of the policy, above 0.
            positions: of the longest prompt with the longest completion.
            dtype: `float32` or `bfloat16`, what the trunk's products run in.
        """
        self._backbone = backbone
        self._tokenizer = tokenizer
        self._terminator = terminator
        self._max_tokens = max_tokens
        self._temperature = temperature
        self._options = {"max_model_len": positions, "dtype": dtype, "gpu_memory_utilization": MEMORY_SHARE}
        self._vllm: Any = importlib.import_module("vllm")
        self._engine: Any = None
        self._folder = Path(tempfile.mkdtemp(prefix="alignkit-vllm-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def __call__(
        self, prompts: Sequence[Sequence[int]], *, samples: int, seed: int, only: Sequence[int] | None = None
    ) -> list[list[Sample]]:
        self._hand_over()
        # One seed for all would draw the same numbers for each prompt; the samples of a prompt get consecutive ones.
        seeds = torch.randint(2**62, (len(prompts),), generator=torch.Generator().manual_seed(seed)).tolist()
        if only is not None:
            prompts, seeds = [prompts[place] for place in only], [seeds[place] for place in only]
        answers = self._engine.generate(
            [{"prompt_token_ids": list(prompt)} for prompt in prompts],
            [self._parameters(samples, own) for own in seeds],
            use_tqdm=False,
        )
        return [[sample_of(output) for output in answer.outputs] for answer in answers]

    def _hand_over(self) -> None:
        """Give the engine the weights as they are now."""
        save_model(self._folder, self._backbone, self._tokenizer)
        if self._engine is None:
            self._engine = self._vllm.LLM(model=str(self._folder), logprobs_mode="processed_logprobs", **self._options)
            return
        self._engine.collective_rpc("reload_weights")
        self._engine.reset_prefix_cache()

    def _parameters(self, samples: int, seed: int) -> Any:
        return self._vllm.SamplingParams(
            n=samples,
            temperature=self._temperature,
            max_tokens=self._max_tokens,
            stop_token_ids=[self._terminator],
            ignore_eos=True,  # of the model's configuration, which may name other tokens
            logprobs=0,  # of the chosen token alone
            detokenize=False,
            seed=seed,
        )


def sample_of(output: Any) -> Sample:
    """A completion of vLLM as ours."""
    ids = tuple(output.token_ids)
    return Sample(ids=ids, logps=tuple(entry[token].logprob for token, entry in zip(ids, output.logprobs, strict=True)))
