"""What an import did, or in a dry run would do."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

LISTED = 100


@dataclass
class ImportReport:
    """Counts of outputs and grades; `new_versions` names the first 100 outputs that came with other content."""

    file: str
    dry_run: bool = False
    lines: int = 0
    outputs: int = 0
    outputs_new: int = 0
    outputs_new_version: int = 0
    grades: int = 0  # given in the file
    grades_new: int = 0
    tasks: dict[str, int] = field(default_factory=dict)  # slug -> lines
    tasks_new: list[str] = field(default_factory=list)
    new_versions: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    run_id: int | None = None
    # The first lines, for a preview.
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def outputs_unchanged(self) -> int:
        return self.outputs - self.outputs_new - self.outputs_new_version

    @property
    def grades_unchanged(self) -> int:
        return self.grades - self.grades_new

    @property
    def changes_something(self) -> bool:
        return bool(self.outputs_new or self.outputs_new_version or self.grades_new or self.tasks_new)

    def to_json(self) -> dict[str, Any]:
        unchanged = {"outputs_unchanged": self.outputs_unchanged, "grades_unchanged": self.grades_unchanged}
        return {**asdict(self), **unchanged, "n_tasks_known": len(self.tasks) - len(self.tasks_new)}

    def as_text(self) -> str:
        would = "would be " if self.dry_run else ""
        lines = [
            f"{self.file}: {self.lines:,} lines",
            f"outputs: {self.outputs_new:,} {would}new, {self.outputs_new_version:,} {would}new versions, "
            f"{self.outputs_unchanged:,} unchanged",
            f"grades: {self.grades_new:,} {would}new, {self.grades_unchanged:,} unchanged",
        ]
        if self.tasks_new:
            lines.append(f"tasks: {', '.join(self.tasks_new)} {would}new")
        if self.new_versions:
            more = self.outputs_new_version - len(self.new_versions)
            lines.append(f"other content than before: {', '.join(self.new_versions)}{f' and {more:,} more' if more else ''}")
        lines += self.notes
        if self.dry_run:
            lines.append("Dry run: nothing was written.")
        return "\n".join(lines)
