"""Publishing on the Hub, and which names the Hub allows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated

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

    license: Name | None = Field(
        default=None,
        description="What the model card states: a licence as the Hub spells it, or other. It has "
        "to suit the model and data that you began with; null: none is stated.",
        examples=["apache-2.0"],
    )
    language: Annotated[list[Name], Field(min_length=1)] | None = Field(
        default=None,
        description="Languages of the texts, as the Hub's filters name them (ISO 639).",
        examples=[["en"]],
    )

    def _clashes(self) -> Iterator[Clash]:
        if self.license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", self.license):
            yield Clash(
                "license must be the Hub's name of one, such as apache-2.0, mit or other, got "
                f"{describe_value(self.license)}",
                ("license",),
            )
        odd = [code for code in self.language or [] if not re.fullmatch(r"[a-z]{2,3}", code)]
        if odd:
            yield Clash(
                f"language must hold codes of two or three letters, such as en, got "
                f"{describe_value(odd[0])}",
                ("language",),
            )
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
