"""A model's folder is data: its code is not run, nobody is asked, and what it says beside what a model is has no effect or is refused."""

from __future__ import annotations

import json
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from alignkit.data.encoding import Encoder
from alignkit.data.examples import Message, PreferenceExample
from alignkit.errors import UserError
from alignkit.models.chat_templates import check_templates
from alignkit.models.foreign_model import repeats_repeats
from alignkit.models.loading import load_config, load_lm, load_tokenizer

MODULE = """
import pathlib
pathlib.Path({mark!r}).touch()
from transformers import GPT2Config as Config, GPT2LMHeadModel as Model, PreTrainedTokenizerFast as Tokenizer
"""


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def loaded(folder: Path) -> None:
    """Everything that any command loads of a model."""
    load_config("model.path", str(folder))
    load_tokenizer("model.path", str(folder))
    load_lm("model.path", str(folder), torch.float32)


@pytest.fixture
def no_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*words: object) -> str:
        raise AssertionError(f"somebody was asked: {words}")

    monkeypatch.setattr("builtins.input", asked)


def test_code_beside_a_model_that_is_known_is_left_alone(model_folder: Path, mark: Path, no_questions: None) -> None:
    (model_folder / "evil.py").write_text(MODULE.format(mark=str(mark)))
    edit(model_folder / "config.json", auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"})
    edit(model_folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"]})
    (model_folder / "custom_generate").mkdir()
    (model_folder / "custom_generate" / "generate.py").write_text(MODULE.format(mark=str(mark)))
    loaded(model_folder)


def test_a_model_that_needs_its_own_code_is_refused(model_folder: Path, mark: Path, no_questions: None) -> None:
    (model_folder / "evil.py").write_text(MODULE.format(mark=str(mark)))
    edit(model_folder / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"})
    with pytest.raises(UserError, match=r"needs code from its own folder \(evil.Config\), which alignkit does not run"):
        load_config("model.path", str(model_folder))
    with pytest.raises(UserError):
        load_lm("model.path", str(model_folder), torch.float32)


def test_a_command_refuses_it_without_a_question(
    model_folder: Path, mark: Path, alone: Callable[..., Any], commands: Any, tmp_path: Path
) -> None:
    (model_folder / "evil.py").write_text(MODULE.format(mark=str(mark)))
    edit(model_folder / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.Config"})
    for command in ("alignkit.train", "alignkit.audit", "alignkit.plan"):
        assert commands(f"model.path={model_folder}", command=command, log=tmp_path / "log.txt") == 2
    told = (tmp_path / "log.txt").read_text()
    assert told.count("needs code from its own folder") == 3
    assert "Traceback" not in told


@pytest.mark.parametrize(
    "key",
    [
        "attn_implementation",
        "_attn_implementation",
        "_attn_implementation_internal",
        "_experts_implementation",
        "experts_implementation",
        "_experts_implementation_internal",
    ],
)
@pytest.mark.parametrize("value", ["evil/kernel", "evil/kernel:main", "kernels-community/x", {"": "evil/kernel"}, ["evil/kernel"]], ids=str)
def test_kernels_of_the_hub_are_not_fetched_because_a_file_says_so(key: str, value: object, model_folder: Path) -> None:
    for changes in ({key: value}, {"text_config": {key: value}}):
        edit(model_folder / "config.json", **changes)
        for load in (load_config, lambda where, path: load_lm(where, path, torch.float32)):
            with pytest.raises(UserError, match=f"sets {key}, which may fetch and run code"):
                load("model.path", str(model_folder))


def test_settings_of_generation_fetch_no_code(model_folder: Path) -> None:
    edit(model_folder / "generation_config.json", penalty_alpha=0.6, top_k=4, custom_generate="evil/generate", dola_layers="high")
    lm = load_lm("model.path", str(model_folder), torch.float32)
    assert lm.generate(torch.tensor([[5, 6]]), max_new_tokens=2, do_sample=False).shape[0] == 1


@pytest.fixture
def adapter(model_folder: Path, tmp_path: Path) -> Path:
    from peft import LoraConfig, get_peft_model

    with warnings.catch_warnings(action="ignore"):  # of peft's, about transformers
        lora = get_peft_model(load_lm("model", str(model_folder), torch.float32), LoraConfig(r=2, target_modules=["q_proj"]))  # type: ignore[arg-type]
    lora.save_pretrained(tmp_path / "adapter")
    edit(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path=str(model_folder))
    return tmp_path / "adapter"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"peft_type": "PROMPT_TUNING", "prompt_tuning_init": "TEXT", "tokenizer_kwargs": {"trust_remote_code": True}},
            "no change of weights",
        ),
        ({"peft_type": "XLORA", "adapters": {"0": "/elsewhere"}}, "no change of weights"),
        ({"peft_type": ["LORA"]}, "no change of weights"),
        ({"megatron_config": {"x": 1}, "megatron_core": "antigravity"}, "imports a module"),
        ({"target_modules": "(a+)+$"}, "may search for ever"),
        ({"target_modules": ".*.*.*.*.*.*x"}, "may search for ever"),
        ({"base_model_name_or_path": "/no/such/folder"}, "base model is not there"),
        ({"base_model_name_or_path": ["x"]}, "names no base model"),
    ],
)
def test_an_adapter_is_a_change_of_weights_and_no_more(changes: dict[str, Any], words: str, adapter: Path) -> None:
    edit(adapter / "adapter_config.json", **changes)
    with pytest.raises(UserError, match=words):
        load_lm("model.path", str(adapter), torch.float32)


