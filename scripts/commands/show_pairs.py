"""What ``tokengym train-reward`` prints when it is done."""

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from tokengym.evaluation.report.verdict import number

if TYPE_CHECKING:
    from rich.console import Console

    from tokengym.rewards.training import TrainedReward


def show_pair_metrics(console: "Console", trained: "TrainedReward") -> None:
    """Print what the model does with held-out pairs, and where it is.

    Args:
        console: Where to.
        trained: What training left behind.
    """
    metrics = trained.metrics
    low, high = metrics.accuracy_interval
    rows = [
        ("pairs", str(metrics.pairs), f"held out; trained on {trained.pairs}"),
        ("accuracy", number(metrics.accuracy), f"95 % interval {number(low)} to {number(high)}"),
        ("longer is better", number(metrics.longer_accuracy), "accuracy of preferring length"),
        ("loss", number(metrics.loss), f"nats; 0.693 knows nothing; {number(trained.train_loss)} "
         "in training"),
        ("calibration error", number(metrics.calibration_error), "sureness against accuracy"),
        ("length correlation", number(metrics.length_correlation), "of preference and length"),
    ]  # fmt: skip
    if metrics.position_bias is not None:
        rows.append(("position bias", number(metrics.position_bias), "mean P(A) - 1/2"))
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value, meaning in rows:
        table.add_row(name, value, Text(meaning, "dim"))
    console.print(table)
    console.print(_reliability(trained))
    if trained.skipped:
        skipped = ", ".join(f"{count} {kind}" for kind, count in trained.skipped.items())
        console.print(Text(f"left out: {skipped}", "yellow"))
    for name in ("", "measures.json", "reliability.png"):
        console.print(Text(str(trained.path / name)), soft_wrap=True)


def _reliability(trained: "TrainedReward") -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("confidence", "pairs", "accuracy"):
        table.add_column(title, justify="right")
    for row in trained.metrics.reliability:
        if row.confidence is not None and row.accuracy is not None:
            table.add_row(number(row.confidence), str(row.pairs), number(row.accuracy))
    return table
