"""What someone who trains on an export must know before they do."""

from __future__ import annotations

from reviewapp.rewards.rows import UNDECIDED, Reader

FEW_HUMAN_LABELS = 30


def warnings_of(reader: Reader) -> list[str]:
    """Sentences about what the reader has counted so far."""
    counts, found = reader.counts, []
    n_human = counts.source["human"] + counts.source["adjudicated"]
    if counts.samples:
        what = "All rows are" if counts.samples == counts.rows else f"{counts.samples:,} of {counts.rows:,} rows are"
        found.append(f"{what} samples written for the demo (is_sample): not for training.")
    if counts.rows and n_human < FEW_HUMAN_LABELS:
        found.append(f"{count(n_human, 'label is', 'labels are')} by people; fewer than {FEW_HUMAN_LABELS} say little of the rest.")
    if n := counts.source["judge"]:
        found.append(f"{count(n, 'label is', 'labels are')} a judge's own: no calibrator is fitted to what people say.")
        found += reader.calibration.refusals() if reader.calibration else []
    if n := counts.left_out[UNDECIDED]:
        found.append(f"{count(n, 'output is', 'outputs are')} left out as undecided: graded, with neither a score nor a verdict.")
    if counts.without_content:
        found.append(f"{count(counts.without_content, 'row has', 'rows have')} no content: the import gave scores only.")
    return found + _split_warnings(reader)


def _split_warnings(reader: Reader) -> list[str]:
    shares, counts = reader.spec.shares, reader.counts
    if len(shares) == 1 or not counts.rows:
        return []
    found = [
        f"Split {name} is empty: whole prompts are put on one side, and there are too few of them."
        for name, _ in shares
        if not counts.split[name]
    ]
    if n := reader.splitter.joined:
        found.append(f"{n:,} prompts share an answer with another prompt; each such group is kept in one split, or it would leak.")
    return found


def count(n: int, one: str, many: str) -> str:
    return f"{n:,} {one if n == 1 else many}"
