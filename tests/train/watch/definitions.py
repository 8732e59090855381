"""The statistics of positions written out in NumPy, one head of one sequence at a time: the reference of ours."""

import math

import numpy as np


def radians(num_pairs: int) -> np.ndarray:
    """What each rotary pair turns per position."""
    return 500_000.0 ** -(np.arange(num_pairs) / num_pairs)


def ranks(z: np.ndarray) -> np.ndarray:
    return np.array([(z < x).sum() + ((z == x).sum() - 1) / 2 for x in z])


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else 0.0


def pattern(chunk: np.ndarray) -> str:
    if np.abs(chunk - chunk.mean()).max() <= 0.2:
        return "constant"
    d = np.diff(chunk)
    return "monotone" if (d > 0).all() or (d < 0).all() else "hybrid"


def plain(z_th: np.ndarray, head: int, num_pairs: int) -> dict[str, float]:
    """All statistics of one head of one sequence."""
    z_th = z_th.astype(np.float64)
    z = z_th[:, head]
    d = np.diff(z)
    kinds = [pattern(z[start : start + 16]) for start in range(0, len(z) - 15, 16)]
    others = [pearson(z, z_th[:, other]) for other in range(z_th.shape[1]) if other != head]
    return {
        "mean": z.mean(),
        "std": z.std(),
        "min": z.min(),
        "max": z.max(),
        "range": np.ptp(z),
        "q01": np.quantile(z, 0.01),
        "q50": np.quantile(z, 0.5),
        "q99": np.quantile(z, 0.99),
        "negative_share": (z < 0).mean(),
        "step_mean": d.mean(),
        "step_std": d.std(),
        "forward_share": (d > 0).mean(),
        "rank_correlation": pearson(ranks(z), np.arange(len(z))),
        **{f"{kind}_share": kinds.count(kind) / len(kinds) for kind in ("constant", "monotone", "hybrid")},
        "resolution": int((radians(num_pairs) * np.ptp(z) > 0.1).sum()),
        "similarity": float(np.mean(np.abs(others))) if others else 0.0,
    }
