"""Closed forms of the quadratic federation lie within the Monte-Carlo error of its simulation."""

import jax
import numpy as np
import pytest
from closed_forms import (
    Evidence,
    best_error,
    best_held_share,
    equal_clients,
    error_at,
    learned_error,
)
from comparisons import (
    ALIKE_FITS,
    HELD_FITS,
    KINDS,
    SEEN_FITS,
    SLICES,
    WIDTH,
    Compared,
    Fitted,
    Point,
    Unequal,
    compare_fits,
    compare_points,
    compare_unequal,
)
from pictures import Bar, bars, colour_of, curve, curves, key, level, said
from quadratic import Estimate
from scipy.optimize import minimize_scalar
from theory_plots import draw_fits, draw_slices, draw_unequal

TRIALS = 400
FARTHEST = 4.5
"""Standard errors: of some 400 values, the largest of a true form is beyond in one run of 300."""
POINTS = tuple(
    Point(tau2, sigma, samples, clients=4)
    for tau2 in (0.0, 1 / 8, 1.0)
    for sigma, samples in ((0.5, 2), (2.0, 8))
)


def check(compared):
    assert compared.away.max() < FARTHEST
    if compared.away.size > 20:
        assert np.sqrt(np.mean(compared.away**2)) < 1.5


@pytest.fixture(scope="module")
def points():
    return compare_points(jax.random.key(1), POINTS, TRIALS)


def test_equal_clients(points):
    """Local, replaced, merged at rho*, learned on held-out samples and on those of the training."""
    check(points)


def test_the_simulation_sees_that_the_aggregate_holds_the_clients_own_error(points):
    """The forms for an aggregate of strangers (a = 0) are refused where heterogeneity is small."""
    _, sigma, samples, clients = np.array(POINTS).T
    tau2 = np.array([point.tau2 for point in POINTS])
    naive = tau2 + (tau2 + sigma**2 / samples) / clients  # of the aggregate, were it independent
    assert (points.simulated.away_from(np.broadcast_to(naive, points.form.shape))[1] > 6).any()


@pytest.mark.slow
def test_clients_of_unequal_size():
    found = compare_unequal(jax.random.key(2), TRIALS)
    for compared in (found.local, found.replaced, found.merged, found.shared, found.learned):
        check(compared)
    check(found.rho)


@pytest.mark.slow
def test_rho_learned_on_samples_that_training_saw_and_cut():
    found = compare_fits(jax.random.key(3), (*SEEN_FITS, *ALIKE_FITS[1:]), TRIALS)
    check(found.rho)
    check(found.learned)
    check(found.clipped)


def test_fitted_on_the_training_samples_rho_is_zero_and_the_client_stays_alone():
    client = equal_clients(8, 16, 0.3, 1.0)
    seen = Evidence(noise=1 / 8, seen=1.0)
    assert learned_error(client, seen, WIDTH) == pytest.approx(error_at(client, 0.0))


def test_the_best_merge_is_the_lowest_of_all():
    client = equal_clients(8, 16, 0.3, 1.0)
    lowest = minimize_scalar(lambda rho: error_at(client, rho), bounds=(0, 1), method="bounded")
    assert best_error(client) == pytest.approx(lowest.fun, rel=1e-6)
    assert best_error(client) < min(error_at(client, 0.0), error_at(client, 1.0))


def test_the_best_share_to_hold_out_is_right_for_many_coordinates():
    total, width = 1000, 4096

    def error(share):
        client = equal_clients(total * (1 - share), 1000, 0.2, 1.0)
        return learned_error(client, Evidence(1 / (total * share), 0.0), width)

    lowest = minimize_scalar(error, bounds=(1e-4, 0.5), method="bounded")
    whole = equal_clients(total, 1000, 0.2, 1.0)
    assert best_held_share(whole, width) == pytest.approx(lowest.x, rel=0.05)


# --- pictures -------------------------------------------------------------------------------------


def simulated(rng, *shape: int) -> Compared:
    """Any numbers: a form, means, standard errors."""
    form, mean, error = rng.uniform(0.1, 1, (3, *shape))
    return Compared(form, Estimate(mean, error / 10))


