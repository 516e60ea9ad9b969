"""What the command line of `alignkit.evaluate` means, and mistakes that cost one message."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest
import yaml

from alignkit.command_line import check_one, precheck
from alignkit.composition import EVALUATION, Composer, composing
from alignkit.configuration import conf_dir
from alignkit.errors import UserError
from alignkit.evaluate import HELP, parse
from alignkit.evaluating.config import (
    AGAINST,
    Evaluation,
    check_buildable,
    check_places,
    check_scorers,
    evaluation_of,
    evaluation_yaml,
    headline,
    rewrite,
)
from alignkit.evaluating.scorers import scorers_of
from alignkit.evaluation_settings import (
    ANSWERS,
    LOGPS,
    CostSettings,
    JudgeAgreementSettings,
    LmEvalSettings,
    QuestionsSettings,
    WinRateSettings,
)
from alignkit.generation.config import SHORT, run_at
from alignkit.run_dir import RunDir

Read: TypeAlias = Callable[..., Evaluation]
RUN = "model.path='it\\'s mine'"


@pytest.fixture(scope="module")
def read() -> Iterator[Read]:
    """Composes and checks as the command does; calls share a reading of the files."""
    with composing(None) as hydra:
        composer = Composer(hydra)

        def compose(*argv: str) -> Evaluation:
            for override in map(composer.parse, argv):
                check_one(override)
            evaluation = evaluation_of(composer.compose([line for given in argv for line in rewrite(given, composer)]))
            check_places(evaluation)
            check_scorers(evaluation)
            check_buildable(evaluation)
            return evaluation

        yield compose


@pytest.fixture(autouse=True)
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run directory with two heads, as far as it is looked at without loading it; the working directory is beside it."""
    folder = tmp_path / "it's mine"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text("{}")
    (folder / "heads.json").write_text(json.dumps({"dph": {}, "other": {}}))
    (tmp_path / "asked").mkdir()
    (tmp_path / "asked" / ANSWERS).write_text("")
    monkeypatch.chdir(tmp_path)
    return folder


def test_each_kind_has_a_record_of_its_own(read: Read) -> None:
    kinds = {
        "glue": (QuestionsSettings, ()),
        "win_rate": (WinRateSettings, ("scorer=vader", "evaluation.opponent=chosen")),
        "cost": (CostSettings, ("reference.path=builtin:tiny",)),
        "lm_eval": (LmEvalSettings, ()),
        "judge_agreement": (JudgeAgreementSettings, ("judge=gold",)),
    }
    for name, (record, more) in kinds.items():
        evaluation = read(f"evaluation={name}", *more).own.evaluation
        assert type(evaluation) is record
        assert evaluation.name == name


def test_the_last_evaluation_that_is_typed_counts(read: Read) -> None:
    assert read("evaluation=glue", "evaluation=race", "evaluation.limit=3").own.evaluation.name == "race"


def test_a_run_directory_stands_for_its_model(read: Read, run: Path) -> None:
    for path in (run, run / "model"):
        quoted = str(path).replace("'", "\\'")
        assert read("evaluation=glue", f"model.path='{quoted}'").settings.model.path == str(run / "model")


# Who scores


def names_of(evaluation: Evaluation) -> tuple[str, ...]:
    """Who would score questions."""
    settings = evaluation.settings
    return scorers_of(evaluation.own, run_at(settings.model.path), with_reference=settings.reference.path is not None)


def test_unasked_all_score_that_there_are(read: Read) -> None:
    assert names_of(read("evaluation=glue")) == LOGPS
    assert names_of(read("evaluation=glue", RUN)) == (*LOGPS, "dph", "other")
    assert names_of(read("evaluation=glue", RUN, "reference.path=builtin:tiny")) == (*LOGPS, "dph", "other", "implicit")
    assert names_of(read("evaluation=glue", "reference.path=builtin:tiny")) == (*LOGPS, "implicit")


def test_scorers_are_those_that_are_named_each_once(read: Read) -> None:
    assert names_of(read("evaluation=glue", RUN, "scorer=dph")) == ("dph",)
    assert names_of(read("evaluation=glue", RUN, "scorer=[logp_sum,other,logp_sum]")) == ("logp_sum", "other")