def test_a_plain_adapter_is_taken(adapter: Path) -> None:
    edit(adapter / "adapter_config.json", auto_mapping={"base_model_class": "system", "parent_library": "os"})
    assert load_lm("model.path", str(adapter), torch.float32).num_parameters() > 0


def test_an_adapter_that_is_a_pickle_is_refused(adapter: Path, mark: Path, evil_checkpoint: Path) -> None:
    (adapter / "adapter_model.safetensors").unlink()
    shutil.copy(evil_checkpoint, adapter / "adapter_model.bin")
    with pytest.raises(UserError, match=r"holds no adapter_model\.safetensors"):
        load_lm("model.path", str(adapter), torch.float32)


def test_patterns_of_modules_in_use_are_no_danger() -> None:
    for pattern in (
        r".*\.(q|v)_proj",
        r"model\.layers\.\d+\.self_attn\.(q|k|v|o)_proj",
        r".*decoder.*(SelfAttention|EncDecAttention).*(q|v)$",
    ):
        assert not repeats_repeats(pattern)


ESCAPES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('touch MARK') }}",
    "{{ self._TemplateReference__context.environment.globals }}{{ lipsum.__globals__['os'].popen('touch MARK') }}",
    "{{ joiner.__init__.__globals__ }}",
    "{{ messages.append({'role': 'system', 'content': 'x'}) }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "{% set s = '{0.__class__.__mro__}' %}{{ s.format(raise_exception) }}",
)
BOMBS = (
    "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
    "{{ 'a' * 10**11 }}",
    "{% set ns = namespace(s='a') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
    "{{ 'x'|center(99999999999) }}",
    "{{ [1] * 10**9 }}",
    "{{ 10 ** (10 ** 10) }}",
    "{{ 'x' * 2000000 }}",
)


@pytest.mark.parametrize("template", ESCAPES)
def test_templates_do_not_reach_python(template: str, mark: Path) -> None:
    with pytest.raises(UserError, match="its chat template reaches for what no template may"):
        check_templates("model.path = 'x'", template.replace("MARK", str(mark)), {})


@pytest.mark.parametrize("template", BOMBS)
def test_templates_that_take_everything_are_refused_soon(template: str) -> None:
    started = time.process_time()
    with pytest.raises(UserError, match=r"its chat template 'other' (takes|writes) "):
        check_templates("model.path = 'x'", {"default": "{{ messages[0].content }}", "other": template}, {})
    assert time.process_time() - started < 2  # of this process; the other one has two seconds of its own


def test_templates_in_use_pass(tokenizer_factory: Callable[..., Any]) -> None:
    chatml = (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )
    strict = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turns') }}{% endif %}{{ bos_token }}{{ messages|tojson }}"
    marked = (
        "{% for m in messages %}{% generation %}{{ m.content|trim }}{% endgeneration %}{% if loop.last %}{% break %}{% endif %}{% endfor %}"
    )
    check_templates("x", {"a": chatml, "b": strict, "c": marked, "d": "{{ strftime_now('%Y') }}"}, {"bos_token": "<s>"})


def test_a_template_that_waits_for_its_word_is_stopped(tokenizer_factory: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignkit.models.chat_templates.RENDER_SECONDS", 0.3)
    tokenizer = tokenizer_factory()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}</s>{% if 'w7' in m.content %}{% for a in range(99999) %}{% for b in range(99999) %}"
        "{% endfor %}{% endfor %}{% endif %}{% endfor %}"
    )
    check_templates("x", tokenizer.chat_template, {})
    encoder = Encoder(tokenizer, format="chat", max_length=50, overflow="drop")
    example = PreferenceExample(prompt=(Message(role="user", content="w7"),), completions=("w8", "w9"))
    with pytest.raises(UserError, match=r"takes more than 0\.3 seconds for one dialogue"):
        encoder.encode(0, example)


def test_a_command_meets_no_template_before_it_is_known(model_folder: Path, mark: Path, commands: Any, tmp_path: Path) -> None:
    edit(model_folder / "tokenizer_config.json", chat_template=ESCAPES[1].replace("MARK", str(mark)))
    assert commands(f"model.path={model_folder}", "dataset.format=chat", command="alignkit.audit", log=tmp_path / "log.txt") == 2
    assert "its chat template reaches for what no template may" in (tmp_path / "log.txt").read_text()
