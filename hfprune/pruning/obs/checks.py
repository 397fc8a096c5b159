"""What the matrices of this folder must look like."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from hfprune.core.errors import PlanError


def check_weight(weight: Tensor, matrix: Tensor, name: str) -> int:
    """The width d shared by the weight (o, d) and the matrix (d, d)."""
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape[0] == 0:
        raise PlanError(f"{name} has shape {tuple(matrix.shape)}; expected (d, d)")
    if weight.ndim != 2 or weight.shape[1] != matrix.shape[0]:
        raise PlanError(
            f"weight has shape {tuple(weight.shape)}; expected (o, {matrix.shape[0]}), as many"
            f" columns as {name}"
        )
    return int(weight.shape[1])


def check_units(features: int, unit_size: int) -> int:
    if unit_size < 1 or features % unit_size:
        raise PlanError(f"unit_size is {unit_size}; expected a divisor of the {features} columns")
    return features // unit_size


def check_mask(protected: Tensor | None, units: int, device: torch.device) -> Tensor:
    if protected is None:
        return torch.zeros(units, dtype=torch.bool, device=device)
    if tuple(protected.shape) != (units,) or protected.dtype != torch.bool:
        raise PlanError(
            f"protected is {protected.dtype} of shape {tuple(protected.shape)}; expected torch.bool"
            f" of shape ({units},), one entry a unit"
        )
    return protected.to(device)


def check_stops(stop_at: Sequence[int], units: int, protected: int) -> list[int]:
    stops = [int(stop) for stop in stop_at]
    if not stops:
        raise PlanError("stop_at is empty; give at least one number of kept units")
    if any(later >= earlier for earlier, later in pairwise(stops)):
        raise PlanError(f"stop_at is {stops}; expected strictly descending numbers of kept units")
    if stops[0] > units or stops[-1] < 0:
        raise PlanError(f"stop_at is {stops}; expected numbers from {units} down to 0")
    if stops[-1] < protected:
        raise PlanError(
            f"stop_at goes down to {stops[-1]} kept units, but {protected} are protected; stop at"
            f" {protected} or protect fewer"
        )
    return stops


def check_indices(indices: Tensor, limit: int, what: str) -> Tensor:
    if indices.ndim != 1 or indices.dtype != torch.int64:
        raise PlanError(
            f"kept is {indices.dtype} of shape {tuple(indices.shape)}; expected a list of {what}:"
            " torch.int64, one dimension"
        )
    if len(indices) and (int(indices.min()) < 0 or int(indices.max()) >= limit):
        raise PlanError(
            f"kept names {what} {int(indices.min())} to {int(indices.max())}; there are only"
            f" {limit}, counted from 0"
        )
    if len(indices.unique()) != len(indices):
        raise PlanError(f"kept names some {what} twice; expected each once")
    return indices
