"""Publishing on the Hub, and which names the Hub allows."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pydantic import Field

from hfprune.recipe.places import Clash
from hfprune.recipe.sections.base import Name, Section
from hfprune.recipe.wording import describe_value


class HubConfig(Section):
    """Publishing the finished output folder; spelled as in transformers' `TrainingArguments`."""

    push_to_hub: bool = Field(
        default=False,
        description="Upload the output folder to the Hub at the end. The access token comes from "
        "`hf auth login` or the variable HF_TOKEN, never from a recipe.",
    )
    hub_model_id: Name | None = Field(
        default=None,
        description="Repository to upload to, made if it is not there.",
        examples=["user/my-model"],
    )
    hub_private_repo: bool = Field(
        default=False,
        description="Upload to a private repository only; false: a new one is as the account's "
        "settings say, usually public.",
    )
    hub_revision: Name | None = Field(
        default=None,
        description="Branch to upload to, made if it is not there; null: main.",
    )

    def _clashes(self) -> Iterator[Clash]:
        if self.push_to_hub and self.hub_model_id is None:
            yield Clash(
                "push_to_hub is true, but no repository is named: give hub_model_id, for example "
                "hub_model_id: user/my-model",
                ("push_to_hub", "hub_model_id"),
            )
        if self.hub_model_id is not None and (problem := repo_id_problem(self.hub_model_id)):
            yield Clash(problem, ("hub_model_id",))
        if self.hub_revision is not None and (problem := branch_problem(self.hub_revision)):
            yield Clash(problem, ("hub_revision",))


def repo_id_problem(name: str) -> str:
    """What is wrong with the name of a Hub repository to write to; empty if nothing is.

    The Hub's rules, and an owner is required: without one the name would depend on who runs it.
    """
    owner, slash, rest = name.partition("/")
    parts = (owner, rest)
    if not slash or "/" in rest:
        return f"must be an owner and a name, such as user/my-model, got {describe_value(name)}"
    if any(not re.fullmatch(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?", p) for p in parts):
        return (
            "may hold letters, digits, '_', '-' and '.', and must neither start nor end with '-' "
            f"or '.', got {describe_value(name)}"
        )
    if "--" in name or ".." in name or name.endswith(".git") or len(rest) > 96:
        return (
            "may not hold '--' or '..', end with '.git', or have a name of more than 96 letters, "
            f"got {describe_value(name)}"
        )
    return ""


def branch_problem(name: str) -> str:
    """What is wrong with the name of a branch to write to; empty if nothing is."""
    if re.fullmatch(r"[0-9a-f]{40}", name):
        return f"must name a branch, but a commit cannot be written to, got {describe_value(name)}"
    if (
        not re.fullmatch(r"[A-Za-z0-9_](?:[A-Za-z0-9_./-]*[A-Za-z0-9_])?", name)
        or any(part in name for part in ("..", "//", "/.", "./"))
        or name.startswith("refs/")
        or name.endswith(".lock")
    ):
        return f"must be the name of a branch, such as main or v2, got {describe_value(name)}"
    return ""
