"""What the Hub or a library says of a failed request, in words that help; no token among them."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from huggingface_hub import constants, get_token

from hfprune.core.text import one_line

MOST_SECONDS_TO_WAIT: Final = 30.0
_SECRETS = re.compile(
    r"hf_[A-Za-z0-9]{8,}|(?<=Bearer )\S+|eyJ[\w-]{8,}\.[\w.-]+|(?<=://)[^/\s@]+(?=@)"
)


def redact(text: str, *tokens: str | None) -> str:
    """The text without these tokens, the stored one, and whatever looks like one."""
    for token in (*tokens, get_token()):
        if token:
            text = text.replace(token, "***")
    return _SECRETS.sub("***", text)


# What the Hub's client raises on an answer that lacks what it looks for, or is no JSON.
_MALFORMED = (KeyError, IndexError, TypeError, AttributeError, ValueError)


class Failure(NamedTuple):
    why: str
    passing: bool
    """Whether it may be gone the next time."""


def diagnose(
    error: BaseException, repo_id: str, revision: str | None, token: str | None
) -> Failure:
    """What a failed attempt means. The transfer libraries wrap errors: their causes are read."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    for link in chain:
        status = getattr(getattr(link, "response", None), "status_code", None)
        if isinstance(status, int):
            said = getattr(link, "server_message", None)
            said = f" (it said: {_brief(str(said), token)})" if said else ""
            return Failure(
                _meaning(status, repo_id, revision) + said,
                status >= 500 or status in (408, 429),
            )
    told = f"{type(error).__name__}: {error}"
    if isinstance(error, TimeoutError) and "not done within" in str(error):
        where = redact(constants.ENDPOINT, token)
        return Failure(
            f"{where} did not take it in time ({error}): the network is slow or the server stalls; "
            "allow more with --timeout (timeout=...)",
            False,
        )
    if any(_is_network_error(link) for link in chain):
        where = redact(constants.ENDPOINT, token)
        return Failure(f"no answer from {where} ({_brief(told, token)})", True)
    if any(isinstance(link, _MALFORMED) for link in chain):
        where = redact(constants.ENDPOINT, token)
        return Failure(
            f"the answer of {where} cannot be understood ({_brief(told, token)}): is it a Hub, "
            "and does no proxy or login page stand in between?",
            False,
        )
    return Failure(_brief(told, token), False)


def _meaning(status: int, repo_id: str, revision: str | None) -> str:
    owner = repo_id.split("/")[0]
    if status == 401:
        return (
            "the Hub did not accept the access token (401); make a new one that may write, and run "
            "`hf auth login` or set HF_TOKEN"
        )
    if status == 403:
        return (
            f"the access token may not write to {repo_id} (403); it must be one with write "
            f"access, of {owner} or a member of {owner}"
        )
    if status == 404:
        branch = f" or its branch {revision}" if revision else ""
        return f"the Hub does not know {repo_id}{branch} (404); check the name and the token"
    if status == 409:
        return (
            f"{repo_id} was being changed by something else (409), or has that name for something "
            "else; look at it before trying again"
        )
    if status == 429:
        return "the Hub asks for patience: too many requests (429)"
    if status >= 500:
        return f"the Hub failed ({status})"
    return f"the Hub refused the request ({status})"


def _is_network_error(error: BaseException) -> bool:
    """Whether no whole answer came. By name: which HTTP library there is depends on the version."""
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    libraries = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    # A ValueError of theirs is about what was asked, such as a malformed address.
    return bool(libraries & {"requests", "urllib3", "httpx", "httpx2", "httpcore"}) and not (
        isinstance(error, ValueError)
    )


def _brief(text: str, token: str | None) -> str:
    return one_line(redact(text, token))