def is_of(bar: Bar, x, compared: Compared, at) -> None:
    """A point is a simulated mean with two standard errors at either side."""
    mean, error = compared.simulated.mean[at], compared.simulated.error[at]
    assert bar.x == [float(value) for value in x]
    np.testing.assert_allclose(
        [bar.y, bar.low, bar.high], [mean, mean - 2 * error, mean + 2 * error]
    )


def test_the_picture_of_the_slices(tmp_path, pictures):
    rng = np.random.default_rng(0)
    found = {name: simulated(rng, len(KINDS), len(each)) for name, each in SLICES.items()}
    draw_slices(found, tmp_path / "slices.png")
    figure = pictures["slices.png"]
    title, caption = said(figure)
    assert title == "Error of an estimate: lines are closed forms, points are simulated"
    assert "τ² = 1/8, σ = 1, n = 8, N = 8. Rho is shared by J = 32" in caption
    assert [panel.get_xlabel() for panel in figure.axes] == [
        "heterogeneity τ², units² per coordinate", "noise σ of a sample, units",
        "samples n of a client", "clients N",
    ]  # fmt: skip
    colours = {name: colour_of(line) for name, line in key(figure.axes[0].get_legend()).items()}
    assert list(colours) == list(KINDS)
    for panel, (name, values) in zip(figure.axes, SLICES.items(), strict=True):
        assert panel.get_ylabel() == "squared error, units² per coordinate"
        assert (panel.get_xscale(), panel.get_yscale()) == ("log", "log")
        drawn = bars(panel)
        assert [bar.colour for bar in drawn] == list(colours.values())
        assert [bar.hollow for bar in drawn] == [False] * 4 + [True]
        for row, bar in enumerate(drawn):
            is_of(bar, values, found[name], row)
        lines = [curve(line) for colour in colours.values() for line in curves(panel, colour)]
        x = np.array(lines[0][0])
        assert (x[0], x[-1]) == pytest.approx((values[0], values[-1]))
        tau2, sigma, n, clients = (
            x if name == each else of for each, of in zip(SLICES, (1 / 8, 1.0, 8, 8), strict=True)
        )
        s = sigma**2 / n
        others = tau2 + (tau2 + s) / (clients - 1)
        expected = (s, tau2 * (1 - 1 / clients) + s / clients, s * others / (s + others))
        for (_, y), form in zip(lines, expected, strict=False):
            np.testing.assert_allclose(y, np.broadcast_to(form, x.shape))
        client = equal_clients(n, clients, np.sqrt(tau2), sigma)
        learned = (Evidence(sigma**2 / 4, 0.0), Evidence(sigma**2 / n, 1.0))
        for (_, y), evidence in zip(lines[3:], learned, strict=True):
            np.testing.assert_allclose(
                y, np.broadcast_to(learned_error(client, evidence, 32), x.shape)
            )


