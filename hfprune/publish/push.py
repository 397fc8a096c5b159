"""The upload of a finished run.

An access token is sent to the Hub and goes nowhere else: what the Hub or a library says of a failed
request passes through :func:`~hfprune.publish.failures.redact` before it is shown.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.utils.tqdm import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from hfprune.core.errors import HubError
from hfprune.core.ownership import MODULES_OF_ENCODERS, TOKENIZER_FILES
from hfprune.core.waiting import SECONDS_TO_ANSWER, ResultT, seconds_for, within
from hfprune.publish.card import build_card
from hfprune.publish.failures import MOST_SECONDS_TO_WAIT, Failure, diagnose, redact
from hfprune.publish.finished import (
    CARD_NAME,
    FIGURES,
    RESULT_FILES,
    Finished,
    read,
)
from hfprune.recipe.public import KEPT_HERE, public_recipe
from hfprune.recipe.reading import dump_recipe
from hfprune.recipe.sections.hub import branch_problem, repo_id_problem

COMMIT_MESSAGE: Final = "Upload a model pruned by hfprune"
_WEIGHTS = re.compile(r"model(?:-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json")
_ONNX = re.compile(r"model[\w-]*\.onnx(?:[._]data)?|config\.json|ort_config\.json")

# What a choice of files to deploy leaves beside the ONNX files.
_DEPLOYED = ("deploy.json", "openvino/openvino_model.xml", "openvino/openvino_model.bin")


def find_token(token: str | None = None) -> str:
    """The access token to use, if an upload can be tried at all. Sends nothing.

    Raises:
        HubError: offline mode is on, there is no token, or it cannot be one.
    """
    if constants.HF_HUB_OFFLINE:
        raise HubError(
            "offline mode is on, so nothing can be uploaded: unset HF_HUB_OFFLINE and "
            "TRANSFORMERS_OFFLINE"
        )
    token = token or get_token()
    if token is None:
        raise HubError(
            "there is no access token: run `hf auth login`, or set the variable HF_TOKEN"
        )
    if not token.isascii() or not token.isprintable() or " " in token:
        raise HubError(
            "the access token holds spaces, line breaks or other signs that no token has; check "
            "how it was copied"
        )
    return token


def push(
    output_dir: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
    retries: int = 3,
    backoff: float = 1.0,
    timeout: float = SECONDS_TO_ANSWER,
    note: Callable[[str], None] | None = None,
    commit_message: str = COMMIT_MESSAGE,
) -> str:
    """Upload a finished run to the Hub, in one commit.

    Model, tokenizer, modules of a sentence encoder, ``onnx/``, ``openvino/``, ``deploy.json``,
    ``metrics.json``, ``plan.json``, ``recipe.yaml`` (without local paths) and the model card with
    its figures are uploaded, no other file. What an earlier upload
    left of the model's own files and this one lacks is removed. The directory is only read. A card
    that was edited is uploaded as it is; else it names ``repo_id`` in its examples.

    Args:
        output_dir: of a finished run.
        repo_id: ``owner/name``; made if it is not there.
        private: upload only if the repository is private. False: a new one is made as the
            account's settings say.
        revision: branch, made if it is not there; ``None``: ``main``.
        token: access token; ``None``: that of ``HF_TOKEN`` or ``hf auth login``.
        retries: further attempts after a failure that may pass (no connection, HTTP 408, 429 or
            5xx). Files that have arrived are not sent again.
        backoff: seconds before the first of them; doubled for each, at most 30.
        timeout: seconds that the Hub may take for an answer; for the commit a second more for each
            50 kB of the files. A server that stalls or drips is given up then.
        note: is told what happens, line by line; ``None``: silence, without progress bars.
        commit_message: of the one commit.

    Returns:
        The address of the commit.

    Raises:
        HubError: whatever went wrong, with the command that tries again.
    """
    folder = Path(output_dir)
    for what, problem in (
        ("repository", repo_id_problem(repo_id)),
        ("branch", branch_problem(revision) if revision is not None else ""),
    ):
        if problem:
            raise HubError(f"the name of the {what} {problem}")
    say = note or (lambda text: None)
    run = read(folder)
    files, left_out = _files(run, repo_id)
    if left_out:
        say(f"not uploaded, being none of hfprune's files: {', '.join(left_out)}")
    again = _command(folder, repo_id, private, revision)
    try:
        secret = find_token(token)
    except HubError as error:
        raise HubError(f"{error}. Then: {again}") from None

    api = HfApi(token=secret, library_name="hfprune")
    failure = Failure("", False)
    tries = max(0, retries) + 1
    for attempt in range(tries):
        if attempt:
            wait = min(backoff * 2 ** (attempt - 1), MOST_SECONDS_TO_WAIT)
            say(f"{failure.why}; attempt {attempt + 1} of {tries} in {wait:.0f} s")
            time.sleep(wait)
        try:
            with _progress_bars(note is not None):
                url = _upload(
                    api, repo_id, revision, private, files, _Patience(timeout, say), commit_message
                )
            return redact(url, secret)
        except HubError as error:
            failure = Failure(str(error), False)
        # The transfer libraries document no errors of their own; their cause is told apart below.
        except Exception as error:
            failure = diagnose(error, repo_id, revision, secret)
        if not failure.passing:
            break
    # Raised here and not in the handler: the original error may hold the token, and a traceback
    # would print it as the context of this one.
    count = f" after {tries} attempts" if failure.passing and tries > 1 else ""
    raise HubError(
        f"the upload of {folder} to {repo_id} failed{count}: {failure.why}. The folder is whole "
        f"and unchanged; to try again: {again}"
    )


def _command(folder: Path, repo_id: str, private: bool, revision: str | None) -> str:
    words = ["hfprune", "push", str(folder), "--repo-id", repo_id]
    words += ["--private"] * private
    words += ["--revision", revision] if revision is not None else []
    return shlex.join(words)


def _is_ours(path: str) -> bool:
    """Whether a path inside the repository is one that hfprune uploads."""
    if path in FIGURES or path in _DEPLOYED:
        return True
    if any(fnmatch(path.removeprefix("onnx/"), one) for one in MODULES_OF_ENCODERS):
        return True
    folder, _, name = path.rpartition("/")
    if folder not in ("", "onnx"):
        return False
    of_folder = _ONNX if folder else _WEIGHTS
    return (
        name in TOKENIZER_FILES
        or of_folder.fullmatch(name) is not None
        or (not folder and name in RESULT_FILES)
    )


def _files(run: Finished, repo_id: str) -> tuple[dict[str, Path | bytes], list[str]]:
    """What goes into the repository, by path; and the paths of files that are none of ours."""
    files: dict[str, Path | bytes] = {}
    left_out = []
    for path in sorted(run.folder.rglob("*")):
        if path.is_file():
            name = path.relative_to(run.folder).as_posix()
            if _is_ours(name):
                files[name] = path
            elif not KEPT_HERE.fullmatch(name):
                left_out.append(name)
    if not any(_WEIGHTS.fullmatch(name) for name in files):
        raise HubError(
            f"{run.folder} holds no model.safetensors; give the output_dir of a finished run"
        )
    files["recipe.yaml"] = dump_recipe(public_recipe(run.recipe, run.results.sources)).encode()
    figures = [path for path in FIGURES if path in files]
    card = run.folder / CARD_NAME
    # Figures can have come after the card, by `hfprune report`: it is none the less not edited.
    ours = (build_card(run, None, shown) for shown in (figures, []))
    if not card.is_file() or card.read_text("utf-8", "replace") in ours:
        files[CARD_NAME] = build_card(run, repo_id, figures).encode()
    return files, left_out


class _Patience:
    """How long to wait for the Hub, and who is told of it meanwhile."""

    def __init__(self, seconds: float, say: Callable[[str], None]) -> None:
        self._seconds, self._say = seconds, say

    def ask(self, do: Callable[[], ResultT], size: int = 0) -> ResultT:
        """The answer to a request that sends so many bytes.

        Raises:
            TimeoutError: none came in time.
        """
        limit = seconds_for(size, self._seconds)
        return within(
            limit,
            do,
            tell=lambda waited: self._say(
                f"waiting for the Hub, {waited:.0f} s of at most {limit:.0f}"
            ),
        )


def _upload(
    api: HfApi,
    repo_id: str,
    revision: str | None,
    private: bool,
    files: Mapping[str, Path | bytes],
    patience: _Patience,
    commit_message: str,
) -> str:
    """One attempt. May be repeated: what is done already is left as it is."""
    ask = patience.ask
    # None, not False: where an organisation's repositories are private, this one is too.
    ask(lambda: api.create_repo(repo_id, private=private or None, exist_ok=True))
    if private and not ask(lambda: api.repo_info(repo_id)).private:
        raise HubError(
            "the repository is there already and is public, but a private one was asked for; "
            "nothing was uploaded. Make it private in its settings, name another one, or leave "
            "out --private (hub_private_repo)"
        )
    if revision is not None and revision != constants.DEFAULT_REVISION:
        branch = revision
        ask(lambda: api.create_branch(repo_id, branch=branch, exist_ok=True))
    there = ask(lambda: api.list_repo_files(repo_id, revision=revision))
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(name, source if isinstance(source, bytes) else str(source))
        for name, source in files.items()
    ]
    operations += [
        CommitOperationDelete(name) for name in there if _is_ours(name) and name not in files
    ]
    size = sum(len(one) if isinstance(one, bytes) else one.stat().st_size for one in files.values())
    commit = ask(
        lambda: api.create_commit(
            repo_id,
            operations,
            commit_message=commit_message,
            revision=revision,
        ),
        size,
    )
    return str(commit.commit_url)


@contextmanager
def _progress_bars(shown: bool) -> Iterator[None]:
    if shown or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
