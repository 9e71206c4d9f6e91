# SPDX-License-Identifier: Apache-2.0
"""What each way of encoding gains in a family of tensors, and how sure that is."""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .history import Costs
    from .objective import Objective

Array = np.ndarray[Any, np.dtype[Any]]

TENSORS: Final = 9.0  # variance of tensors of a family beside that of measurements
GAINS: Final = 10.0  # and what ways gain beside what their prior says
NEIGHBOURS: Final = 2
REACH: Final = 1.0  # distance of features at which a neighbour says half


def posterior(
    costs: Costs, ways: Sequence[str], prior: Array, objective: Objective
) -> tuple[Array, Array]:
    """Gains of ways, log of the objective for a byte beside the family's mean: mean and covariance,
    the latter in units of a measurement's variance.

    A linear mixed model (Laird and Ware 1982, "Random-effects models for longitudinal data"):
    logarithm = mean of the family + random effect of the tensor + gain of the way + noise. Tensors
    that were encoded in several ways therefore say most; their effects are integrated out, and
    normal equations of one unknown for each way remain. Large tensors weigh more: their sum is
    what counts.

    Parameters
    ----------
    costs
        Of the family's tensors.
    ways
        Which gains are sought.
    prior
        float64[ways]: expected gains.
    objective
        What a cost is worth.

    """
    n = len(ways)
    place = {way: i for i, way in enumerate(ways)}
    rows = [
        (i, place[way], cost)
        for i, known in enumerate(costs.values())
        for way, cost in known.items()
        if way in place
    ]
    precision = np.diag(np.full(n + 1, 1 / GAINS))
    precision[0, 0] = 1e-9  # nothing is known of the family's mean
    right = np.concatenate([[0.0], prior / GAINS])
    if rows:
        weight, value = np.zeros((2, len(costs), n + 1))
        largest = max(cost.nbytes for _, _, cost in rows)
        for i, j, cost in rows:
            weight[i, j + 1] = cost.n * cost.nbytes / largest
            value[i, j + 1] = log(objective.value(cost.encoded, cost.seconds) / cost.nbytes)
        total = weight.sum(1)
        shrink = TENSORS / (1 + TENSORS * total)
        design = weight.copy()  # column 0 is the mean, which each measurement has
        design[:, 0] = total
        weighted = (weight * value).sum(1)
        precision += np.diag(weight.sum(0)) - (design * shrink[:, None]).T @ design
        precision[0, 1:] += weight[:, 1:].sum(0)
        precision[1:, 0] += weight[:, 1:].sum(0)
        precision[0, 0] += total.sum()
        sums = (weight * value).sum(0)
        sums[0] = weighted.sum()
        right += sums - design.T @ (shrink * weighted)
    inverse = np.linalg.inv(precision)
    mean = inverse @ right
    return mean[1:], inverse[1:, 1:]


def expected(
    features: Sequence[float],
    ways: Sequence[str],
    others: Sequence[tuple[Sequence[float], Mapping[str, float]]],
) -> Array:
    """Gains over the default that families with similar features had, float64[ways].

    The nearest of those that know a way count, less the further away they are.
    """
    found = np.zeros(len(ways))
    if others:
        away = np.sqrt(((np.array([one for one, _ in others]) - features) ** 2).sum(1))
        order = np.argsort(away, kind="stable").tolist()
        for i, way in enumerate(ways):
            near = [j for j in order if way in others[j][1]][:NEIGHBOURS]
            if near:
                trust = 1 / (1 + (away[near] / REACH) ** 2)
                found[i] = (trust * [others[j][1][way] for j in near]).sum() / max(1.0, trust.sum())
    return found