def test_the_picture_of_the_fits(tmp_path, pictures):
    fits = len(SEEN_FITS) + len(ALIKE_FITS) + len(HELD_FITS)
    rng = np.random.default_rng(1)
    found = Fitted(*(simulated(rng, fits) for _ in range(3)))
    draw_fits(found, tmp_path / "fits.png")
    figure = pictures["fits.png"]
    rho, error, widths, held = figure.axes
    unit = "squared error, units² per coordinate"
    across = "share of the fitting samples used in training"
    assert [panel.get_xlabel() for panel in figure.axes] == [
        across, across, "coordinates J that share the rho", "samples m held out",
    ]  # fmt: skip
    assert [panel.get_ylabel() for panel in figure.axes] == [
        "mean of the learned rho", unit, unit, unit,
    ]  # fmt: skip
    assert list(key(rho.get_legend())) == [f"τ² = {of} s" for of in ("0.25", "1", "4")]
    for panel, compared in ((rho, found.rho), (error, found.learned)):
        for row, bar in enumerate(bars(panel)):
            is_of(bar, [0, 0.25, 0.5, 0.75, 1], compared, slice(5 * row, 5 * row + 5))
    for row, (bar, tau2) in enumerate(zip(bars(rho), (1 / 32, 1 / 8, 1 / 2), strict=True)):
        fit = SEEN_FITS[5 * row : 5 * row + 5]
        assert {each.tau2 for each in fit} == {tau2}
        (line,) = curves(rho, bar.colour)
        x, y = map(np.array, curve(line))
        client = equal_clients(8, 8, np.sqrt(tau2), 1.0)
        np.testing.assert_allclose(y, (1 - x) * client.local / client.gap * 8 / 7)
        (best,) = curves(error, bar.colour, dashed=True)
        assert level(best) == pytest.approx(best_error(client))
    begin = len(SEEN_FITS)
    assert list(key(widths.get_legend())) == [
        "not cut", "cut to [0, 1]", "its delta method", "at rho*",
    ]  # fmt: skip
    for bar, compared in zip(bars(widths), (found.learned, found.clipped), strict=True):
        is_of(bar, (2, 4, 8, 16, 32), compared, slice(begin, begin + 5))
    begin += len(ALIKE_FITS)
    assert list(key(held.get_legend())) == ["J = 4", "J = 32", "first order in m", "its best m"]
    for row, bar in enumerate(bars(held)):
        part = slice(begin + 7 * row, begin + 7 * row + 7)
        assert {fit.width for fit in HELD_FITS[7 * row : 7 * row + 7]} == {(4, 32)[row]}
        is_of(bar, (1, 2, 4, 8, 12, 16, 24), found.learned, part)
        assert colour_of(key(held.get_legend())[f"J = {(4, 32)[row]}"]) == bar.colour


def test_the_picture_of_unequal_clients(tmp_path, pictures):
    rng = np.random.default_rng(2)
    plain, fitted = (3, 14), (3, 3, 14)
    shapes = {"learned": fitted, "rho": fitted}
    parts = ("local", "replaced", "merged", "shared", "learned", "rho")
    made = {name: simulated(rng, *shapes.get(name, plain)) for name in parts}
    best = rng.uniform(0, 1, plain)
    found = Unequal(**made, best=best)
    draw_unequal(found, tmp_path / "unequal.png")
    rho, errors = pictures["unequal.png"].axes
    sizes, one = [1, 2, 4, 8, 16, 32, 64], slice(0, 14, 2)  # two clients of each size
    assert (rho.get_xlabel(), rho.get_ylabel()) == ("samples n of a client, of 254 in all", "rho")
    assert errors.get_xlabel() == "samples n of a client"
    assert errors.get_ylabel() == "squared error, units² per coordinate"
    names = key(rho.get_legend())
    assert list(names) == ["τ² = 1/64", "τ² = 1/8", "τ² = 1", "half of the samples seen"]
    points = iter(bars(rho))
    for place, line in enumerate(list(names.values())[:3]):
        colour = colour_of(line)
        (whole,) = curves(rho, colour, dashed=False)
        (dashed,) = curves(rho, colour, dashed=True)
        assert curve(whole) == (sizes, best[place, one].tolist())
        assert curve(dashed) == (sizes, found.rho.form[place, 1, one].tolist())
        for fit in (0, 1):  # held out; half of them seen
            bar = next(points)
            is_of(bar, sizes, found.rho, (place, fit, one))
            assert (bar.colour, bar.hollow) == (colour, fit == 1)
    shown = {
        "local": found.local, "replaced": found.replaced, "merged, rho* of each": found.merged,
        "merged, one rho for all": found.shared,
    }  # fmt: skip
    colours = {name: colour_of(line) for name, line in key(errors.get_legend()).items()}
    assert list(colours) == list(shown)
    for bar, (name, compared) in zip(bars(errors), shown.items(), strict=True):
        is_of(bar, sizes, compared, (1, one))  # tau^2 = 1/8
        assert bar.colour == colours[name]
        (line,) = curves(errors, bar.colour)
        assert curve(line) == (sizes, compared.form[1, one].tolist())
