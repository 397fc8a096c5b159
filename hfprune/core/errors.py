"""Every error that hfprune raises on purpose.

All derive from :class:`HFPruneError`, so that ``except HFPruneError`` catches what the library
says about its input and lets real bugs through.
"""

from __future__ import annotations


class HFPruneError(Exception):
    """Base of all errors raised on purpose by hfprune."""


class RecipeError(HFPruneError):
    """A recipe, or a command-line override of one, cannot be used."""


class UnsupportedModelError(HFPruneError):
    """No adapter knows how to prune this model."""


class MissingExtraError(HFPruneError):
    """An optional package is needed for what was asked and is not installed."""


class CheckpointError(HFPruneError):
    """A saved model or training checkpoint cannot be trusted or restored."""


class DataError(HFPruneError):
    """A data set is missing something, or holds something that the task cannot use."""


class PlanError(HFPruneError):
    """A pruning plan is malformed or does not fit the model it is applied to."""


class ExportError(HFPruneError):
    """An ONNX export or quantization failed, or its output disagrees with PyTorch."""


class TrainingError(HFPruneError):
    """Training cannot start, or had to stop."""


class TrainingMemoryError(TrainingError, RuntimeError):
    """Memory ran out while training.

    Also a ``RuntimeError``, so that accelerate's ``find_executable_batch_size`` tries a smaller
    batch.
    """


class OutputError(HFPruneError):
    """A file or folder cannot be written, replaced or read back."""


class HubError(HFPruneError):
    """A model cannot be published on the Hub, or is not fit to be."""


class ExtensionError(HFPruneError):
    """Something that others add (a plug-in, or what is registered by name) cannot be used."""
