"""A stranger's task files are data: whatever could make code of them is refused unless their folder is trusted."""

from __future__ import annotations

from pathlib import Path

import pytest
from jinja2.exceptions import SecurityError

from alignkit.errors import UserError
from alignkit.evaluating.harness_files import check_files, sandboxed

METRICS = ("acc", "exact_match")
PLAIN = """\
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: sums.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: answer
generation_kwargs: {until: ["."], max_gen_toks: 4}
filter_list: [{name: first, filter: [{function: take_first}]}]
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}]
metadata: {version: 1}
"""


def folder_of(tmp_path: Path, **files: str) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


def test_files_of_plain_data_pass_without_being_trusted(tmp_path):
    folder = folder_of(
        tmp_path,
        sums=PLAIN,
        more="include: sums.yaml\ntask: more\n# !function in a comment is none\ndoc_to_text: '{{question}} !function f.g'\n",
        suite="group: suite\ntask: [sums, hellaswag, {task: more, num_fewshot: 2}]\naggregate_metric_list: [{metric: exact_match}]\n",
        unrelated="- a list\n",
    )
    assert check_files(folder, METRICS, []) is False


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        ("process_docs: !function harm.process", "!function"),
        ("doc_to_text: !!python/name:os.system", "python/name"),
        ("class: harm.Task", "'class'"),
        ("custom_dataset: harm.load", "'custom_dataset'"),
        ("unsafe_code: false", "'unsafe_code'"),
        ("use_prompt: 'prompts.yaml:mine'", "'use_prompt'"),
        ("metric_list: [{metric: ./harm.py}]", "'./harm.py'"),
        ("metric_list: [{metric: acc, hf_evaluate: true}]", "hf_evaluate"),
        ("generation_kwargs: {custom_generate: ./harm, trust_remote_code: true}", "'custom_generate' in generation_kwargs"),
        ("dataset_kwargs: {trust_remote_code: true}", "'trust_remote_code' in dataset_kwargs"),
        ("dataset_path: pandas", "'pandas'"),
        ("metadata: {tokenizer: nobody/harm}", "'tokenizer' in metadata"),
        ("fewshot_config: {process_docs: harm}", "'process_docs' in fewshot_config"),
    ],
)
def test_what_can_run_code_is_refused_by_name_and_passes_in_a_trusted_folder(tmp_path, lines, named):
    kept = [line for line in PLAIN.splitlines() if line.partition(":")[0] != lines.partition(":")[0]]
    folder = folder_of(tmp_path, sums="\n".join([*kept, lines]))
    with pytest.raises(UserError, match=r"sums\.yaml.*may run code.*allow_code=\[mine\]") as refusal:
        check_files(folder, METRICS, ["another"])
    assert named in str(refusal.value)
    assert check_files(folder, METRICS, ["another", "mine"]) is True


def test_tasks_of_the_harness_are_not_given_data_of_another(tmp_path):
    folder = folder_of(tmp_path, suite="group: suite\ntask: [{task: hellaswag, dataset_path: json}]\n")
    with pytest.raises(UserError, match="'dataset_path' in a group"):
        check_files(folder, METRICS, [])


def test_a_group_is_not_given_them_by_what_it_includes(tmp_path):
    folder = folder_of(tmp_path, suite="include: part.yaml\ngroup: suite\ntask: [hellaswag]\n", part="dataset_path: json\n")
    with pytest.raises(UserError, match="'dataset_path' in a group"):
        check_files(folder, METRICS, [])


def test_files_outside_the_folder_are_not_included(tmp_path):
    (tmp_path / "harm.txt").write_text("process_docs: !function harm.process\n")
    folder = folder_of(tmp_path, sums="include: ../harm.txt\n" + PLAIN)
    with pytest.raises(UserError, match="outside the folder"):
        check_files(folder, METRICS, [])


def test_what_is_included_is_checked_whatever_it_is_called(tmp_path):
    folder = folder_of(tmp_path, sums="include: harm.txt\n" + PLAIN)
    (folder / "harm.txt").write_text("process_docs: !function harm.process\n")
    with pytest.raises(UserError, match="!function"):
        check_files(folder, METRICS, [])


def test_a_file_that_includes_itself_is_named(tmp_path):
    with pytest.raises(UserError, match="includes itself"):
        check_files(folder_of(tmp_path, sums="include: sums.yaml\n" + PLAIN), METRICS, [])


def test_templates_that_reach_into_python_are_stopped_in_the_sandbox_only():
    utils = pytest.importorskip("lm_eval.utils")
    reaching = "{{ ''.__class__.__mro__[1].__name__ }}"
    with sandboxed(True):
        with pytest.raises(SecurityError):
            utils.apply_template(reaching, {})
        assert utils.apply_template("{{ text | regex_replace('a', 'b') }}\n", {"text": "banana"}) == "bbnbnb\n"
    assert utils.apply_template(reaching, {}) == "object"