def test_another_scorer_stands_alone_with_its_keys(read: Read) -> None:
    evaluation = read("evaluation=glue", RUN, "scorer=regex", "scorer.pattern=good", "scorer.found=2")
    assert names_of(evaluation) == ("regex",)
    assert evaluation.settings.scorer.name == "regex"
    assert evaluation.settings.scorer.options == {"pattern": "good", "found": 2, "missing": 0.0}


def test_what_is_typed_last_takes_the_whole_place_of_what_was_typed_before(read: Read) -> None:
    evaluation = read("evaluation=glue", "scorer=vader", "scorer=logp_mean")
    assert (evaluation.own.scorers, evaluation.settings.scorer.name) == (("logp_mean",), "none")
    evaluation = read("evaluation=glue", "scorer=logp_mean", "scorer=vader")
    assert (evaluation.own.scorers, evaluation.settings.scorer.name) == (("vader",), "vader")


def test_a_scorer_that_a_file_names_scores_too(read: Read) -> None:
    assert read("evaluation=glue", "scorer.name=vader").own.scorers == ("vader",)


def test_the_implicit_reward_is_that_of_the_run_unless_more_is_said(read: Read) -> None:
    alone = read("evaluation=glue", RUN, "scorer=implicit").settings.scorer
    assert (alone.name, alone.options) == ("implicit", {"path": "it's mine", "reference": None, "beta": None})
    several = read("evaluation=glue", RUN, "scorer=[dph,implicit]", "scorer.beta=0.5")
    assert several.own.scorers == ("dph", "implicit")
    assert several.settings.scorer.options == {"path": "it's mine", "reference": None, "beta": 0.5}
    assert read("evaluation=glue", "scorer=implicit", "reference.path=builtin:tiny").own.scorers == ("implicit",)
    assert read("evaluation=glue", "scorer=implicit", "scorer.reference=builtin:tiny").own.scorers == ("implicit",)


def test_a_judge_of_win_rates_may_be_a_head_of_the_run(read: Read) -> None:
    judge = read("evaluation=win_rate", RUN, "scorer=dph", "evaluation.opponent=chosen").settings.scorer
    assert (judge.name, judge.options) == ("head", {"path": "it's mine", "head": "dph", "normalized": True})
    implicit = read("evaluation=win_rate", RUN, "scorer=implicit", "evaluation.opponent=chosen").settings.scorer
    assert implicit.options["path"] == "it's mine"


# What is left


def test_the_directory_is_named_after_the_model_and_may_be_chosen() -> None:
    assert parse(["evaluation=glue"]).evaluation.run_dir.endswith("-evaluate-tiny")
    request = parse(["evaluation=glue", "run_dir=mine"])
    assert (request.evaluation.run_dir, request.named) == ("mine", True)


def test_what_is_saved_is_what_was_asked_for_and_means_it_again(read: Read) -> None:
    evaluation = read("evaluation=glue", "evaluation.tasks=[cola]", RUN, "scorer=[dph,logp_mean]", "against=asked", "max_tokens=9")
    saved = yaml.safe_load(evaluation_yaml(evaluation))
    assert saved["evaluation"]["kind"] == "questions"
    assert (saved["evaluation"]["name"], saved["evaluation"]["tasks"]) == ("glue", ["cola"])
    assert (saved["scorers"], saved["against"], saved["rollout"]["max_tokens"]) == (["dph", "logp_mean"], "asked", 9)
    # Typed key by key it is the same evaluation.
    assert saved["evaluation"] == {
        "kind": "questions",
        **yaml.safe_load((conf_dir() / "evaluation/glue.yaml").read_text()),
        "tasks": ["cola"],
    }


