"""A run's model on the hub: one commit of the model's files, its heads and its card."""

from __future__ import annotations

from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, constants

from alignkit.errors import UserError
from alignkit.hub import first_line
from alignkit.run_dir import RunDir


def push(run: RunDir, card: ModelCard, repository: str, *, private: bool) -> str:
    """Create the repository where there is none, and commit everything that whoever loads the model needs, or nothing.

    A repository that is there keeps its visibility, and files of other names.

    Returns:
        Its address.

    Raises:
        UserError: when the hub refuses, or goes away on the way; the run's own files stay as they are.
    """
    api = HfApi(endpoint=constants.ENDPOINT)
    beside = [file for file in (run.heads, run.heads_description, run.texts) if file.is_file()]
    files = [file for file in sorted(run.model.iterdir()) if file.is_file() and file != run.card] + beside
    operations = [CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=file) for file in files]
    operations.append(CommitOperationAdd(path_in_repo=run.card.name, path_or_fileobj=str(card).encode()))
    try:
        address = api.create_repo(repository, private=private, exist_ok=True)
        api.create_commit(repository, operations, commit_message="Model trained by alignkit")
    except Exception as error:  # of three libraries: requests, large files, chunks
        raise UserError(
            f"push = {repository!r}: the upload failed ({type(error).__name__}: {first_line(error)}). The model is whole in {run.model}; "
            f"try again with: python -m alignkit.export {run.path} push={repository}"
        ) from error
    return str(address)
