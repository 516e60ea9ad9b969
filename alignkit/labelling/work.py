"""Checking what is to be labelled against this machine, and doing it in a run directory."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TextIO

from alignkit.configuration import packaged
from alignkit.data.tables import absence, is_there
from alignkit.errors import UserError, check_choice, did_you_mean
from alignkit.generation.config import check_new_file, terminable
from alignkit.hardware_checks import check_machine
from alignkit.judge_assembly import build_judge, check_judge_places
from alignkit.label_settings import OF_DATASET, REVISIONS
from alignkit.labelling.config import Labelling, labelling_yaml
from alignkit.models.location import locate
from alignkit.resolution import build_scorer, build_source
from alignkit.rollout_settings import NO_SCORER
from alignkit.row_files import replace_text
from alignkit.run_dir import RunDir, Scalar


def check_places(labelling: Labelling) -> None:
    """Refuse files and models that are not there. Without torch.

    Raises:
        UserError: naming the key.
    """
    settings, own = labelling.settings, labelling.own
    locate("model.path", settings.model.path)
    check_judge_places(own.judge)
    if not own.candidates and not own.reads_stream and own.prompts not in OF_DATASET and not is_there(Path(own.prompts)):
        meant = did_you_mean(own.prompts, OF_DATASET)
        raise UserError(f"prompts = {own.prompts!r}; there is no such file, seen from {os.getcwd()}.{meant or absence(Path(own.prompts))}")
    for key, files in (("candidates", own.candidates), ("earlier", own.earlier)):
        for file in files:
            if not is_there(Path(file)) and not (key == "candidates" and file in OF_DATASET):
                raise UserError(f"{key} names {file!r}; there is no such file, seen from {os.getcwd()}.{absence(Path(file))}")
    if own.constitution is not None and not is_there(Path(own.constitution)):
        raise UserError(f"constitution = {own.constitution!r}; there is no such file, seen from {os.getcwd()}.")
    check_new_file(own.out)


def check_buildable(labelling: Labelling) -> None:
    """Build the data set's source and the settings of judge and scorer once: they check their own ranges. This is where torch is imported.

    Raises:
        UserError: naming the option.
    """
    settings, own = labelling.settings, labelling.own
    check_machine(settings)
    build_source(settings.dataset, settings.allow_code)
    if settings.scorer.name != NO_SCORER:
        build_scorer(settings.scorer, settings.allow_code)
    judge = build_judge(own.judge, settings.allow_code)
    if own.form == REVISIONS:
        from alignkit.judges.principles import read_constitution
        from alignkit.judges.writer import WritingJudgeKind

        read_constitution("constitution", own.constitution)
        if not isinstance(judge, WritingJudgeKind):
            raise UserError(f"judge = {own.judge.name!r}: form={REVISIONS} needs a critic that writes. Type judge=llm, or judge=http.")
    if settings.validation.gold is not None:
        check_choice("validation.gold", settings.validation.gold, [name for name in packaged("scorer") if name != NO_SCORER])


def carry_out(labelling: Labelling, run: RunDir, *, rows: TextIO | None = None) -> dict[str, Scalar]:
    """Write `config.yaml`, label, and return what `results.json` holds. `rows` is where `out=-` goes, None for standard output."""
    labelling = dataclasses.replace(labelling, settings=dataclasses.replace(labelling.settings, run_dir=str(run.path)))
    run.config.write_text(labelling_yaml(labelling), encoding="utf-8")
    return _work(labelling, run, rows)


def carry_on(labelling: Labelling, run: RunDir, *, rows: TextIO | None = None) -> dict[str, Scalar]:
    """Label what is not labelled yet; `config.yaml` says what has changed by then."""
    labelling = dataclasses.replace(labelling, settings=dataclasses.replace(labelling.settings, run_dir=str(run.path)))
    if run.config.read_text(encoding="utf-8") != (text := labelling_yaml(labelling)):
        replace_text(run.config, text)
    return _work(labelling, run, rows)


def _work(labelling: Labelling, run: RunDir, rows: TextIO | None) -> dict[str, Scalar]:
    with terminable():
        # The first import of torch's big users: everything that can be wrong without them has been checked.
        from alignkit.labelling.run import label

        return label(labelling.settings, labelling.own, run, rows=rows)
