"""What a user may type, and what the answer is when it is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from alignkit import configuration
from alignkit.command_line import precheck
from alignkit.configuration import check_config, conf_dir, config_yaml, packaged
from alignkit.errors import UserError
from alignkit.loss_settings import HeadSettings, LossSettings
from alignkit.resolution import LOSSES, build_losses, resolve

HF_TOKEN = "hf_" + "aB3" * 12

WRONG = [
    # Names
    ("loss=con_dpo", r"^unknown loss 'con_dpo'; aot, .*, cdpo, .*, con_dph, .* exist\. Did you mean 'con_dph'\?$"),
    ("loss=con_dhp", r"Did you mean 'con_dph'\?"),
    ("model=gtp2", r"^unknown model 'gtp2'; .* Did you mean 'gpt2'\?"),
    ("dataset=hhrlhf", r"Did you mean 'hh_rlhf'\?"),
    ("optimizer=adam", r"^unknown optimizer 'adam'; adamw, .*rmsprop exist\. Did you mean 'adamw'\?"),
    ("hardware=tpu", r"^unknown hardware 'tpu'; auto, cpu, ddp, fsdp, gpu, .* exist"),
    ("precision=fp8", r"^unknown precision 'fp8'"),
    ("schedule=cosin", r"Did you mean 'cosine'\?"),
    ("loss=null", r"^unknown loss 'null'"),
    ("loss.name=con_dhp", r"^unknown loss 'con_dhp'"),
    ("optimizer.name=adam", r"^unknown optimizer 'adam'"),
    ("dataset.source=hh", r"^unknown dataset source 'hh'"),
    ("~model", r"^model = None; must name or hold its settings"),
    ("loss.module=dph", r"^loss.module = 'dph'; con_dph is trained by alignment"),
    ("loss.monitor=val/accuracy", r"^loss.monitor = 'val/accuracy'; must be .*val/rewards/accuracies"),
    ("model.name=../../x", r"^model.name = '../../x'; must be letters, digits"),
    # Keys
    ("los=dpo", r"^los: no such key\. Did you mean 'loss'\?"),
    ("beta=0.1", r"^beta: no such key\. Did you mean loss\.beta\?$"),
    ("loss.bta=0.2", r"^loss\.bta: no such key\. Did you mean 'beta'\? con_dph has name, module, monitor, epsilon"),
    ("+loss.betta=1", r"^loss\.betta: no such key\. Did you mean 'beta'\?"),
    ("++loss.head.dropuot=0.1", r"^loss\.head\.dropuot: no such key\. Did you mean 'dropout'\?"),
    ("loss=dpo loss.epsilon=0.1", r"^loss\.epsilon: dpo has no option 'epsilon'; .*cdpo, con_dph, .*sep_dph have it\.$"),
    ("loss=sft +loss.head.dropout=0.1", r"^loss\.head: sft has no option 'head'; bradley_terry, .*con_dph, .*sep_dph, trpo have it"),
    ("optimizer=rmsprop optimizer.beta1=0.9", r"^optimizer\.beta1: rmsprop has no option 'beta1'; adamw.* ha(s|ve) it"),
    ("dataset=hh_rlhf dataset.noise=0.1", r"^dataset\.noise: hh_rlhf has no option 'noise'; imdb, reviews, reviews_unpaired have it"),
    ("batch.size=4", r"^batch\.size: no such key"),
    ("loss.options.beta=1", r"^loss\.options: no such key"),
    ("model.lora.rank=abc", r"^model\.lora\.rank = 'abc'; must be a whole number"),
    ("+model.lora.rnk=3", r"^model\.lora\.rnk: no such key\. Did you mean 'rank'\? model\.lora has rank, alpha"),
    ("model.lora=3", r"^model\.lora = 3; must be a mapping"),
    ("model.lora.rank=8", r"^model\.lora\.rank = 8 has no effect while model\.adapter = null"),
    ("reference.mix=0.3", r"^reference\.mix = 0\.3 has no effect"),
    # Sums
    ("loss=composite", r"^loss\.parts = \{\}; must name the terms of the sum\. Try 'loss\.parts="),
    ("loss=composite loss.parts={a: dpo}", r"^loss\.parts\.a = 'dpo'; must say which loss it is"),
    ("loss=composite loss.parts={a: {loss: dop}}", r"^unknown loss 'dop'; .* Did you mean 'dpop?'"),
    ("loss=composite loss.parts={a: {loss: composite}}", r"^unknown loss 'composite'"),
    ("loss=composite loss.parts={a: {loss: dpo, epsilon: 0.1}}", r"^loss\.parts\.a\.epsilon: dpo has no option 'epsilon'"),
    ("loss=composite loss.parts={a: {loss: dpo, beta: 0}}", r"^loss\.parts\.a: loss\.beta = 0"),
    ("loss=composite loss.parts={a: {loss: dpo, weight: 0}}", r"^loss\.parts\.a\.weight = 0"),
    ("loss=composite loss.parts={a: {loss: dpo, head: {name: x}}}", r"^loss\.parts\.a\.head: dpo reads no head"),
    ("loss=composite loss.parts={a: {loss: dpo, attribute: x}}", r"^loss\.parts\.a\.attribute: dpo reads no rating"),
    ("loss=composite loss.parts={a/b: {loss: dpo}}", r"a/b"),
    # Types
    ("loss.beta=abc", r"^loss\.beta = 'abc'; must be a number or null\.$"),
    ("loss.head.dropout='abc'", r"^loss\.head\.dropout = 'abc'; must be a number\.$"),
    ("loss.head=5", r"^loss\.head = 5; must be a mapping"),
    ("loss=5", r"^unknown loss '5'"),
    ("loss={beta: x}", r"^loss\.beta = 'x'; must be a number"),
    ("batch.pairs=1.5", r"^batch\.pairs = 1\.5; must be a whole number"),
    ("steps=many", r"^steps = 'many'; must be a whole number"),
    ("steps=null", r"^steps = None; must be a whole number"),
    ("debug=perhaps", r"^debug = 'perhaps'; must be true or false"),
    ("allow_code=my_pkg", r"^allow_code = 'my_pkg'; must be a list"),
    ("optimizer.lr=[1]", r"^optimizer\.lr = \[1\]; must be a number"),
    ("steps.x=1", r"^steps = \{'x': 1\}; must be a whole number"),
    ("reference.path.x=1", r"^reference\.path = \{'x': 1\}; must be text or null"),
    ("batch=4", r"^batch = 4; must name or hold its settings"),
    # Ranges
    ("loss.epsilon=0.7", r"^loss\.epsilon = 0\.7; must be a number in \[0, 0\.5\)"),
    ("loss=dpo loss.beta=0", r"^loss\.beta = 0\.0; must be a number in \(0, inf\)"),
    ("loss=ipo loss.beta=-1", r"^loss\.beta = -1\.0"),
    ("loss=cdpo loss.beta=nan", r"^loss\.beta = nan"),
    ("loss.beta=inf", r"^loss\.beta = inf"),
    ("loss.dpo_weight=-1", r"^loss\.dpo_weight = -1\.0"),
    ("loss.dpo_weight=0 loss.beta=0.1", r"^loss\.beta = 0\.1 has no effect while loss\.dpo_weight = 0"),
    ("loss.head.pooler=mean", r"^loss\.head\.pooler = 'mean'; must be one of identity"),
    ("loss.head.dropout=1", r"^loss\.head\.dropout = 1\.0"),
    ("optimizer.lr=nan", r"^optimizer\.lr = nan"),
    ("steps=0", r"^steps = 0; must be a number in \[1"),
    ("seed=-1", r"^seed = -1"),
    ("seed=1099511627776", r"^seed = 1099511627776"),
    ("batch.pairs=0", r"^batch\.pairs = 0"),
    ("optimizer.clip_norm=-1", r"^optimizer\.clip_norm = -1"),
    ("schedule.warmup_steps=500", r"^schedule\.warmup_steps = 500 is not less than steps = 150"),
    ("validation.every=0", r"^validation\.every = 0"),
    ("dataset.noise=3", r"^dataset\.noise = 3\.0; must be a number in \[0, 0\.5\]"),
    ("reference.source=path", r"^reference\.source = 'path'; must be one of cache, memory"),
    ("reference=copy", r"^unknown reference 'copy'; cache, memory, moving exist"),
    ("cache_dir=[a]", r"^cache_dir = \['a'\]; must be text or null"),
    ("dataset=local dataset.path=nowhere.jsonl", r"^dataset\.path = 'nowhere\.jsonl'; there is no such file"),
    (f"run_dir={Path(configuration.__file__).parent}/runs", r"lies inside the installed alignkit"),
    # Missing values and interpolations
    ("model=hf", r"^model\.path is missing\. Type model\.path=VALUE"),
    ("~loss.epsilon", r"^loss\.epsilon is missing"),
    ("model.path=${oc.env:ALIGNKIT_NOT_SET}", r"^model\.path: the \$\{\.\.\.\} in its value leads nowhere\. .*ALIGNKIT_NOT_SET"),
    ("model.path=${modle.name}", r"^model\.path: .*'modle' not found|^model\.path: .*modle\.name"),
    ("run_dir=${run_dir}", r"^run_dir: .* leads nowhere\. Recursive"),
    # The command line itself
    ("loss.beta=[0.1", r"^cannot read 'loss\.beta=\[0\.1'\. Write key=value"),
    ("con_dph", r"^cannot read 'con_dph'\. Write key=value"),
    ("loss.beta=0.1,0.2", r"^loss\.beta = 0\.1,0\.2; several values are a sweep: add -m\. A list is written loss\.beta=\[0\.1,0\.2\]"),
    ("loss=dpo,ipo", r"^loss = dpo,ipo; several values are a sweep"),
    ("--loss dpo", r"^unrecognized arguments: --loss\. Options are typed without dashes"),
    ("--config-name x", r"are closed"),
    ("--config-path pkg://os", r"are closed"),
    ("--experimental-rerun x.pickle", r"are closed"),
    ("--config-dir nowhere", r"^--config-dir nowhere: there is no such folder"),
    ("+experiment=mine", r"^unknown experiment 'mine'|^experiment: no such key"),
    ("loss@model=dpo", r"loss@model"),
    # Sweeps
    ("-m loss.beta=0.1,0.2 loss.epsilon=0,0.1,abc", r"^loss\.epsilon = 'abc'.*\(Job 3 of 6: loss\.beta=0\.1 loss\.epsilon=abc; none was"),
    ("-m loss=dpo,con_dpo", r"^unknown loss 'con_dpo'"),
    ("-m seed=range(0,2000)", r"^this sweep has 1,001 jobs or more; at most 1,000"),
    ("-m seed=range(0,900) steps=100,200", r"^this sweep has 1,800 jobs or more"),
    ("-m seed=range(0,0)", r"^this sweep has no jobs"),
    ("-m loss.beta=interval(0,1)", r"^loss\.beta: an interval has no values"),
    ("-m run_dir=a,b seed=1,2", r"^run_dir = a,b; give one directory"),
    # Code and secrets
    ("+loss._target_=os.system", r"^loss\._target_: configs hold names and values, never code"),
    ("+x._target_=os.system", r"never code"),
    ("loss.head={_target_: os.system}", r"^loss\.head\._target_: .* never code"),
    ("+loss.list=[{a: {_target_: os.system}}]", r"^loss\.list\[0\]\.a\._target_"),
    ("+loss.x_target_y=1", r"never code"),
    ("loss.name=os.path", r"^'os\.path' names code outside alignkit\. If you trust it, type allow_code=\[os\]"),
    ("loss.module=os.path", r"names code outside alignkit"),
    ("dataset.source=os.path", r"names code outside alignkit"),
    ("allow_code=[my_pkg] loss.name=my_pkg_evil.loss", r"^'my_pkg_evil\.loss' names code outside"),
    ("allow_code=[no_such_pkg] loss.name=no_such_pkg.loss", r"no_such_pkg\.loss': there is no module no_such_pkg"),
    ("hydra.callbacks={x: {_target_: os.system}}", r"^hydra\.callbacks: is closed"),
    ("hydra.job_logging={}", r"^hydra\.job_logging: is closed"),
    ("hydra/job_logging=default", r"^hydra/job_logging: is closed"),
    ("hydra.searchpath=[pkg://os]", r"^hydra\.searchpath: is closed"),
    ("hydra.job.env_set={A: b}", r"^hydra\.job\.env_set: is closed"),
    ("hydra.run.dir=x", r"^hydra\.run\.dir: is closed\. Type run_dir=DIR"),
    ("hydra/sweeper=optuna", r"^hydra/sweeper = 'optuna'; must be one of basic, optuna_study\. Did you mean 'optuna_study'"),
    ("hydra/launcher=evil", r"^hydra/launcher = 'evil'; must be one of basic, joblib, submitit_local, submitit_slurm"),
    ("hydra.launcher._target_=os.system", r"is closed"),
    (f"+model.token={HF_TOKEN}", r"^\+model\.token: this looks like an access token"),
    ("logger.project=sk-abcdefghij0123456789abcd", r"^logger\.project: this looks like an access token"),
    ("dataset.path=https://me:secret@example.org/x.jsonl", r"^dataset\.path: this looks like an access token"),
    ("logger.project=${oc.env:WANDB_API_KEY}", r"^logger\.project: would read a secret"),
]


@pytest.mark.parametrize(("typed", "answer"), WRONG, ids=[typed for typed, _ in WRONG])
def test_a_mistake_is_answered_in_one_message(typed: str, answer: str) -> None:
    argv = [word.replace("\0", " ") for word in re.sub(r"(?<=[:,}]) ", "\0", typed).split(" ")]
    with pytest.raises(UserError, match=answer) as caught:
        precheck(argv)
    assert "\n" not in str(caught.value)


def test_a_secret_is_not_repeated() -> None:
    for argv in ([f"logger.project={HF_TOKEN}"], [HF_TOKEN], ["logger.project=${oc.decode:'" + HF_TOKEN + "'}"]):
        with pytest.raises(UserError, match="access token") as caught:
            precheck(argv)
        assert HF_TOKEN not in str(caught.value)


def test_a_secret_that_an_interpolation_finds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARMLESS", HF_TOKEN)
    with pytest.raises(UserError, match=r"^model\.path: this looks like an access token"):
        precheck(["model.path=${oc.env:HARMLESS}"])


def test_the_default_fills_in_the_authors_beta() -> None:
    (settings,) = precheck([])
    assert settings.loss.options["beta"] == 0.1
    assert "beta: 0.1" in config_yaml(settings)


def test_beta_stays_away_where_there_is_no_joint_term() -> None:
    (settings,) = precheck(["loss=sep_dph", "loss.dpo_weight=0"])
    assert settings.loss.options["beta"] is None


def test_the_saved_config_means_the_same_settings() -> None:
    (settings,) = precheck(["loss=bradley_terry", "dataset=local", "optimizer=rmsprop", "+dataset.columns.prompt=question"])
    assert check_config(OmegaConf.create(config_yaml(settings))) == settings


def test_values_have_the_types_of_their_fields() -> None:
    (settings,) = precheck(["loss.head.dropout=0", "optimizer.lr=1", "batch.pairs='4'"])
    assert (settings.loss.options["head"]["dropout"], settings.optimizer.lr, settings.batch.pairs) == (0.0, 1.0, 4)
    assert type(settings.optimizer.lr) is float


def test_plus_signs_make_no_difference_to_known_keys() -> None:
    assert precheck(["loss=dpo", "+loss.beta=0.3"])[0].loss == precheck(["++loss.beta=0.3", "+loss=dpo"])[0].loss


def test_the_last_of_two_values_wins() -> None:
    (settings,) = precheck(["loss=dpo", "loss.beta=0.1", "loss.beta=0.2"])
    assert settings.loss.options == {"beta": 0.2}


def test_reward_is_another_name_for_bradley_terry() -> None:
    assert precheck(["loss=reward"])[0].loss == precheck(["loss=bradley_terry"])[0].loss


def test_a_sweep_is_every_combination_in_order() -> None:
    jobs = precheck(["-m", "loss=dpo,cdpo", "loss.beta=0.05,0.1,0.5"])
    assert [(job.loss.name, job.loss.options["beta"]) for job in jobs] == [(name, b) for name in ("dpo", "cdpo") for b in (0.05, 0.1, 0.5)]


def test_flags_may_stand_anywhere() -> None:
    assert len(precheck(["loss=dpo", "-m", "loss.beta=0.1,0.2"])) == 2


def test_the_loss_is_the_class_of_its_name_and_its_head_a_record() -> None:
    options = {"epsilon": 0.1, "dpo_weight": 0.0, "beta": None, "dpo_epsilon": 0.1, "head": read_head("con_dph")}
    ((part, loss),) = build_losses(LossSettings(name="con_dph", module="alignment", monitor="val/loss", options=options))
    assert type(loss).__name__ == "ConDPH"
    assert type(loss) is resolve(LOSSES, "con_dph")
    assert isinstance(part.head, HeadSettings)
    assert (part.name, part.place.weight) == ("con_dph", 1.0)


def test_a_joint_term_is_a_part_of_its_own() -> None:
    options = {"epsilon": 0.1, "dpo_weight": 0.5, "beta": 0.3, "dpo_epsilon": 0.2, "head": read_head("con_dph")}
    (head, _), (dpo, cdpo) = build_losses(LossSettings(name="con_dph", module="alignment", monitor="val/loss", options=options))
    assert (head.name, dpo.name, dpo.loss, dpo.place.weight, dpo.head) == ("head", "dpo", "cdpo", 0.5, None)
    assert (cdpo.beta, cdpo.epsilon) == (0.3, 0.2)


def read_head(loss: str) -> dict[str, object]:
    return dict(packaged("loss")[loss]["head"])


def test_the_parts_of_a_sum_take_the_values_of_their_losses_where_none_is_typed() -> None:
    (settings,) = precheck(["loss=composite", "loss.parts={a: {loss: cdpo, epsilon: 0.3}, b: {loss: bradley_terry, weight: 2}}"])
    assert settings.loss.options["parts"]["a"] == {"loss": "cdpo", "beta": 0.1, "epsilon": 0.3}
    (a, cdpo), (b, _) = build_losses(settings.loss)
    assert (a.name, cdpo.beta, cdpo.epsilon, a.place.weight) == ("a", 0.1, 0.3, 1.0)
    assert (b.name, b.place.weight, b.head.name) == ("b", 2.0, "reward")


def test_resolve_refuses_a_module_without_one_public_class() -> None:
    with pytest.raises(UserError, match=r"alignkit\.losses\.outputs: must define exactly one public class; found: .*PairLogps"):
        resolve(LOSSES, "outputs")
    with pytest.raises(UserError, match=r"'nothing': there is no module alignkit\.losses\.nothing"):
        resolve(LOSSES, "nothing")


LOSS_OF_SOMEBODY_ELSE = """
from dataclasses import dataclass
from alignkit.errors import check_range

