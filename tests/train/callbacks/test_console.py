"""The line that a person follows a run by."""

import pytest

from train.callbacks.console import evaluation_summary, human, phase_summary, summary

METRICS = {
    "train/ce_loss": 2.34567,
    "optim/lr": 7.4487e-5,
    "optim/grad_norm": 0.456,
    "optim/skipped": 0,
    "throughput/tokens_per_second": 123_456.0,
}


def test_the_summary_says_what_is_there_and_nothing_else() -> None:
    assert summary(METRICS) == "loss 2.3457  lr 7.45e-05  grad 0.46  123.5k tok/s"


def test_the_summary_warns_of_skipped_updates_and_alerts_that_last() -> None:
    line = summary({**METRICS, "throughput/mfu": 0.4567, "positions/open_alerts": 2, "optim/skipped": 3})
    assert line.endswith("MFU 45.7%  alerts 2  skipped 3")


def test_mfu_is_said_in_both_conventions_and_beside_the_peak_of_memory() -> None:
    line = summary({**METRICS, "throughput/mfu": 0.6, "throughput/mfu_causal": 0.548, "memory/peak_gib": 58.04})
    assert line.endswith("MFU 60.0% (causal 54.8%)  peak 58.0 GiB")


def test_phases_are_shares_of_the_step() -> None:
    seconds = {"data": 0.001, "forward": 0.6, "backward": 1.2, "update": 0.15, "other": 0.049}
    row = {f"throughput/{name}_seconds": value for name, value in {**seconds, "step": 2.0}.items()}
    assert phase_summary(row) == "forward 30%  backward 60%  update 8%  other 2%"


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1000, "1.0k"), (12_345, "12.3k"), (1.5e6, "1.5M"), (2e9, "2.0G"), (5e12, "5000.0G")],
)
def test_numbers_are_short(number: float, text: str) -> None:
    assert human(number) == text


def test_an_evaluation_is_one_line_of_whatever_was_measured() -> None:
    found = {
        "eval/loss": 2.0,
        "eval/perplexity": 7.389,
        "eval/source/web/loss": 2.5,
        "eval/source/web/perplexity": 12.2,
    }
    found |= {"eval/position/0-256/loss": 3.0, "eval/mine": 0.25}
    assert evaluation_summary(found) == "eval loss 2.0000  perplexity 7.39  web 2.500  0-256 3.000  mine 0.250"
    assert evaluation_summary({"eval/mine": 0.25}) == "mine 0.250" and evaluation_summary({"train/loss": 1.0}) == ""
