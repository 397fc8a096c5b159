"""What a Trainer does with the model that it has pruned: files, times, a report, the Hub."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from hfprune.api.about import contradicts, in_task_of
from hfprune.api.card import edited
from hfprune.api.stages import OUTPUT, alone, open_run, weights_digest
from hfprune.core.errors import TrainingError
from hfprune.core.exchange import from_main
from hfprune.core.files import atomic_directory, atomic_write_text
from hfprune.core.model_ref import PRUNED
from hfprune.core.ownership import require_replaceable
from hfprune.core.results import Benchmark
from hfprune.families import model_sizes
from hfprune.pipeline.made import Made
from hfprune.pipeline.members import Member, Members
from hfprune.pipeline.prepared import keep
from hfprune.pipeline.results import SavedModel, Scaled
from hfprune.pipeline.stages import temperature as scaling
from hfprune.publish.card import model_card
from hfprune.publish.finished import CARD_NAME, member_repo_id
from hfprune.publish.push import COMMIT_MESSAGE, push

UNFINISHED = """\
## Loading

The training ended while this model was being pruned, and it is saved as it was then. Its layers may
differ in size, which plain `from_pretrained` refuses:

```python
import hfprune

model = hfprune.from_pretrained("{name}")
```
"""


class After:
    """The models that a Trainer made, as :class:`~hfprune.pipeline.made.Made` has them.

    Each call looks whether the Trainer's model is still the one that was kept: after a further
    training, it is kept, and measured, anew.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._dense: Any = None
        self._made: Made | None = None
        self._digest = ""

    def remember(self, model: Any) -> None:
        """Keep what a model was before it is pruned, where no teacher like it is there."""
        trainer = self._trainer
        self._made = self._dense = None
        if trainer.pruning is None or model is None:
            return
        teacher = trainer.given_teacher
        alike = type(teacher) is type(model) and model_sizes(teacher) == model_sizes(model)
        if alike and not contradicts(teacher, model):
            return
        device = next(model.parameters()).device
        self._dense = copy.deepcopy(model.cpu() if device.type != "cpu" else model)
        model.to(device)

    def keep(self, made: Made) -> None:
        """What stages made."""
        self._made = made
        self._digest = weights_digest(self._trainer.bare_model())

    @property
    def is_finished(self) -> bool:
        """Whether there is a model that was pruned to its target."""
        trainer = self._trainer
        if trainer._runs is not None and trainer._runs.under_way:
            return False
        model = trainer.bare_model()
        return trainer.pruning is not None and model is not None and trainer.pruner.shrunk(model)

    # -- files and numbers ----------------------------------------------------------------------

    def export(self, output: Path) -> Path:
        """See :meth:`hfprune.api.trainer.HFPruneTrainer.export`."""
        made = self._current()
        with alone(made.context):
            exported = made.exported()
            if made.context.is_main:
                with atomic_directory(output) as folder:
                    for member in made.members.all:
                        target = folder if member.label == PRUNED else folder / member.label
                        entry = exported.models[member.label]
                        source = made.context.path(entry.folder if entry.deployed is None
                                                   else entry.deployed)  # fmt: skip
                        shutil.copytree(source, target, dirs_exist_ok=True)
            from_main(None)
        return output

    def benchmark(self) -> Benchmark:
        """See :meth:`hfprune.api.trainer.HFPruneTrainer.benchmark`."""
        made = self._current()
        with alone(made.context):
            return made.timed(made.exported()).benchmark

    def report(self, output: Path | None) -> Path:
        """See :meth:`hfprune.api.trainer.HFPruneTrainer.report`."""
        made = self._current()
        output = made.context.store.output if output is None else output
        if len(made.prepared.data.test) == 0:
            raise TrainingError(
                "a report says what the models are worth on rows: pass test_dataset, or "
                "eval_dataset"
            )
        if made.context.is_main:
            require_replaceable(output)
        with alone(made.context):
            made.written(output, replace=True)
            from_main(None)  # it is there
        return output

    def _current(self) -> Made:
        """The models as they are now, kept."""
        trainer = self._trainer
        if not self.is_finished:
            raise TrainingError(
                "nothing has been pruned yet: call train() first"
                if trainer.pruning is not None
                else "this trainer has no pruning, so there is no model to compare with the dense "
                "one: pass pruning=..., or export the model with "
                "hfprune.deploy.exporters.exporting.export_onnx"
            )
        if trainer.processing_class is None:
            raise TrainingError(
                "files are exported with their tokenizer (or image processor): pass "
                "processing_class"
            )
        made, digest = self._made, weights_digest(trainer.bare_model())
        if made is None:
            made = self._opened()
        elif digest == self._digest or made.members.is_family:
            return made
        self._made = self._with_model(made)
        self._digest = digest
        return self._made

    def _opened(self) -> Made:
        """A work folder for the models of one training."""
        trainer = self._trainer
        dense = trainer.given_teacher if self._dense is None else self._dense
        dense = in_task_of(dense, trainer.bare_model())
        output = Path(str(trainer.args.output_dir)) / OUTPUT
        context, prepared = open_run(trainer, trainer.asked, dense, output, resume=False)
        with alone(context):
            saved = keep(context, dense, "dense", trainer.processing_class)
            if context.is_main:
                context.store.put("dense", saved, {}, 0.0)
        return Made(context, prepared, saved, Members())

    def _with_model(self, made: Made) -> Made:
        """The Trainer's model of now in the place of the one that was kept."""
        trainer, context = self._trainer, made.context
        plan = trainer.plan
        if plan is None:
            raise TrainingError("nothing has been pruned yet: call train() first")
        earlier = made.members.all[0] if made.members.all else Member(PRUNED, made.dense)
        with alone(context):
            saved = keep(
                context,
                trainer.bare_model(),
                "pruned-now",
                made.prepared.small.processor,
                plan,
                trainer.state.log_history,
            )
            if context.is_main:
                context.store.put("model", saved, {}, 0.0)
        model, temperature = SavedModel(folder=saved.folder), None
        if context.recipe.fits_temperature:
            scaled = context.stage(
                "temperature now",
                Scaled,
                partial(scaling.run, context, made.prepared, "now", model),
                {"model": model},
                by_main=True,
            )
            model, temperature = SavedModel(folder=scaled.folder), scaled.temperature
        member = Member(
            PRUNED,
            model,
            pruned_log=saved.log,
            table=earlier.table or trainer.pruner.latency,
            candidates=earlier.candidates,
            temperature=temperature,
        )
        return Made(
            context,
            made.prepared,
            made.dense,
            Members([member], made.members.search, made.members.tokens),
        )

    # -- the Hub --------------------------------------------------------------------------------

    def write_card(self, about: Mapping[str, Any]) -> None:
        """See :meth:`hfprune.api.trainer.HFPruneTrainer.create_model_card`."""
        trainer, made = self._trainer, self._current()
        folder = self.report(None)
        last = made.members.all[-1].label
        if made.context.is_main:
            source = folder if last == PRUNED else folder / last
            member = None if last == PRUNED else last
            repo = trainer.hub_model_id or trainer.args.hub_model_id
            name = member_repo_id(repo, member) if repo and "/" in repo else None
            card = edited(model_card(source, name), about)
            place = Path(str(trainer.args.output_dir))
            place.mkdir(parents=True, exist_ok=True)
            atomic_write_text(place / CARD_NAME, card)

    def complete_card(self) -> None:
        """Add to Trainer's card what it cannot know of a model that is pruned only in part."""
        trainer = self._trainer
        if trainer.pruner.gates is None or not trainer.is_world_process_zero():
            return
        place = Path(str(trainer.args.output_dir)) / CARD_NAME
        name = trainer.hub_model_id or trainer.args.hub_model_id or place.parent.name
        card = place.read_text(encoding="utf-8")
        atomic_write_text(place, card.rstrip() + "\n\n" + UNFINISHED.format(name=name))

    def push(
        self,
        commit_message: str | None,
        blocking: bool,
        token: str | None,
        revision: str | None,
        **kwargs: Any,
    ) -> Any:
        """See :meth:`hfprune.api.trainer.HFPruneTrainer.push_to_hub`."""
        trainer = self._trainer
        args, private = trainer.args, kwargs.pop("private", None)
        token = token or args.hub_token
        if "/" not in (trainer.hub_model_id or ""):
            trainer.init_hf_repo(token=token)  # the Hub knows whose it is
        folder, made = self.report(None), self._current()
        if not made.context.is_main:
            return None
        about = {name: value for name, value in kwargs.items() if value is not None}
        todo = []
        for member in made.members.all:
            single = member.label == PRUNED
            place = folder if single else folder / member.label
            repo = member_repo_id(str(trainer.hub_model_id), None if single else member.label)
            if about:
                atomic_write_text(place / CARD_NAME, edited(model_card(place, repo), about))
            todo.append((place, repo))
        trainer._finish_current_push()

        def upload() -> Any:
            found = [
                push(
                    place,
                    repo,
                    private=bool(args.hub_private_repo if private is None else private),
                    revision=revision or getattr(args, "hub_revision", None),
                    token=token,
                    commit_message=commit_message or COMMIT_MESSAGE,
                )
                for place, repo in todo
            ]
            return found if made.members.is_family else found[0]

        if blocking:
            return upload()
        pool = ThreadPoolExecutor(1, thread_name_prefix="hfprune-push")
        future: Future[Any] = pool.submit(upload)
        pool.shutdown(wait=False)
        return future