@dataclass(frozen=True, kw_only=True, slots=True)
class MyLoss:
    gamma: float
    sharp: bool = False
    def __post_init__(self):
        check_range("loss.gamma", self.gamma, above=0.0)
"""


@pytest.fixture
def my_pkg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    folder = tmp_path / "somebodys_package"
    folder.mkdir()
    (folder / "my_loss.py").write_text(LOSS_OF_SOMEBODY_ELSE)
    monkeypatch.syspath_prepend(tmp_path)
    return ["allow_code=[somebodys_package]", "loss=dpo", "loss.name=somebodys_package.my_loss", "~loss.beta"]


def test_a_loss_of_another_package_is_checked_like_ours(my_pkg: list[str]) -> None:
    (settings,) = precheck([*my_pkg, "loss.gamma=2"])
    ((_, loss),) = build_losses(settings.loss, settings.allow_code)
    assert loss.gamma == 2.0
    for typed, answer in (
        ([], r"^loss\.gamma is missing"),
        (["loss.gamma=0"], r"^loss\.gamma = 0\.0"),
        (["loss.gamma=1", "loss.sharpp=true"], r"^loss\.sharpp: no such key\. Did you mean 'sharp'\?"),
    ):
        with pytest.raises(UserError, match=answer):
            precheck([*my_pkg, *typed])


def test_conf_is_found_in_the_package_before_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (conf_dir() / "train.yaml").is_file()
    package = tmp_path / "alignkit"
    monkeypatch.setattr(configuration, "__file__", str(package / "configuration.py"))
    with pytest.raises(RuntimeError, match="incomplete"):
        conf_dir()
    for folder in (tmp_path / "conf", package / "conf"):
        folder.mkdir(parents=True)
        (folder / "train.yaml").touch()
        assert conf_dir() == folder
