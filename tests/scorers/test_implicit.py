"""The implicit reward of a run against what its two models say of each token."""

from __future__ import annotations

import pytest
import torch
import yaml

from alignkit.errors import UserError
from alignkit.models.export import save_model
from alignkit.scorers.implicit import Implicit
from alignkit.scorers.scorer import Answers


@pytest.fixture
def trained(write_run, tokenizer_factory):
    """A run whose model has moved away from the one that it began from, and that one's folder; `config` is what its file says."""

    def build(**config):
        run, policy, _ = write_run()
        began, reference, _ = write_run(name="began")
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        save_model(run.model, policy, tokenizer_factory())
        settings = {"loss": {"name": "dpo", "beta": 0.1}, "model": {"path": str(began.model)}, "reference": {"path": None}}
        run.config.write_text(yaml.safe_dump({**settings, **config}))
        return run, policy, reference, began

    return build


def log_ratios(policy, reference, answers: Answers) -> torch.Tensor:
    """[C] from the logits of plain transformers models, a completion at a time, in float64."""
    ratios = []
    for example in answers.examples:
        for completion in example.completion_ids:
            ids = torch.tensor([[*example.prompt_ids, *completion]])
            start = len(example.prompt_ids) - 1
            with torch.no_grad():
                logps = [model.lm(ids).logits[0, start:-1].double().log_softmax(-1) for model in (policy, reference)]
            chosen = torch.tensor(completion)[:, None]
            ratios.append((logps[0].gather(1, chosen) - logps[1].gather(1, chosen)).sum())
    return torch.stack(ratios).float()


def scores(run, surroundings, answers, **changes) -> torch.Tensor:
    return Implicit(**{"path": str(run.path), "reference": None, "beta": None, **changes}).open(surroundings())(answers).total


def test_scores_are_beta_times_the_log_ratio_of_whole_completions(trained, surroundings, answers):
    run, policy, reference, _ = trained()
    expected = log_ratios(policy, reference, answers)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(scores(run, surroundings, answers), 0.1 * expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(scores(run, surroundings, answers, beta=2.0), 2 * expected, rtol=0, atol=2e-4)


def test_a_run_that_has_not_moved_scores_nothing(trained, surroundings, answers):
    run, _, _, _ = trained()
    assert scores(run, surroundings, answers, reference=str(run.model)).tolist() == [0.0] * 5


def test_the_reference_is_the_one_that_the_run_names_before_the_one_that_it_began_from(trained, surroundings, answers):
    run, _, _, began = trained()
    expected = scores(run, surroundings, answers)
    run.config.write_text(yaml.safe_dump({"loss": {"beta": 0.1}, "model": {"path": "x"}, "reference": {"path": str(began.model)}}))
    assert torch.equal(scores(run, surroundings, answers), expected)
    assert torch.equal(scores(run, surroundings, answers, reference=str(began.model)), expected)


def test_answers_of_another_tokenizer_are_encoded_anew(trained, surroundings, write, tokenizer_factory, other_tokenizer):
    run, _, _, _ = trained()
    own = write(tokenizer_factory(), [((5, 6), [(8, 9, 2), (8, 9)])])
    theirs = write(other_tokenizer, [((95, 94), [(92, 91, 2), (92, 91)])])
    found = Implicit(path=str(run.path), reference=None, beta=None).open(surroundings(tokenizer=other_tokenizer))(theirs).total
    torch.testing.assert_close(found, scores(run, surroundings, own), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"loss": {"name": "sft"}}, r"^scorer\.beta is missing: loss=sft of .* has none\. Type scorer\.beta=0\.1\."),
        ({"loss": {"name": "con_dph", "beta": None}}, r"^scorer\.beta is missing: loss=con_dph"),
        ({"model": {}}, r"^scorer\.reference is missing"),
        ({"model": {"path": "./nowhere"}}, r"^scorer\.reference = './nowhere': there is no such folder"),
    ],
)
def test_what_the_run_does_not_say_must_be_typed(trained, surroundings, config, message):
    run, *_ = trained(**config)
    with pytest.raises(UserError, match=message):
        Implicit(path=str(run.path), reference=None, beta=None).open(surroundings())


def test_a_run_without_settings_needs_both_typed(trained, surroundings, answers):
    run, policy, reference, began = trained()
    run.config.unlink()
    with pytest.raises(UserError, match=r"config\.yaml: cannot be read .* Type scorer\.beta=0\.1\."):
        Implicit(path=str(run.path), reference=str(began.model), beta=None).open(surroundings())
    typed = scores(run, surroundings, answers, reference=str(began.model), beta=1.0)
    torch.testing.assert_close(typed, log_ratios(policy, reference, answers), rtol=0, atol=1e-4)


def test_a_reference_with_another_tokenizer_is_refused(trained, surroundings, write_run, other_tokenizer):
    run, *_ = trained()
    stranger, _, _ = write_run(name="stranger", tokenizer=other_tokenizer)
    with pytest.raises(UserError, match=r"^scorer\.reference = .*: its tokenizer is another one"):
        Implicit(path=str(run.path), reference=str(stranger.model), beta=None).open(surroundings())


def test_the_strength_must_be_positive():
    with pytest.raises(UserError, match=r"^scorer\.beta = 0"):
        Implicit(path="run", reference=None, beta=0.0)
