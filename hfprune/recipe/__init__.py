"""Recipes: what they may say, read from YAML, with every problem told at once."""

from typing import Any

from hfprune.core.moved import moved_name
from hfprune.recipe.reading import dump_recipe, load_recipe, parse_recipe, recipe_schema
from hfprune.recipe.sections.data import DataConfig
from hfprune.recipe.sections.evaluation import BenchmarkConfig, EvaluationConfig
from hfprune.recipe.sections.export import ExportConfig, QuantizationConfig
from hfprune.recipe.sections.hub import HubConfig
from hfprune.recipe.sections.model import ModelConfig, TeacherConfig
from hfprune.recipe.sections.pruning import PruningConfig, VocabularyConfig
from hfprune.recipe.sections.training import DistillationConfig, RecoveryConfig, TrainingConfig
from hfprune.recipe.sections.whole import Recipe

__all__ = [
    "BenchmarkConfig",
    "DataConfig",
    "DistillationConfig",
    "EvaluationConfig",
    "ExportConfig",
    "HubConfig",
    "ModelConfig",
    "PruningConfig",
    "QuantizationConfig",
    "Recipe",
    "RecoveryConfig",
    "TeacherConfig",
    "TrainingConfig",
    "VocabularyConfig",
    "dump_recipe",
    "load_recipe",
    "parse_recipe",
    "recipe_schema",
]


def __getattr__(name: str) -> Any:
    return moved_name(__name__, name)
