# Medians and their confidence intervals, without assumptions on the distribution of the noise.

import math
import statistics


def median_with_interval(values, confidence=0.95):
    """Returns (median, low, high). `low` and `high` are two of the sorted values.

    Each value is above the true median with probability 1/2, so the number of values below it is
    binomial, and the probability that the k-th smallest and k-th largest enclose it is known
    exactly. With fewer than six values no pair reaches 95 %, and `low` and `high` are None.
    """
    ordered = sorted(values)
    middle = statistics.median(ordered)
    rank = _rank(len(ordered), confidence)
    if rank is None:
        return middle, None, None
    return middle, ordered[rank], ordered[-1 - rank]


def _rank(count, confidence):
    """The largest k for which P(k < number below the median < count - k) >= confidence."""
    tail = 0.0
    best = None
    for rank in range(count // 2):
        tail += math.comb(count, rank) / 2**count
        if 1 - 2 * tail < confidence:
            break
        best = rank
    return best


def format_interval(median_low_high, digits=2):
    middle, low, high = median_low_high
    if low is None:
        return f"{middle:.{digits}f} (too few rounds)"
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