def test_a_path_may_be_that_of_the_data_set(read: Read) -> None:
    evaluation = read("evaluation=glue", "dataset=tasks", "dataset.path=asked", "evaluation.path=${dataset.path}").own.evaluation
    assert isinstance(evaluation, QuestionsSettings)
    assert evaluation.path == "asked"


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["evaluation=glue"], ("glue/logp_mean/average", "glue/logp_mean/average")),
        (["evaluation=glue", RUN, "scorer=[logp_sum,dph]"], ("glue/dph/average", "glue/logp_mean/average")),
        (["evaluation=glue", RUN, "scorer=dph", "evaluation.tasks=[rte,cola]"], ("rte/dph/score", "rte/logp_mean/score")),
        (["evaluation=glue", RUN, "scorer=dph", "evaluation.path=asked"], ("cola/dph/score", "cola/logp_mean/score")),
        (["evaluation=race"], ("race/logp_mean/score", "race/logp_mean/score")),
        (["evaluation=win_rate", "scorer=vader", "evaluation.opponent=chosen"], ("win_rate", "win_rate_low")),
        (["evaluation=cost", "reference.path=builtin:tiny"], ("kl/k1", "kl/k1_low")),
        (["evaluation=lm_eval", "evaluation.tasks=[piqa]"], ("piqa/acc", "piqa/acc_norm")),
    ],
)
def test_a_headline_is_one_of_the_results(read: Read, argv: list[str], expected: tuple[str, str]) -> None:
    assert headline(read(*argv).own) == expected


def test_an_evaluation_of_a_users_own_is_one_more(tmp_path: Path) -> None:
    folder = tmp_path / "own" / "evaluation"
    folder.mkdir(parents=True)
    text = (conf_dir() / "evaluation" / "copa.yaml").read_text(encoding="utf-8")
    (folder / "mine.yaml").write_text(text.replace("name: copa", "name: mine"), encoding="utf-8")
    argv = ["-cd", str(tmp_path / "own"), "evaluation=mine", "evaluation.limit=4"]
    assert parse(argv).evaluation.own.evaluation == QuestionsSettings(
        name="mine", tasks=["copa"], averages={}, path=None, limit=4, listed=None, resamples=1000
    )


# Who judges


def test_a_judge_takes_the_place_of_a_scorer(read: Read) -> None:
    evaluation = read("evaluation=win_rate", "evaluation.opponent=chosen", "judge=llm_likeliest", "judge.ties=false")
    assert evaluation.own.scorers == ()
    assert evaluation.own.judge is not None
    assert (evaluation.own.judge.name, evaluation.own.judge.options["ties"]) == ("llm_likeliest", False)
    written = yaml.safe_load(evaluation_yaml(evaluation))
    assert written["judge"] == {"name": "llm_likeliest", **evaluation.own.judge.options}


def test_several_judges_are_each_filled_from_their_own_file(read: Read, run: Path) -> None:
    members = f"judge.judges={{h: {{judge: head, path: '{run!s}'}}, l: {{judge: llm, max_tokens: 9}}}}".replace("'s", "\\'s")
    judge = read("evaluation=judge_agreement", "judge=vote", members).own.judge
    assert judge is not None
    assert judge.options["judges"]["h"] == {"name": "scorer", "scorer": "head", "path": str(run), "head": None, "normalized": True}
    assert (judge.options["judges"]["l"]["max_tokens"], judge.options["judges"]["l"]["asks"]) == (9, "compare")


def test_the_model_of_a_server_is_no_place_on_this_machine(read: Read) -> None:
    judge = read("evaluation=judge_agreement", "judge=http", "judge.url=http://127.0.0.1:1/v1", "judge.model=./its-name").own.judge
    assert judge is not None
    assert judge.options["model"] == "./its-name"


def test_the_headline_of_a_judge_is_its_accuracy(read: Read) -> None:
    assert headline(read("evaluation=judge_agreement", "judge=gold").own) == ("llmbar/vader/accuracy", "llmbar/vader/accuracy_low")


# Mistakes

