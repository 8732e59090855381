"""The numbers of the RePo paper (arXiv 2512.14391 v3): one training seed, no errors given.

Table 1: RULER's needles at 4,096 tokens, 100 samples each. Table 3: LongBench at 16,384 tokens, YaRN 4. Table 5:
general tasks. The figures of RULER at 8,192 and 16,384 tokens have no numbers in print.
"""

LARGE = 4096  # hidden size from which an export stands beside the 7B models

_NAMES = (
    *("niah_single_1", "niah_multivalue", "niah_multikey_1", "niah_multiquery"),
    *("2wikimqa", "musique", "multifieldqa_en", "narrativeqa", "gov_report", "qmsum", "longbench_triviaqa"),
    *("arc_challenge", "arc_easy", "boolq", "coqa", "drop", "hellaswag", "mmlu_pro", "triviaqa"),
)
_ROWS_1B = {
    "RoPE": "100 78.5 86 79  23.32 7.24 27.37 12.94 6.23 7.96 61.47  47.99 75.25 72.12 56.87 37.9 70.68 13.77 54.98",
    "NoPE": "83 83.3 76 78.5  9.11 .33 13.64 1.8 5.15 .68 18.12  44.05 73.64 66.7 44.52 33.22 65.68 10.7 43.43",
    "R2N1": "100 91.8 82 88.3  25.88 7.31 31.28 16.24 4.53 8.74 66.67  47.3 75.68 73.04 59.31 38.48 69.26 13.41 54.61",
    "N2R1": "95 89.8 84 84.3  16.24 .4 21.88 1.26 8.74 5.31 25.18  43.78 72.72 69.38 50.74 36.66 67.58 11.99 47.31",
    "RePo": "100 89.3 86 89.8 30.86 13.45 33.12 15.24 16.8 12.53 73.02 47.61 74.87 73.58 57.44 38.17 70.08 13.52 54.56",
}
_ROWS_7B = {
    "RoPE": "100 97.3 97 94.8  22.1 6.69 32.61 16.38 11.19 6.63 83.97  78.92 85.74 84.02 69.73 61.07 82.36 27.97 77.56",
    "RePo": "100 100 96 95.5  33.41 19.55 40.37 22.64 12.3 10.41 85.5  78.46 85.61 84.32 68.59 59.59 81.92 27.15 76.8",
}


def published(hidden_size: int) -> tuple[str, dict[str, dict[str, float]]]:
    """Returns the size of the paper's models that are nearest, and their numbers in percent by scheme and name."""
    size, rows = ("7B", _ROWS_7B) if hidden_size >= LARGE else ("1B", _ROWS_1B)
    return size, {
        scheme: dict(zip(_NAMES, map(float, numbers.split()), strict=True)) for scheme, numbers in rows.items()
    }
