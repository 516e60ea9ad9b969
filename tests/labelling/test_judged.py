"""What `judged.jsonl` holds is all that labels need."""

from __future__ import annotations

import json

import pytest

from alignkit.data.examples import Message
from alignkit.judges.bouts import Verdict
from alignkit.judges.judge import Comparison, Judgement
from alignkit.labelling.judged import JudgedPrompt, Revised
from alignkit.labelling.pool import Origin

MEMBER = Judgement(scores=(0.1 + 0.2, None), replies=2, unread=1, reasons={"cut": 1}, said=("[[A]]", "…"))
COMPARED = Judgement(
    scores=(1.0, 0.0),
    comparisons=(
        Comparison(first=0, second=1, straight=Verdict.WIN, swapped=Verdict.TIE),
        Comparison(first=0, second=1, straight=None, swapped=Verdict.LOSS),
    ),
    by_judge={"one": MEMBER},
)
REVISED = (
    Revised(final=" b", principles=("p",), critiques=("c",), unread=()),
    Revised(final=None, principles=("p",), critiques=(None,), unread=("critique_cut",)),
)


@pytest.mark.parametrize("prompt", ["Is 2\u2028?", (Message(role="user", content="Hi"),)])
@pytest.mark.parametrize("judgement", [MEMBER, COMPARED])
def test_a_row_is_read_as_what_it_was_made_of(prompt: str | tuple[Message, ...], judgement: Judgement) -> None:
    one = JudgedPrompt(
        prompt=prompt,
        place="prompts = p.txt, line 1",
        completions=(" a", " b"),
        lengths=(2, 3),
        finished=(True, False),
        origins=((Origin(source="f", model=None),), (Origin(source="f", model="m"), Origin(source="g", model=None))),
        drawn=4,
        tokens=9,
        judgement=judgement,
        revisions=REVISED,
        gold=(1.5, -2.0),
    )
    row = json.loads(json.dumps(one.row(7)))
    assert row["batch"] == 7
    assert JudgedPrompt.of(row) == one
