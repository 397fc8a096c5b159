"""Publishing on the Hub; last, so that a failed upload costs nothing but itself."""

from __future__ import annotations

from collections.abc import Iterable

from hfprune.core.errors import HubError
from hfprune.core.model_ref import PRUNED
from hfprune.pipeline.context import Context
from hfprune.publish.finished import member_repo_id
from hfprune.publish.push import push


def run(context: Context, labels: Iterable[str]) -> None:
    """Upload each model into a repository of its own.

    Raises:
        HubError: for all uploads that failed, after the others were made.
    """
    hub, console, output = context.recipe.hub, context.console, context.store.output
    if not hub.push_to_hub or hub.hub_model_id is None:
        return
    failed = []
    with console.stage("push"):
        for label in labels:
            single = label == PRUNED
            try:
                url = push(
                    output if single else output / label,
                    member_repo_id(hub.hub_model_id, None if single else label),
                    private=hub.hub_private_repo,
                    revision=hub.hub_revision,
                    note=None if console.silent else console.note,
                )
            except HubError as error:
                failed.append(str(error))
            else:
                console.note(f"pushed: {url}")
    if failed:
        raise HubError("\n".join(failed))
