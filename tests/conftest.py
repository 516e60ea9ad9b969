"""Real models at toy size, one of each architecture that the packed layout is proved for."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import huggingface_hub
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from alignkit.batches import Layout, PackedBatch
from alignkit.caches.filling import Filler, Quantity
from alignkit.caches.store import Store
from alignkit.data.collate import micro_batches
from alignkit.data.examples import EncodedExample
from alignkit.data.packing import Packing
from alignkit.loss_settings import HeadSettings
from alignkit.models.backbone import Backbone
from alignkit.models.freezing import freeze
from alignkit.models.heads import Heads
from alignkit.models.reference import LiveReference, frozen_copy
from alignkit.optimizer_settings import AdamWSettings, OptimizerSettings, ScheduleSettings

sys.path.append(str(Path(__file__).parent / "end_to_end"))  # tests are imported by their paths; what they share is a module of a folder

from commands import Commands, serving

if TYPE_CHECKING:  # lightning takes seconds to import; most tests do without
    from lightning import Trainer

    from alignkit.modules.alignment import AlignmentModule
    from alignkit.modules.term import Term

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # for processes that tests start
huggingface_hub.constants.HF_HUB_OFFLINE = True  # for this one, which has read the variable already
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for processes that tests start: see the threads of this one
os.environ["ALIGNKIT_CACHE"] = tempfile.mkdtemp(prefix="alignkit-tests-")  # for processes that tests start, too: nobody's own is touched
atexit.register(shutil.rmtree, os.environ["ALIGNKIT_CACHE"], ignore_errors=True)
torch.set_num_threads(1)  # toy tensors: a second thread costs more than it computes, tenfold where cores are shared


def pytest_collection_finish() -> None:
    """Leave what is imported by now, millions of objects, out of every later collection of garbage; runs collect several times each."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """Runs alignkit's commands in processes of their own, for all tests of a worker."""
    with serving(tmp_path_factory.mktemp("commands")) as served:
        yield served


VOCABULARY = 97
LLAMA_LIKE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "head_dim": 8,
}
ARCHITECTURES = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "llama": LLAMA_LIKE,
    "qwen2": LLAMA_LIKE,
    "gpt_neox": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
    },
    "gemma": LLAMA_LIKE,
    "opt": {
        "hidden_size": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "word_embed_proj_dim": 32,
        "dropout": 0.1,
    },
}
ROWS_ONLY = {
    "mistral": {**LLAMA_LIKE, "sliding_window": 8},
    "gemma3_text": {**LLAMA_LIKE, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
}
"""Sliding windows, ALiBi, recurrent layers: what no mask of ours can reach."""


def build_lm(name: str, *, dtype: torch.dtype = torch.float32, **changes: object) -> PreTrainedModel:
    """A causal LM with random weights large enough that attention is far from uniform."""
    settings = {**ARCHITECTURES, **ROWS_ONLY}[name]
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=2, pad_token_id=0, **{**settings, **changes})
    lm = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in lm.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
    return lm.to(dtype)


def build_examples(count: int, *, completions: int = 2, seed: int = 0, shortest: int = 1, longest: int = 9) -> list[EncodedExample]:
    """Random examples with prompts and completions of 1 to 9 tokens."""
    generator = torch.Generator().manual_seed(seed)

    def ids() -> tuple[int, ...]:
        length = int(torch.randint(shortest, longest + 1, (1,), generator=generator))
        return tuple(torch.randint(3, VOCABULARY, (length,), generator=generator).tolist())

    return [
        EncodedExample(key=key, prompt_ids=ids(), completion_ids=tuple((*ids(), 2) for _ in range(completions))) for key in range(count)
    ]


@pytest.fixture(params=sorted(ARCHITECTURES))
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def lm_factory():
    return build_lm


@pytest.fixture(scope="session")
def examples_factory():
    return build_examples


OBJECTIVES = ("sft", "bradley_terry", "dpo", "cdpo", "ipo", "ipo_avg", "con_dph", "sep_dph", "joint_con_dph", "joint_sep_dph")
"""Every objective; `joint_` has cDPO beside the head's loss."""
ADAMW = AdamWSettings(
    name="adamw",
    lr=1e-2,
    weight_decay=0.0,
    decay_towards="init",
    decay_exclude=[],
    head_lr_multiplier=1.0,
    head_weight_decay=0.0,
    clip_norm=1.0,
    beta1=0.9,
    beta2=0.999,
    eps=1e-8,
)


