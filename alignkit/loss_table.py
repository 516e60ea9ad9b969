"""`python -m alignkit.loss_table`: which loss when, one row a loss, out of the classes' own words. The README holds its output."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
import sys
from collections.abc import Iterator

from alignkit.configuration import loss_settings, packaged
from alignkit.loss_settings import JointSettings, LossSettings
from alignkit.losses.families import Loss
from alignkit.losses.rollout_families import SampledLoss
from alignkit.modules.term_kinds import TERMS, kind_of
from alignkit.resolution import ENSEMBLES, LOSSES, PARTS, loss_parts, resolve

HEADER = ("`loss=`", "reads", "reference", "parameters, default, range", "pulls to", "paper")
NUMBER = r"-?\d+(?:\.\d+)?"
WIDEST = 120
"""Characters of a cell."""
RANGE = re.compile(rf"[\[(]{NUMBER}, {NUMBER}[\])]|[<>]=? {NUMBER}")
"""`[0, 0.5)`, `> 0` or `>= 0`, as field docstrings state ranges."""
SOURCE = re.compile(r"arXiv:(?P<arxiv>\d{4}\.\d{4,5})|(?P<url>https?://[^\s)]+)")


def main() -> int:
    """The command.

    Returns:
        The exit code 0.
    """
    print(table())
    return 0


def table() -> str:
    """The whole table in Markdown: losses by what they read, in the order of the terms, then those that sample, then by name."""
    order = sorted(loss_names(), key=lambda name: (place(resolve(LOSSES, name)), name))
    return "\n".join(line(cells) for cells in [HEADER, ("---",) * len(HEADER), *map(row, order)])


def place(loss: type[Loss]) -> int:
    """Where a loss's kind stands among the others."""
    return len(TERMS) if issubclass(loss, SampledLoss) else list(TERMS.values()).index(kind_of(loss))


def line(cells: tuple[str, ...]) -> str:
    """One row of a Markdown table."""
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")


def loss_names() -> list[str]:
    """The packaged options of `loss=` that are one loss: not those that only name another, nor sums."""
    return [name for name, options in packaged("loss").items() if "name" in options and PARTS not in options and name not in ENSEMBLES]


def row(name: str) -> tuple[str, ...]:
    """The cells of a loss."""
    loss: type[Loss] = resolve(LOSSES, name)
    settings = loss_settings(packaged("loss")[name], allow_code=())
    names = [name, *(alias for alias, options in packaged("loss").items() if options.get("defaults") == [name])]
    return (
        ", ".join(f"`{label}`" for label in names),
        loss.reads,
        reference(loss, settings),
        parameters(loss, settings),
        loss.optimum,
        paper(loss),
    )


def reference(loss: type[Loss], settings: LossSettings) -> str:
    """Whether the loss needs a reference model, or a joint term does that its file brings along."""
    if issubclass(loss, SampledLoss) or kind_of(loss).needs_reference:
        return "yes"
    joint = [part.loss for part in loss_parts(settings) if kind_of(resolve(LOSSES, part.loss)).needs_reference]
    return f"for its `{joint[0]}` term, not with `dpo_weight=0`" if joint else "no"


def parameters(loss: type[Loss], settings: LossSettings) -> str:
    """The fields of a loss and of its joint term, with the values of its file and the ranges of the field docstrings; what does not fit
    into a cell is counted."""
    texts = field_docstrings(JointSettings) | field_docstrings(loss)
    cells = [f"`{name}` {json.dumps(value)}{in_range(texts[name])}" for name, value in settings.options.items() if name in texts]
    for shown in range(len(cells), 0, -1):
        rest = [f"{len(cells) - shown} more in `conf/loss/{settings.name}.yaml`"] if shown < len(cells) else []
        if len(text := ", ".join([*cells[:shown], *rest])) <= WIDEST:
            return text
    return ""


def in_range(text: str) -> str:
    """The range that a field docstring states, to stand behind a value: ` in [0, 0.5)` or ` > 0`, empty where it states none."""
    found = RANGE.search(text)
    if found is None:
        return ""
    return f" {found[0]}" if found[0][0] in "<>" else f" in {found[0]}"


def field_docstrings(record: type) -> dict[str, str]:
    """The strings under the fields of a dataclass and of those it derives from, which only their source has, by field."""
    fields = {field.name for field in dataclasses.fields(record)}
    sources = [inspect.getsource(kind) for kind in reversed(record.__mro__) if dataclasses.is_dataclass(kind)]
    return {name: text for source in sources for name, text in strings_under_names(source) if name in fields}


def strings_under_names(source: str) -> Iterator[tuple[str, str]]:
    """Each annotated name in the body of a class with the string that follows it, on one line."""
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    for statement, after in zip(definition.body, definition.body[1:], strict=False):
        match statement, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                yield name, " ".join(text.split())


def paper(loss: type[Loss]) -> str:
    """A link to the first source in the class's docstring, empty where it names none."""
    found = SOURCE.search(inspect.getdoc(loss) or "")
    if found is None:
        return ""
    if found["arxiv"]:
        return f"[{found['arxiv']}](https://arxiv.org/abs/{found['arxiv']})"
    return f"[{found['url'].rpartition('/')[2]}]({found['url']})"


if __name__ == "__main__":
    sys.exit(main())
