"""The page: one HTML file that holds everything it shows. What comes from data is escaped wherever it stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

import alignkit
from alignkit.analysis.runs import Runs
from alignkit.reporting import accounts
from alignkit.reporting.comparison import Comparison, compare, sorted_labels
from alignkit.reporting.curves import Curves, curves_of
from alignkit.reporting.data_quality import quality_of_runs
from alignkit.reporting.disputes import disputes_of
from alignkit.reporting.embedding import script_hash, script_json
from alignkit.reporting.experiment import Told
from alignkit.reporting.headlines import headlines
from alignkit.reporting.maps import frontier, heat_maps
from alignkit.reporting.mislabelled import mislabelled_of
from alignkit.reporting.numbers import counted, shown
from alignkit.reporting.samples import samples_of
from alignkit.terminal import harmless

GENERATOR = "alignkit.report"
"""How a page says what made it."""
SCRIPTS = ("theme.js", "tables.js", "plots.js", "curves.js", "maps.js", "samples.js", "start.js")
"""In the order in which they read each other."""
TEMPLATES = "templates"


def page(runs: Runs, answers: Sequence[Told], *, title: str) -> str:
    """The whole page."""
    comparison = compare(runs)
    curves = curves_of(runs)
    data, samples = plot_data(runs, comparison, curves), samples_of(runs)
    script, plotly = own_script(), get_plotlyjs()
    environment = Environment(
        loader=PackageLoader("alignkit.reporting", TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=quiet,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["counted"] = counted
    return environment.get_template("page.html").render(
        title=title,
        generator=GENERATOR,
        version=alignkit.__version__,
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        policy=policy(script, plotly),
        style=Markup(packaged("page.css")),
        plotly=Markup(plotly),
        script=Markup(script),
        data=Markup(script_json(data)),
        blocks=[Markup(script_json(block)) for block in curves.blocks],
        curves=curves,
        answers=answers,
        comparison=comparison,
        runs=run_rows(runs, comparison),
        statuses=accounts.statuses(runs),
        failures=accounts.failures(runs),
        status_words=accounts.STATUS_WORDS,
        headlines=headlines(runs, comparison),
        has_maps=bool(data["maps"]),
        has_frontier=bool(data["frontier"]),
        samples=samples,
        texts=Markup(script_json(samples)),
        counts=accounts.data_counts(runs, comparison),
        quality=quality_of_runs(runs, comparison),
        disputes=disputes_of(runs),
        ledger=mislabelled_of(runs),
        certificate=accounts.certificate(runs),
        uncertified=accounts.uncertified(runs),
        costs=accounts.costs(runs),
        total_time=accounts.total_time(runs),
    )


def quiet(value: object) -> object:
    """A text without control characters, which move a cursor or turn words around; the page's own parts stay as they are."""
    return harmless(value) if type(value) is str else value


def plot_data(runs: Runs, comparison: Comparison, curves: Curves) -> dict[str, Any]:
    """What the page's scripts read first: all but the curves' values and the samples."""
    labels = comparison.labels
    keys = [*comparison.keys, *(["seed"] if comparison.has_seeds else [])]
    return {
        "runs": [{"name": str(run), "values": [str(labels.at[run, key]) for key in keys]} for run in runs.info.index],
        "keys": [{"name": key, "values": sorted_labels(map(str, labels[key]))} for key in keys],
        "metrics": list(curves.metrics),
        "steps": list(curves.steps),
        "maps": heat_maps(runs, comparison),
        "frontier": frontier(runs, comparison),
    }


def run_rows(runs: Runs, comparison: Comparison) -> list[Mapping[str, Any]]:
    """A row a run of the table that says what was compared."""
    steps = accounts.last_steps(runs)
    planned = runs.config.get("steps")
    return [
        {
            "name": str(run),
            "path": runs.info.at[run, "path"] or "",
            "status": str(runs.info.at[run, "status"]),
            "step": steps.get(str(run), 0),
            "steps": "" if planned is None else shown(planned.loc[run]),
            "values": [str(comparison.labels.at[run, key]) for key in comparison.columns],
        }
        for run in runs.info.index
    ]


def own_script() -> str:
    """The page's own scripts as one, in a scope of its own."""
    return '"use strict";\n(() => {\n' + "\n".join(packaged(name) for name in SCRIPTS) + "\n})();\n"


def packaged(name: str) -> str:
    """A file beside the template."""
    return resources.files("alignkit.reporting").joinpath(TEMPLATES, name).read_text(encoding="utf-8")


def policy(*scripts: str) -> str:
    """The content security policy: the page's own scripts run and no other, and nothing is ever fetched."""
    hashes = " ".join(map(script_hash, scripts))
    return f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
