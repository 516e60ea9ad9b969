"""What lm-evaluation-harness's own tasks ask a model about the same rows, text by text."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest

from alignkit.evaluation.tasks.catalogue import find_task

Row = dict[str, Any]
Requests = list[list[tuple[str, str]]]
"""For each row what is read and what is scored, once for each candidate."""

pytest.importorskip("lm_eval", minversion="0.4.13")

HARNESS = {
    "cola": "glue/cola/default.yaml",
    "sst2": "glue/sst2/default.yaml",
    "mrpc": "glue/mrpc/default.yaml",
    "qqp": "glue/qqp/default.yaml",
    "qnli": "glue/qnli/default.yaml",
    "rte": "glue/rte/default.yaml",
    "mnli": "glue/mnli/default.yaml",
    "wnli": "glue/wnli/default.yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
    "openbookqa": "openbookqa/openbookqa.yaml",
    "winogrande": "winogrande/default.yaml",
    "arc_challenge": "arc/arc_challenge.yaml",
    "arc_easy": "arc/arc_easy.yaml",
    "boolq": "super_glue/boolq/default.yaml",
    "piqa": "piqa/piqa.yaml",
    "sciq": "sciq/sciq.yaml",
    "copa": "super_glue/copa/default.yaml",
    "truthfulqa": "truthfulqa/truthfulqa_mc1.yaml",
}


def harness_requests(task: str, rows: Sequence[Row]) -> tuple[Requests, list[int]]:
    """What the harness sends to a model, and the place of the right candidate; rows are as on the hub."""
    import lm_eval.tasks
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    config = load_yaml(Path(str(lm_eval.tasks.__file__)).parent / HARNESS[task], resolve_func=True)
    config.pop("tag", None)
    splits = {"training_split": None, "validation_split": None, "test_split": "test"}
    kind = ConfigurableTask(config={**config, **splits, "custom_dataset": lambda **_: {"test": datasets.Dataset.from_list(list(rows))}})
    characters: Any = SimpleNamespace(backend="causal", tok_encode=list)  # a model whose tokens are characters
    requests, right = [], []
    for row in kind.eval_docs:
        built = kind.construct_requests(row, kind.fewshot_context(row, num_fewshot=0), metadata=(task, 0, 1))
        pairs = [TemplateLM._encode_pair(characters, *request.args) for request in built]
        requests.append([("".join(read), "".join(scored)) for read, scored in pairs])
        place = kind.doc_to_text(row) if kind.multiple_input else kind.doc_to_target(row)
        right.append(kind.doc_to_choice(row).index(place) if isinstance(place, str) and not place.isdigit() else int(place))
    return requests, right


def own_requests(task: str, rows: Sequence[Mapping[str, Any]]) -> tuple[Requests, list[int]]:
    found = [find_task(task, "evaluation.tasks", listed=None).to_example(row) for row in rows]
    requests = [
        [
            (str(question.prompt) + given, text)
            for given, text in zip(question.given or [""] * len(question.candidates), question.candidates, strict=True)
        ]
        for question in found
    ]
    return requests, [question.correct[0] for question in found]


@pytest.fixture(autouse=True)
def quiet() -> Any:
    silent = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    yield
    if not silent:
        datasets.enable_progress_bars()


# Rows in the form of the hub's

TRUTH = {
    "question": "Do mice eat cheese?",
    "mc1_targets": {"choices": ["Rarely", "Yes, always."], "labels": [1, 0]},
    "mc2_targets": {"choices": ["Rarely", "No", "Yes, always."], "labels": [1, 1, 0]},
}
HUB: Mapping[str, Sequence[Row]] = {
    "cola": [{"sentence": "They drank the pub dry.", "label": 1}, {"sentence": " Ann sleep. ", "label": 0}],
    "sst2": [{"sentence": "unflinchingly bleak and desperate ", "label": 0}],
    "mrpc": [{"sentence1": "He did .", "sentence2": "He had .", "label": 1}],
    "qqp": [{"question1": "How old is it?", "question2": "What age?", "label": 0}],
    "qnli": [{"question": "Who won?", "sentence": "Ann won.", "label": 0}],
    "rte": [{"sentence1": "Ann won.", "sentence2": "Somebody won.", "label": 0}],
    "wnli": [{"sentence1": "The drain is clogged. It has to be cleaned.", "sentence2": "The drain has to be cleaned.", "label": 1}],
    "mnli": [
        {"premise": "Ann won.", "hypothesis": "Somebody won", "label": 0},
        {"premise": "Ann won. ", "hypothesis": "Nobody did. ", "label": 2},
    ],
    "hellaswag": [
        {
            "activity_label": "Food",
            "ctx_a": "[header] Soup [title] Boil it. [step] Wait.",
            "ctx_b": "",
            "endings": ["[step] So", "a  b"],
            "label": "1",
        },
        {"activity_label": "Vault", "ctx_a": "A man runs.", "ctx_b": "the Man [step]", "endings": ["jumps. [title] So", "x"], "label": "0"},
    ],
    "openbookqa": [
        {"question_stem": "Fog is around ", "choices": {"text": ["a marsh", "a desert"], "label": ["A", "B"]}, "answerKey": "A"},
    ],
    "winogrande": [
        {"sentence": "Ann beat Bea as _ was faster.", "option1": "Ann", "option2": "Bea", "answer": "1"},
        {"sentence": "It was the  _ . ", "option1": "blue car ", "option2": "blue cart", "answer": "2"},
        {"sentence": "_'s dog bit _.", "option1": "Ann", "option2": "Anna", "answer": "1"},
    ],
    "arc_challenge": [
        {"question": "What is hot?", "choices": {"text": ["ice", "fire", "fog"], "label": ["1", "2", "3"]}, "answerKey": "2"}
    ],
    "arc_easy": [{"question": "What is hot? ", "choices": {"text": ["ice", "fire"], "label": ["A", "B"]}, "answerKey": "B"}],
    "boolq": [{"passage": "Ice -- Ice is water.", "question": "is ice water", "label": 1}],
    "piqa": [{"goal": "To dress ", "sol1": "use a  pin", "sol2": "use a cup ", "label": 1}],
    "sciq": [
        {"question": "Ice?", "distractor1": "a", "distractor2": "b", "distractor3": "c", "correct_answer": "d", "support": " Cold. "},
        {"question": "Ice?", "distractor1": "a", "distractor2": "b", "distractor3": "c", "correct_answer": "d", "support": ""},
    ],
    "copa": [
        {"premise": "The man fell. ", "choice1": "He ran.", "choice2": "I saw.", "question": "cause", "label": 1},
        {"premise": "The man fell.", "choice1": "He ran.", "choice2": "I saw.", "question": "effect", "label": 0},
    ],
    "truthfulqa": [TRUTH],
}


@pytest.mark.parametrize("task", HARNESS)
def test_rows_of_the_hub_ask_what_the_harness_asks(task: str) -> None:
    assert own_requests(task, HUB[task]) == harness_requests(task, HUB[task])


# Real rows, in the form that they are in, against the same rows in the form of the hub's


def unchanged(row: Row) -> Row:
    return row


def with_number(row: Row) -> Row:
    return {**row, "label": int(row["label"])}


def entailed(row: Row) -> Row:
    return {**row, "label": ["entailment", "not_entailment"].index(row["label"])}


def strings(row: Row) -> Row:
    return {"sentence1": row["#1 String"], "sentence2": row["#2 String"], "label": int(row["Quality"])}


def premise_apart(row: Row) -> Row:
    premise, hypothesis = row["sentence1"].split(" HYPOTHESIS: ")
    return {"premise": premise[len("PREMISE: ") :], "hypothesis": hypothesis, "label": int(row["label"])}


def flat(row: Row) -> Row:
    choices = row["question"]["choices"]
    labels = [choice["label"] for choice in choices]
    texts = [choice["text"] for choice in choices]
    return {"question_stem": row["question"]["stem"], "choices": {"text": texts, "label": labels}, "answerKey": row["answerKey"]}


def numbered_options(row: Row) -> Row:
    texts = [choice for place, choice in enumerate(row["choices"]) if choice not in row["choices"][:place]]
    labels = ["1", "2", "3", "4"][: len(texts)]
    answer = labels[texts.index(row["choices"][row["gold"]])]
    return {"question": row["query"][len("Question: ") :], "choices": {"text": texts, "label": labels}, "answerKey": answer}


def with_blank(row: Row) -> Row:
    """The blank is where the first words that differ begin, which may not be the one of the original row: the texts are the same."""
    first, second = (beginning.split(" ") for beginning in row["context_options"])
    same = next(place for place in range(len(first)) if first[place] != second[place])
    before = "".join(f"{word} " for word in first[:same])
    return {
        "sentence": f"{before}_ {row['continuation']}",
        "option1": " ".join(first[same:]),
        "option2": " ".join(second[same:]),
        "answer": str(row["gold"] + 1),
    }


def passage_apart(row: Row) -> Row:
    passage, question = row["query"].rsplit("\nQuestion: ", 1)
    return {"passage": passage[len("Passage: ") :], "question": question[:-1], "label": row["gold"]}


def connected(row: Row) -> Row:
    premise, _, connector = row["query"].rpartition(" ")
    question = {"because": "cause", "therefore": "effect"}[connector]
    return {
        "premise": f"{premise}.",
        "choice1": row["choices"][0],
        "choice2": row["choices"][1],
        "question": question,
        "label": row["gold"],
    }


REAL: Sequence[tuple[str, str, Callable[[Row], Row]]] = [
    ("hellaswag", "hellaswag/validation_1000", unchanged),
    ("winogrande", "winogrande/validation_foundry", with_blank),
    ("boolq", "boolq/validation_foundry", passage_apart),
    ("arc_challenge", "arc_challenge/test_foundry", numbered_options),
    ("openbookqa", "openbookqa/test", flat),
    ("copa", "copa/validation_foundry", connected),
    ("cola", "glue_cola/validation_in_domain", with_number),
    ("sst2", "glue_sst2/validation", with_number),
    ("mrpc", "glue_mrpc/test", strings),
    ("qnli", "glue_qnli/validation", entailed),
    ("mnli", "glue_mnli_pvi/validation_matched", premise_apart),
    ("wnli", "glue_wnli/validation", with_number),
]
MOST, FEW = 1300, 200
"""Rows of a file, and of a file of GLUE: all of the first five files but BoolQ's."""


@pytest.mark.real
@pytest.mark.parametrize(("task", "file", "on_hub"), REAL, ids=[file for _, file, _ in REAL])
def test_real_rows_ask_what_the_harness_asks(shared: Path, task: str, file: str, on_hub: Callable[[Row], Row]) -> None:
    path = shared / "data" / f"{file}.jsonl.gz"
    if not path.exists():
        pytest.skip(f"no {path}")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines][: FEW if file.startswith("glue") else MOST]
    converted = [on_hub(row) for row in rows]
    expected = harness_requests(task, converted)
    assert own_requests(task, rows) == expected
    assert own_requests(task, converted) == expected
