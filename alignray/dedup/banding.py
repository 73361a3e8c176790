"""How many bands of how many rows a MinHash signature is cut into, solved for a stated recall."""

from __future__ import annotations

from alignray.errors import ConfigError

_AREA_STEPS = 200
"""Points of the midpoint rule under the false-candidate curve."""


def collision_probability(jaccard: float, bands: int, rows: int) -> float:
    """Probability in [0, 1] that two documents of this true Jaccard similarity share at least one band."""
    return 1.0 - (1.0 - jaccard**rows) ** bands


def solve_bands(num_perm: int, threshold: float, recall: float) -> tuple[int, int]:
    """(bands, rows) with the fewest false candidates among those that reach ``recall`` at ``threshold``.

    False candidates are the area under the collision curve below the threshold. bands * rows may be less than
    num_perm: what is left over is used by the Jaccard estimate alone.

    Raises:
        ConfigError: no split reaches the recall; names the nearest possible one.
    """
    best: tuple[float, int, int] | None = None
    for rows in range(1, num_perm + 1):
        bands = _fewest_bands(num_perm // rows, rows, threshold, recall)
        if bands is not None:
            best = min(filter(None, [best, (_false_area(threshold, bands, rows), bands, rows)]))
    if best is None:
        nearest = collision_probability(threshold, num_perm, 1)
        raise ConfigError(
            f"minhash.recall={recall} cannot be reached at threshold={threshold} with num_perm={num_perm}; "
            f"the nearest possible recall is {nearest:.6f} (bands={num_perm}, 1 row): lower recall or raise num_perm"
        )
    return best[1], best[2]


def _fewest_bands(most: int, rows: int, threshold: float, recall: float) -> int | None:
    if collision_probability(threshold, most, rows) < recall:
        return None
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        if collision_probability(threshold, middle, rows) >= recall:
            high = middle
        else:
            low = middle + 1
    return low


def _false_area(threshold: float, bands: int, rows: int) -> float:
    step = threshold / _AREA_STEPS
    return step * sum(collision_probability((index + 0.5) * step, bands, rows) for index in range(_AREA_STEPS))
