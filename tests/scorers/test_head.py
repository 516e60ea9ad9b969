"""A head of another run says of answers what it says of them in its own run, whoever holds the trunk."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import Tensor

from alignkit.data.collate import collate
from alignkit.data.examples import EncodedExample
from alignkit.errors import UserError
from alignkit.models.backbone import Backbone
from alignkit.models.freezing import freeze
from alignkit.models.heads import Heads
from alignkit.models.reference import fingerprint
from alignkit.models.terminal_states import head_inputs
from alignkit.scorers.head import Head
from alignkit.scorers.normalization import Normalization
from alignkit.scorers.own_model import load_frozen
from alignkit.scorers.saved_heads import saved_head

WIDE = {"pooler": "bert", "layers": [1, -1], "tokens": "attention"}


def one_by_one(backbone: Backbone, heads: Heads, name: str, examples: tuple[EncodedExample, ...]) -> Tensor:
    """Scores of each completion alone in its batch, in rows, as the model lays them out itself."""
    scores = []
    for example in examples:
        for ids in example.completion_ids:
            batch = collate([[EncodedExample(key=0, prompt_ids=example.prompt_ids, completion_ids=(ids,))]], "rows")
            with torch.no_grad():
                states = backbone.hidden_layers(batch, heads.layers)
                scores.append(heads.scores_of(name, head_inputs(states, heads.layers, batch, with_tokens=heads.attend)))
    return torch.cat(scores)


def head(run, **changes) -> Head:
    return Head(**{"path": str(run.path), "head": None, "normalized": True, **changes})


@pytest.mark.parametrize("settings", [{}, WIDE], ids=["terminal state", "layers and tokens"])
def test_scores_are_those_of_each_answer_alone(write_run, surroundings, answers, settings):
    run, backbone, heads = write_run(reward=settings)
    scores = head(run).open(surroundings())(answers)
    assert scores.total.dtype == torch.float32
    assert not scores.parts
    torch.testing.assert_close(scores.total, one_by_one(backbone, heads, "reward", answers.examples), rtol=0, atol=1e-5)
    assert scores.total.std() > 0.1


def test_one_of_several_heads_is_chosen_by_name(write_run, surroundings, answers):
    run, backbone, heads = write_run(helpful={}, harmless={"pooler": "bert"})
    scores = head(run, head="harmless").open(surroundings())(answers).total
    torch.testing.assert_close(scores, one_by_one(backbone, heads, "harmless", answers.examples), rtol=0, atol=1e-5)


def test_a_model_that_cannot_be_packed_is_laid_out_in_rows(write_run, surroundings, answers):
    run, backbone, heads = write_run(architecture="mistral", reward={})
    scores = head(run).open(surroundings())(answers).total
    torch.testing.assert_close(scores, one_by_one(backbone, heads, "reward", answers.examples), rtol=0, atol=1e-5)


def test_weights_of_the_run_are_bfloat16_where_it_computes_in_it(write_run, surroundings, answers):
    run, backbone, heads = write_run(reward={})
    scores = head(run).open(surroundings(dtype=torch.bfloat16))(answers).total
    wide = one_by_one(backbone, heads, "reward", answers.examples)
    assert scores.dtype == torch.float32
    assert (scores - wide).abs().max() > 0
    torch.testing.assert_close(scores, wide, rtol=0.1, atol=0.5)


class CountingTrunk:
    """A frozen model that counts who reads it."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = freeze(backbone)
        self.read = 0

    def hidden_layers(self, batch, layers):
        self.read += 1
        return self.backbone.hidden_layers(batch, layers)


def test_a_frozen_model_with_the_same_weights_is_read_instead_of_a_second_one(write_run, surroundings, answers, monkeypatch):
    run, backbone, _ = write_run(reward=WIDE)
    alone = head(run).open(surroundings())(answers).total
    loaded = []

    def watched(*arguments):
        model = load_frozen(*arguments)
        loaded.append(weakref.ref(model))
        return model

    monkeypatch.setattr("alignkit.scorers.head.load_frozen", watched)
    trunk = CountingTrunk(backbone)
    scorer = head(run).open(surroundings(trunk=trunk, trunk_fingerprint=fingerprint(backbone)))
    assert [model() for model in loaded] == [None]
    assert torch.equal(scorer(answers).total, alone)
    assert trunk.read > 0