TASKS = "must be one of arc_challenge, arc_easy, "


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "evaluation is missing: what is to be measured? Type evaluation=NAME, one of autoj, copa, "),
        (["evaluation=glu"], "unknown evaluation 'glu'; autoj, copa, "),
        (["evaluation=glu"], "Did you mean 'glue'?"),
        (["evaluation=glue,race"], "evaluation = glue,race; several values"),
        (["evaluation=[glue,race]"], "unknown evaluation"),
        (["evaluation=glue", "seed=1,2"], "seed = 1,2; several values"),
        (["evaluation=glue", "evaluation.tasks=[colla]"], f"evaluation.tasks = 'colla'; {TASKS}"),
        (["evaluation=glue", "evaluation.tasks=[colla]"], "Did you mean 'cola'?"),
        (["evaluation=glue", "evaluation.tasks=[]"], "evaluation.tasks = []; must name a benchmark."),
        (["evaluation=glue", "evaluation.tasks=cola"], "evaluation.tasks = 'cola'; must be a list"),
        (["evaluation=glue", "evaluation.averages={mine: [colla]}"], f"evaluation.averages.mine = 'colla'; {TASKS}"),
        (["evaluation=glue", "evaluation.averages={mine: 3}"], "evaluation.averages.mine = 3; must list tasks."),
        (["evaluation=glue", "evaluation.limit=0"], "evaluation.limit = 0; must be a number in [1, inf)"),
        (["evaluation=glue", "evaluation.resamples=3"], "evaluation.resamples = 3; must be a number in [100, inf)"),
        (["evaluation=glue", "evaluation.listed=maybe"], "evaluation.listed = 'maybe'; must be true or false or null."),
        (["evaluation=glue", "evaluation.limt=3"], "evaluation.limt: no such key. Did you mean 'limit'?"),
        (["evaluation=glue", "evaluation.opponent=chosen"], "evaluation.opponent: no such key."),
        (["evaluation=glue", "evaluation.path=nowhere"], "evaluation.path = 'nowhere'; there is no such file or folder"),
        (
            ["evaluation=glue", "evaluation.kind=wins"],
            "evaluation.kind = 'wins'; must be one of questions, win_rate, cost, lm_eval, judge_agreement.",
        ),
        (["evaluation=glue", "evaluation._target_=os.system"], "never code"),
        (["evaluation=glue", "scorer=dph"], "scorer = 'dph'; must be one of logp_mean, logp_sum, logp_characters, ensemble, head, "),
        (["evaluation=glue", "scorer=dhp", RUN], "(it's mine has no head of that name); must be one of logp_mean, logp_sum, "),
        (["evaluation=glue", "scorer=dhp", RUN], "logp_characters, dph, other, ensemble, head, "),
        (["evaluation=glue", "scorer=dhp", RUN], "Did you mean 'dph'?"),
        (["evaluation=glue", "scorer=[vader,logp_mean]"], "vader is no part of the model and scores alone. Type scorer=vader."),
        (["evaluation=glue", "scorer=none"], "scorer = 'none'; must be one of"),
        (["evaluation=glue", "scorer=logp_mean", "scorer.name=vader"], "scorer.name = 'vader' with scorer = logp_mean: one of them scores"),
        (["evaluation=glue", "scorer=regex", "scorer.pattern='('"], "scorer.pattern = '('"),
        (["evaluation=glue", "scorer=head"], "scorer.path is missing"),
        (["evaluation=glue", "scorer=implicit"], "reference.path is missing: the implicit reward is measured against it."),
        (["evaluation=glue", "scorer=[logp_sum,implicit]", "scorer.bta=1", RUN], "scorer.bta: no such key. Did you mean 'beta'?"),
        (["evaluation=glue", "against=nowhere"], "against = 'nowhere': holds no questions.jsonl, so it is no evaluation."),
        (["evaluation=glue", "agianst=asked"], "agianst: no such key. Did you mean 'against'?"),
        (["evaluation=glue", "model.path=./nowhere"], "there is no such folder"),
        (["evaluation=cost"], "reference.path is missing: the cost is that of a model against what it was."),
        (["evaluation=cost", "reference.path=builtin:tiny", "scorer=vader"], "scorer = vader has no effect with evaluation=cost."),
        (["evaluation=cost", "reference.path=builtin:tiny", "against=asked"], "against = 'asked' has no effect with evaluation=cost"),
        (["evaluation=cost", "reference.path=builtin:tiny", "evaluation.text=no.txt"], "evaluation.text = 'no.txt'; there is no such"),
        (["evaluation=lm_eval", "scorer=logp_mean"], "scorer = logp_mean has no effect with evaluation=lm_eval."),
        (["evaluation=win_rate"], "scorer is missing: who says which answer is better?"),
        (["evaluation=win_rate", "evaluation.opponent=chosen"], "or judge=NAME."),
        (
            ["evaluation=win_rate", "scorer=vader", "judge=gold"],
            "judge = 'scorer' with scorer = vader: one of them says",
        ),
        (["evaluation=win_rate", "judge=gld"], "unknown judge 'gld'"),
        (["evaluation=glue", "judge=gold"], "judge = 'scorer' has no effect with evaluation=glue. Leave it out."),
        (["evaluation=judge_agreement"], "judge is missing: who says which answers are better? alignkit.evaluate needs one."),
        (["evaluation=judge_agreement", "judge=gold", "scorer=vader"], "scorer = vader has no effect with evaluation=judge_agreement."),
        (["evaluation=judge_agreement", "judge=gold", "against=asked"], "against = 'asked' has no effect with"),
        (["evaluation=judge_agreement", "judge=gold", "evaluation.limit=0"], "evaluation.limit = 0; must be a number in [1, inf)"),
        (["evaluation=judge_agreement", "judge=gold", "evaluation.tasks=[llmba]"], "evaluation.tasks = 'llmba'; must be one of"),
        (["evaluation=judge_agreement", "judge=head"], "judge.path is missing. Type judge.path=VALUE."),
        (["evaluation=judge_agreement", "judge=head", "judge.path=nowhere"], "judge.path = 'nowhere'; there is no such file or folder"),
        (["evaluation=judge_agreement", "judge=llm", "judge.model=./nowhere"], "judge.model = './nowhere': there is no such folder"),
        (["evaluation=judge_agreement", "judge=llm", "judge.modle=x"], "judge.modle: no such key. Did you mean 'model'?"),
        (["evaluation=judge_agreement", "judge=llm", "judge.template='{prompt}'"], "judge.template: has no {first}"),
        (["evaluation=judge_agreement", "judge=vote"], "judge.judges is missing."),
        (["evaluation=judge_agreement", "judge=vote", "judge.judges={a: {judge: vote}}"], "unknown judge.judges.a 'vote'"),
        (
            ["evaluation=judge_agreement", "judge=vote", "judge.judges={a: {judge: llm, model: ./nowhere}}"],
            "judge.judges.a.model = './nowhere': there is no such folder",
        ),
        (["evaluation=win_rate", "scorer=vader"], "reference.path is missing: the opponent is the reference."),
        (
            ["evaluation=win_rate", "scorer=dhp", RUN],
            "scorer = 'dhp'; it's mine has no head of that name; must be one of dph, other, ensemble, head, ",
        ),
        (["evaluation=win_rate", "scorer=implicit", "evaluation.opponent=chosen"], "scorer.path is missing"),
    ],
)
def test_a_mistake_is_answered_with_what_to_type(read: Read, arguments: list[str], words: str) -> None:
    with pytest.raises(UserError) as error:
        read(*arguments)
    assert words in str(error.value)


def test_a_run_that_trains_has_no_evaluation() -> None:
    with pytest.raises(UserError) as error:
        precheck(["evaluation=glue"])
    assert (
        str(error.value)
        == "evaluation=glue: measures a model that is there. Type python -m alignkit.evaluate model.path=DIR evaluation=glue"
    )


def test_help_names_every_key_of_its_own_and_every_scorer_of_questions() -> None:
    words = HELP.replace("=", " ").replace(",", " ").split()
    assert {EVALUATION, "scorer", AGAINST, *SHORT, *LOGPS} <= set(words)


def test_nothing_heavy_is_imported_before_the_config_is_known_to_be_good(run: Path) -> None:
    assert RunDir(run).heads_description.is_file()
    heavy = "{'torch', 'transformers', 'lightning', 'datasets', 'numpy', 'scipy'} & sys.modules.keys()"
    argv = ["evaluation=gpt4all", RUN, "scorer=[dph,logp_mean]", "reference.path=builtin:tiny", "against=asked"]
    code = (
        f"import sys, alignkit.evaluate as e; r = e.parse({argv!r}); e.check_places(r.evaluation); e.check_scorers(r.evaluation); "
        f"print(sorted({heavy}))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
