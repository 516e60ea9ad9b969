"""How likely completions are, against what plain transformers says of each token."""

from __future__ import annotations

import pytest
import torch

from alignkit.errors import UserError
from alignkit.models.reference import LiveReference, fingerprint
from alignkit.scorers.likelihood import Likelihood
from alignkit.scorers.scorer import Answers


def logps(backbone, answers: Answers) -> torch.Tensor:
    """[C] from the logits of a plain transformers model, a completion at a time, in float64."""
    sums = []
    for example in answers.examples:
        for completion in example.completion_ids:
            ids = torch.tensor([[*example.prompt_ids, *completion]])
            with torch.no_grad():
                said = backbone.lm(ids).logits[0, len(example.prompt_ids) - 1 : -1].double().log_softmax(-1)
            sums.append(said.gather(1, torch.tensor(completion)[:, None]).sum())
    return torch.stack(sums).float()


def scores(surroundings, answers: Answers, path: str | None, *, per_token: bool = False) -> torch.Tensor:
    return Likelihood(path=path, per_token=per_token).open(surroundings)(answers).total


def test_scores_are_log_probs_of_completions_their_ends_included(write_run, surroundings, answers):
    run, backbone, _ = write_run()
    expected = logps(backbone, answers)
    assert expected.unique().numel() > 3
    for path in (run.path, run.model):
        torch.testing.assert_close(scores(surroundings(), answers, str(path)), expected, rtol=0, atol=1e-4)
    means = scores(surroundings(), answers, str(run.path), per_token=True)
    torch.testing.assert_close(means, expected / answers.lengths, rtol=0, atol=1e-4)
    assert answers.lengths.unique().numel() > 1


def test_without_a_path_the_model_of_the_run_scores(write_run, surroundings, answers):
    run, backbone, _ = write_run()
    trunk = LiveReference(backbone)
    own = surroundings(trunk=trunk, trunk_fingerprint=fingerprint(backbone))
    assert torch.equal(scores(own, answers, None), scores(own, answers, str(run.path)))
    with pytest.raises(UserError, match=r"scorer\.path is missing: there is no model here that stays as it is"):
        scores(surroundings(), answers, None)


def test_a_model_with_other_tokens_reads_the_texts_in_its_own(write_run, surroundings, answers, write, other_tokenizer):
    run, backbone, _ = write_run(tokenizer=other_tokenizer)
    own = [tuple(100 - token for token in ids) for ids in ((5, 6, 7), (8, 9), (10, 11), (12, 13, 14), (15,))]
    expected = write(other_tokenizer, [(own[0], [(*own[1], 2), (2,)]), (own[2], [own[3], (*own[4], 2), (*own[4], 2)])])
    torch.testing.assert_close(scores(surroundings(), answers, str(run.path)), logps(backbone, expected), rtol=0, atol=1e-4)


def test_a_path_that_is_no_model_is_refused(surroundings, answers, tmp_path):
    with pytest.raises(UserError, match=r"scorer\.path = .*no Hugging Face model folder"):
        scores(surroundings(), answers, str(tmp_path))
