import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from alignkit.errors import UserError
from alignkit.lab import tiny
from alignkit.lab.reviews import ReviewsWorld
from alignkit.lab.tiny import main, write_blank_model

SHIPPED = Path(tiny.__file__).parent / "pretrained" / "tiny"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("tiny")
    write_blank_model(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def test_the_folder_loads_as_a_llama_of_1_4_million_float32_parameters(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    assert isinstance(model, LlamaForCausalLM)
    assert model.dtype == torch.float32
    # Embedding 1024 * 160; a layer 4 * 160 * 160 + 3 * 160 * 448 + 2 * 160; a last norm of 160. The output layer is the embedding.
    assert sum(parameter.numel() for parameter in model.parameters()) == 163_840 + 4 * 317_760 + 160
    assert model(torch.tensor([[0, 5, 6]])).logits.shape == (1, 3, 1024)


def test_the_weights_fit_in_six_megabytes(folder: Path) -> None:
    assert sum(file.stat().st_size for file in folder.iterdir()) < 6_000_000


def test_the_blank_model_is_the_one_that_became_the_embedded_one(folder: Path) -> None:
    def config(place: Path) -> dict[str, object]:
        return {key: value for key, value in json.loads((place / "config.json").read_text()).items() if key != "transformers_version"}

    assert config(folder) == config(SHIPPED)
    assert (folder / "tokenizer.json").read_bytes() == (SHIPPED / "tokenizer.json").read_bytes()
    # The first draws of seed 0, and all of them: what was there before the model had a size to choose.
    weights = load_file(folder / "model.safetensors")
    first = weights["model.embed_tokens.weight"][0, :3]
    torch.testing.assert_close(first, torch.tensor([-0.0026872391, 0.0094914036, -0.0175278764]), rtol=0, atol=1e-9)
    assert sum(float(weight.double().abs().sum()) for weight in weights.values()) == pytest.approx(24309.0564, abs=0.01)


@pytest.mark.parametrize(("width", "layers", "heads", "inner"), [(64, 2, 2, 176), (320, 1, 10, 896)])
def test_models_of_another_size_share_the_tokenizer(folder: Path, tmp_path: Path, width: int, layers: int, heads: int, inner: int) -> None:
    main([str(tmp_path), "--width", str(width), "--layers", str(layers)])
    model = AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True)
    # As in the test of 1.4 M: an embedding, `layers` times two norms, four square products and three of the inner width, and a norm.
    layer = 2 * width + 4 * width * width + 3 * width * inner
    assert sum(parameter.numel() for parameter in model.parameters()) == 1024 * width + layers * layer + width
    assert (model.config.num_attention_heads, model.config.head_dim) == (heads, 32)
    assert (tmp_path / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"width": 100}, r"--width = 100; must be a multiple of 32, .* Try --width 96\."),
        ({"width": 16}, r"--width = 16; must be a number in \[32, inf\)"),
        ({"layers": 0}, r"--layers = 0; must be a number in \[1, inf\)"),
    ],
)
def test_a_size_that_cannot_be_is_named(tmp_path: Path, sizes: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        write_blank_model(tmp_path, **sizes)
    assert not list(tmp_path.iterdir())


def test_the_command_says_it_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path), "--width", "100"])
    assert ended.value.code == 2
    assert "error: --width = 100; must be a multiple of 32" in capsys.readouterr().err


def test_the_seed_decides_the_weights_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    main([str(tmp_path / "same")])
    main([str(tmp_path / "other"), "--seed", "1"])
    assert torch.equal(torch.random.get_rng_state(), before)
    weights, same, other = ((path / "model.safetensors").read_bytes() for path in (folder, tmp_path / "same", tmp_path / "other"))
    assert weights == same != other
    assert (folder / "tokenizer.json").read_bytes() == (tmp_path / "other" / "tokenizer.json").read_bytes()


def test_the_tokenizer_agrees_with_the_model(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    config = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).config
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<|bos|>", "<|end|>", "<|pad|>")
    ids = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert ids == (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (0, 1, 2)
    assert len(tokenizer) == config.vocab_size == 1024
    assert tokenizer.chat_template is None


def test_a_text_begins_with_one_bos_and_has_no_end(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = tokenizer("The acting is superb.").input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.bos_token_id not in ids[1:]
    assert tokenizer.eos_token_id not in ids


@pytest.mark.parametrize("text", [" The acting  is superb.", "Grüße, 漢字 😀\n\ttabs", "don't , 'quote' .", ReviewsWorld(seed=3).text(5)])
def test_every_text_survives_a_round_trip(text: str, tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


def test_prompt_and_completion_meet_at_a_token_boundary(tokenizer: PreTrainedTokenizerBase) -> None:
    world = ReviewsWorld(seed=3)
    for index in range(100):
        prompt = world.prompt(index)
        completion = world.completion(prompt, 0)
        parts = [tokenizer(text, add_special_tokens=False).input_ids for text in (prompt.text, completion)]
        assert tokenizer(prompt.text + completion, add_special_tokens=False).input_ids == parts[0] + parts[1]


def test_reviews_take_fewer_than_1_6_tokens_a_word(tokenizer: PreTrainedTokenizerBase) -> None:
    texts = [ReviewsWorld(seed=3).text(index, split="validation") for index in range(500)]
    tokens = sum(map(len, tokenizer(texts, add_special_tokens=False).input_ids))
    assert tokens < 1.6 * sum(len(text.split()) for text in texts)
