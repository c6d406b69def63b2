"""Makes the coefficients of `normal_cdf` in src/math.rs: a rational function P/Q of degrees 4 and 5 that is as near as possible,
relatively, to Phi(-x) e^(x^2/2) on [0, 13.5].

Needs Python 3 with numpy and mpmath. Prints the largest relative error and the coefficients, constants first; Q begins with 1.
Method: least squares of (P - f Q) / (f Q'), Q' being the denominator of the round before, with weights that grow where the error is
large (Lawson), so that the error ends up equally large everywhere.
"""

import mpmath
import numpy

END, DEGREES = 13.5, (4, 5)


def ratio(x: float) -> float:
    x = mpmath.mpf(float(x))
    return float(mpmath.erfc(x / mpmath.sqrt(2)) * mpmath.exp(x * x / 2) / 2)


def points() -> numpy.ndarray:
    share = (1 - numpy.cos(numpy.linspace(0, numpy.pi, 600))) / 2
    return numpy.unique(numpy.concatenate([END * share**1.5, numpy.linspace(0, 3, 200)]))


def fit(x: numpy.ndarray, f: numpy.ndarray) -> tuple[float, numpy.ndarray, numpy.ndarray]:
    num, den = DEGREES
    above, below = x[:, None] ** numpy.arange(num + 1), x[:, None] ** numpy.arange(1, den + 1)
    weights, last_q, best = numpy.ones_like(x), numpy.ones_like(x), None
    for round_idx in range(400):
        scale = numpy.sqrt(weights) / (f * last_q)
        matrix = numpy.hstack([above, -f[:, None] * below]) * scale[:, None]
        norms = numpy.linalg.norm(matrix, axis=0)
        solution = numpy.linalg.lstsq(matrix / norms, f * scale, rcond=None)[0] / norms
        p, q = solution[: num + 1], numpy.concatenate([[1.0], solution[num + 1 :]])
        last_q = numpy.polyval(q[::-1], x)
        error = numpy.abs(numpy.polyval(p[::-1], x) / last_q / f - 1)
        if best is None or error.max() < best[0]:
            best = (error.max(), p, q)
        if round_idx > 10:
            weights *= (error / error.max() + 1e-3) ** 0.7
            weights /= weights.mean()
    return best


if __name__ == "__main__":
    mpmath.mp.dps = 40
    where = points()
    largest, p, q = fit(where, numpy.array([ratio(x) for x in where]))
    print(f"largest relative error {largest:.1e}")
    for name, coefficients in (("P", p), ("Q", q)):
        print(name, *(f"{value:.9e}" for value in coefficients))
