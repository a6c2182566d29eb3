"""Tables of cohorts, each drawn to the table of all, from uploads alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def cohort_tables(
    tables: Float[Array, "A I D"],
    shares: Float[Array, " A"],
    cohort: Int[Array, " A"],
    number: int,
    common_share: Float[Array, ""] | None,
) -> Float[Array, "K I D"]:
    """G_k = M_k + s_k (M - M_k), row by row.

    M_k is the mean of the uploads of cohort k by sample shares, and M that of all uploads. A cohort
    without an upload gets M.

    Args:
        tables: uploads.
        shares: sample shares of the uploads; they sum to 1.
        cohort: cohort of each upload, from 0.
        number: K.
        common_share: s for all cohorts and rows; None: fitted (`fitted_share`).
    """
    of_cohort = jax.ops.segment_sum(shares, cohort, number)
    within = shares / jnp.maximum(of_cohort, 1e-20)[cohort]
    common = jnp.tensordot(shares, tables, 1)
    means = jax.ops.segment_sum(within[:, None, None] * tables, cohort, number)
    means = jnp.where((of_cohort > 0)[:, None, None], means, common[None])
    if common_share is None:
        share = fitted_share(tables, within, cohort, means, of_cohort)[..., None]
    else:
        share = common_share
    return means + share * (common[None] - means)


def fitted_share(
    tables: Float[Array, "A I D"],
    within: Float[Array, " A"],
    cohort: Int[Array, " A"],
    means: Float[Array, "K I D"],
    of_cohort: Float[Array, " K"],
) -> Float[Array, "K I"]:
    """s_ki = e_ki / (e_ki + t_i): how much of the common row suits cohort k (empirical Bayes).

    The row of a cohort's mean misses what the cohort wants by an error of variance e_ki = v_i h_k a
    coordinate. Here v_i is the variance of the clients' rows within their cohorts, and h_k the sum
    of the squared weights of its clients. What cohorts want varies by t_i around the common row.
    The means of cohorts then vary by t_i + e_ki. So t_i is their variance less the mean of e_ki,
    and at least 0. If both are 0, s_ki = 1. A cohort with one upload tells nothing of v_i; if all
    have one, v_i = 0.

    Args:
        tables: uploads.
        within: weight of each upload in the mean of its cohort.
        cohort: cohort of each upload.
        means: M_k.
        of_cohort: share of each cohort among all uploads; 0: it has no upload.
    """
    number = len(of_cohort)
    weight = jax.ops.segment_sum(within**2, cohort, number)  # h_k
    off = jnp.mean((tables - means[cohort]) ** 2, axis=2)
    spread = jnp.tensordot(within, off, 1)  # estimates v_i sum_k (1 - h_k)
    free = jnp.sum(jnp.where(of_cohort > 0, 1 - weight, 0.0))
    variance = spread / jnp.maximum(free, 1e-6)
    error = variance[None, :] * weight[:, None]
    there = (of_cohort > 0).astype(means.dtype)
    present = there.sum()
    centre = jnp.tensordot(there, means, 1) / present
    between = jnp.mean((means - centre[None]) ** 2, axis=2)
    between = jnp.tensordot(there, between, 1) / jnp.maximum(present - 1, 1)
    wanted = jnp.maximum(between - jnp.tensordot(there, error, 1) / present, 0.0)
    total = error + wanted[None, :]
    return jnp.where(total > 0, error / jnp.where(total > 0, total, 1.0), 1.0)
