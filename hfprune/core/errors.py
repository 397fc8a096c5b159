"""Every error that hfprune raises on purpose.

All derive from :class:`HFPruneError`, so that ``except HFPruneError`` catches what the library
says about its input and lets real bugs through. What ``cause`` and ``way_out`` say of a class goes
into the table of docs/troubleshooting.md (``scripts/make_errors.py``), with its messages.
"""

from __future__ import annotations

from typing import ClassVar


class HFPruneError(Exception):
    """Base of all errors raised on purpose by hfprune."""

    cause: ClassVar[str] = "An argument that cannot be used, or a measurement that came to nothing."
    way_out: ClassVar[str] = "The message names the argument and what it may be."


class RecipeError(HFPruneError):
    """A recipe, or a command-line override of one, cannot be used."""

    cause = "The recipe, or an override of it, says what cannot be done."
    way_out = "`hfprune recipe check` tells all problems at once, with lines and keys."


class UnsupportedModelError(HFPruneError):
    """No adapter knows how to prune this model."""

    cause = "The model is of a family, a form or a task that hfprune does not prune."
    way_out = "Take a model of the families in [Model families](families.md)."


class MissingExtraError(HFPruneError):
    """An optional package is needed for what was asked and is not installed."""

    cause = "An optional package is not installed."
    way_out = "Install it with the command in the message, or leave out what needs it."


class CheckpointError(HFPruneError):
    """A saved model or training checkpoint cannot be trusted or restored."""

    cause = "A folder of a model is missing, damaged, or not what it was taken for."
    way_out = "Check the path; copy or download the folder anew, as a whole."


class DataError(HFPruneError):
    """A data set is missing something, or holds something that the task cannot use."""

    cause = "Rows are missing, or hold what the task cannot use."
    way_out = "The message names file, row and column: mend them, or name another column."


class PlanError(HFPruneError):
    """A pruning plan is malformed or does not fit the model it is applied to."""

    cause = "A plan, or a target, does not fit the model."
    way_out = "Make the plan from this model; lower the target."


class ExportError(HFPruneError):
    """An ONNX export or quantization failed, or its output disagrees with PyTorch."""

    cause = "The ONNX file could not be written, or does not compute what the model does."
    way_out = "Try another `export.opset`, or a task and family of [What works](matrix.md)."


class TrainingError(HFPruneError):
    """Training cannot start, or had to stop."""

    cause = "Training cannot start, or had to stop."
    way_out = "Change what the message names; `resume=true` goes on from the last checkpoint."


class TrainingMemoryError(TrainingError, RuntimeError):
    """Memory ran out while training.

    Also a ``RuntimeError``, so that accelerate's ``find_executable_batch_size`` tries a smaller
    batch.
    """

    cause = "Memory ran out in training, of whichever device."
    way_out = "Lower the batch size and raise the accumulation by the same factor; then resume."


class NotFiniteError(TrainingError):
    """A loss or gradients of a training are not finite."""

    cause = "A loss or gradients of a training are infinite, or no number."
    way_out = "Lower the learning rate, or look for extreme values in the data."


class OutputError(HFPruneError):
    """A file or folder cannot be written, replaced or read back."""

    cause = "A file or folder cannot be written, replaced or read back."
    way_out = "Free space, change permissions or choose another place; nothing earlier was lost."


class HubError(HFPruneError):
    """A model cannot be published on the Hub, or is not fit to be."""

    cause = "The Hub, the network or the access token stood in the way."
    way_out = "The folder is whole: run the command of the message again once that is mended."


class ExtensionError(HFPruneError):
    """Something that others add (a plug-in, or what is registered by name) cannot be used."""

    cause = "A plug-in, or what is registered by name, cannot be loaded or clashes with another."
    way_out = "The message names the package: update it, mend it, or uninstall it."