def test_a_frozen_model_with_other_weights_is_not_read(write_run, surroundings, answers, lm_factory):
    run, _, _ = write_run(reward={})
    alone = head(run).open(surroundings())(answers).total
    other = Backbone(lm_factory("llama"))
    with torch.no_grad():
        other.lm.get_input_embeddings().weight[5, 0] += 1e-3
    trunk = CountingTrunk(other)
    scorer = head(run).open(surroundings(trunk=trunk, trunk_fingerprint=fingerprint(other)))
    assert torch.equal(scorer(answers).total, alone)
    assert trunk.read == 0


def test_stored_gain_and_bias_are_applied_unless_they_are_not_wanted(write_run, surroundings, answers):
    run, _, _ = write_run(reward={})
    plain = head(run).open(surroundings())(answers).total
    saved_head(run.path, None).store_normalization(Normalization(gain=2.0, bias=-0.5))
    torch.testing.assert_close(head(run).open(surroundings())(answers).total, 2 * plain - 0.5)
    assert torch.equal(head(run, normalized=False).open(surroundings())(answers).total, plain)


def test_answers_of_another_tokenizer_are_encoded_anew(write_run, surroundings, write, tokenizer_factory, other_tokenizer):
    # w5 w6 -> w8 w9, ended; the same, cut; an empty one; and two equal ones to another prompt.
    own = [((5, 6), [(8, 9, 2), (8, 9), (2,)]), ((7,), [(11, 2), (11, 2)])]
    theirs = [((95, 94), [(92, 91, 2), (92, 91), (2,)]), ((93,), [(89, 2), (89, 2)])]
    run, backbone, heads = write_run(reward={})
    answers = write(tokenizer_factory(), own)
    written = write(other_tokenizer, theirs)
    assert written.completions == answers.completions
    scores = head(run).open(surroundings(tokenizer=other_tokenizer))(written).total
    torch.testing.assert_close(scores, one_by_one(backbone, heads, "reward", answers.examples), rtol=0, atol=1e-5)


def test_a_completion_ends_in_the_token_that_the_head_was_trained_on(write_run, surroundings, write, tokenizer_factory):
    # The policy ends its turns with token 4, the reward model's data ended with 2.
    run, backbone, heads = write_run(reward={})
    answers = write(tokenizer_factory(), [((5, 6), [(8, 9, 4), (8, 9)])], terminator=4)
    scores = head(run).open(surroundings())(answers).total
    as_trained = (EncodedExample(key=0, prompt_ids=(5, 6), completion_ids=((8, 9, 2), (8, 9))),)
    torch.testing.assert_close(scores, one_by_one(backbone, heads, "reward", as_trained), rtol=0, atol=1e-5)


def test_gradients_are_not_kept(write_run, surroundings, answers):
    run, _, _ = write_run(reward={})
    assert not head(run).open(surroundings())(answers).total.requires_grad


def test_an_answer_longer_than_the_model_is_refused(write_run, surroundings, write, tokenizer_factory):
    run, _, _ = write_run(reward={})
    answers = write(tokenizer_factory(), [((5,) * 100, [(6,) * 29])])
    with pytest.raises(UserError, match=r"has 129 tokens with its prompt, .* positions for 128\. Type less for dataset\.max_length"):
        head(run).open(surroundings())(answers)


@pytest.mark.parametrize(
    ("heads", "name", "message"),
    [
        ({"a": {}, "b": {}}, None, r"^scorer\.head is missing: .* has a, b\. Type scorer\.head=a\."),
        ({"reward": {}}, "rewrad", r"^scorer\.head = 'rewrad'; must be one of reward\. Did you mean 'reward'\?"),
        ({}, None, r"^scorer\.path = .*: the run trained no head"),
    ],
)
def test_a_head_that_is_not_there_is_refused(write_run, surroundings, heads, name, message):
    run, _, _ = write_run(**heads)
    with pytest.raises(UserError, match=message):
        head(run, head=name).open(surroundings())


def test_a_folder_that_is_no_finished_run_is_refused(surroundings, tmp_path):
    for path, message in ((tmp_path, "holds no model/ folder"), (tmp_path / "nowhere", "there is no such folder")):
        with pytest.raises(UserError, match=rf"^scorer\.path = .*{message}.* Type scorer\.path=RUN_DIRECTORY\."):
            Head(path=str(path), head=None, normalized=True).open(surroundings())