def build_module(
    objective: str | Sequence[Term[Any]],
    lm: PreTrainedModel,
    *,
    reference: PreTrainedModel | None = None,
    steps: int = 4,
    log_every: int = 1,
    frozen_trunk: bool = False,
    optimizer: OptimizerSettings = ADAMW,
    dropout: float = 0.0,
) -> AlignmentModule:
    """The module of one of `OBJECTIVES`, or of terms, whose heads are called `dph`; the reference, where it needs one, is a frozen copy
    unless another model is given."""
    from alignkit.losses.bradley_terry import BradleyTerry
    from alignkit.losses.cdpo import CDPO
    from alignkit.losses.con_dph import ConDPH
    from alignkit.losses.dpo import DPO
    from alignkit.losses.ipo import IPO
    from alignkit.losses.ipo_avg import IPOAvg
    from alignkit.losses.sep_dph import SepDPH
    from alignkit.losses.sft import SFT
    from alignkit.modules.alignment import AlignmentModule
    from alignkit.modules.forward import Parts
    from alignkit.modules.objective import Objective
    from alignkit.modules.recipe import Recipe
    from alignkit.modules.term import Place
    from alignkit.modules.term_kinds import build_term, reads_head

    head = HeadSettings(name="dph", pooler="identity", dropout=dropout, init_std=0.5)
    losses = {
        "sft": SFT(),
        "bradley_terry": BradleyTerry(use_margin=False, centering=0.01),
        "dpo": DPO(beta=0.1),
        "cdpo": CDPO(beta=0.1, epsilon=0.1),
        "ipo": IPO(beta=0.1),
        "ipo_avg": IPOAvg(beta=0.1),
        "con_dph": ConDPH(epsilon=0.1),
        "sep_dph": SepDPH(epsilon=0.1),
    }
    terms = objective
    if isinstance(objective, str):
        joint, loss = objective.startswith("joint_"), losses[objective.removeprefix("joint_")]
        terms = [build_term(loss, Place(name="head" if joint else objective, head="dph" if reads_head(type(loss)) else None))]
        if joint:
            terms.append(build_term(CDPO(beta=0.1, epsilon=0.2), Place(name="dpo", weight=0.5)))
    whole = Objective(terms)
    with_head = any(reads_head(type(term.loss)) for term in terms)
    backbone = Backbone(lm)
    frozen = LiveReference(frozen_copy(backbone) if reference is None else Backbone(reference)) if whole.needs_reference else None
    if frozen_trunk:
        freeze(backbone)
    torch.manual_seed(0)
    heads = Heads(backbone.hidden_width, {"dph": head} if with_head else {}).to(lm.dtype)
    schedule = ScheduleSettings(name="constant", warmup_steps=0, final_ratio=1.0)
    recipe = Recipe(optimizer=optimizer, schedule=schedule, steps=steps, log_every=log_every)
    return AlignmentModule(parts=Parts(backbone=backbone, heads=heads, reference=frozen), recipe=recipe, objective=whole)


def fit_module(
    module: AlignmentModule,
    examples: Sequence[EncodedExample],
    *,
    validation: Sequence[EncodedExample] = (),
    pairs: int = 4,
    layout: str = "packed",
    tokens: int = 1000,
    validate_every: int | None = None,
    callbacks: Sequence[Any] = (),
    logger: Any = False,
    precision: Any = "32-true",
) -> Trainer:
    """A real `Trainer.fit` over all steps of the module's recipe, on the CPU, that writes nothing."""
    from lightning import Trainer

    from alignkit.modules.datamodule import PreferenceDataModule

    steps = module.recipe.steps
    packing = Packing(layout=layout, tokens=tokens, row_tokens=100)
    data = PreferenceDataModule(train=examples, validation=validation or examples[:2], pairs=pairs, packing=packing, steps=steps, seed=0)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        precision=precision,
        max_epochs=1,
        max_steps=steps,
        limit_val_batches=None if validation else 0,
        val_check_interval=validate_every or steps,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        inference_mode=False,
        logger=logger,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data)
    return trainer


def ask(quantity: Quantity, backbone: Backbone, examples: Sequence[EncodedExample], *, layout: Layout = "packed") -> Mapping[int, Tensor]:
    """What a model says of each example, by key, as it is computed for a cache; in batches of its own."""

    def batches(some: Sequence[EncodedExample]) -> list[PackedBatch]:
        return micro_batches(some, Packing(layout=layout, tokens=150, row_tokens=50))

    @contextmanager
    def no_bar(tokens: int) -> Iterator[Callable[[int], None]]:
        yield lambda done: None

    filler = Filler(quantity=quantity, backbone=backbone, batches=batches, progress=no_bar)
    with tempfile.TemporaryDirectory() as folder:
        return filler.fill(Store(Path(folder), {}, print), examples, "waiting").values


def build_tokenizer(words: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Token n is the word `w<n>`; 0 pads, 1 begins, 2 ends."""
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{n}": n for n in range(3, words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w3"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


@pytest.fixture(params=OBJECTIVES)
def objective(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def module_factory() -> Callable[..., AlignmentModule]:
    return build_module


def losses_of_batch(module: AlignmentModule, batch: PackedBatch) -> Tensor:
    """The losses of the objective, example by example (tokens for sft): its terms are all counted in the same unit here."""
    evaluation = module.evaluate(batch)
    return sum(evaluation.weights[name] * output.losses for name, output in evaluation.outputs.items())


@pytest.fixture(scope="session")
def losses_of() -> Callable[..., Tensor]:
    return losses_of_batch


@pytest.fixture(scope="session")
def adamw() -> AdamWSettings:
    return ADAMW


@pytest.fixture(scope="session")
def fit() -> Callable[..., Trainer]:
    return fit_module


@pytest.fixture(scope="session")
def asked() -> Callable[..., Mapping[int, Tensor]]:
    return ask


@pytest.fixture(scope="session")
def tokenizer_factory() -> Callable[..., PreTrainedTokenizerFast]:
    return build_tokenizer


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real models and data beside the checkout."""
    folder = Path(os.environ.get("ALIGNKIT_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no real data at {folder}; set ALIGNKIT_SHARED")
    return folder
