"""What to export: the spec that an export's files follow from, and its checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from reviewapp.rewards.labels import DEFAULT_POLICY, POLICIES
from reviewapp.rewards.splits import SplitError, parse_split

DEFAULT_FORMAT = "scalar-jsonl"
DEFAULT_SPLIT = "1"
MAX_SEED = 2**31 - 1
POLICY_TEXTS = {
    "human-only": "Only what people said: outputs that nobody reviewed are left out.",
    "human-then-calibrated": "What people said; where nobody reviewed, the judge, put as people would, or the code grader.",
    "judge-raw": "Only what the judge or code grader said, as it said it.",
}


class SpecError(ValueError):
    """The spec asks for something that can't be. `field` is the name of the part at fault."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True)
class Spec:
    """All that an export's files follow from, beside the data. `tasks` empty means all; `filter` is a query string.

    `user_id` is whose outputs page the filter is read as: "mine" means that member's.
    """

    format: str = DEFAULT_FORMAT
    tasks: tuple[str, ...] = ()
    policy: str = DEFAULT_POLICY
    split: str = DEFAULT_SPLIT
    seed: int = 0
    filter: str = ""
    include_samples: bool = True
    license: str = "unknown"
    user_id: int | None = None

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise SpecError("policy", f"policy is {self.policy!r}, allowed: {', '.join(POLICIES)}")
        if not 0 <= self.seed <= MAX_SEED:
            raise SpecError("seed", f"seed is {self.seed}, allowed: 0 to {MAX_SEED}")
        try:
            parse_split(self.split)
        except SplitError as error:
            raise SpecError("split", str(error)) from error

    @property
    def shares(self) -> tuple[tuple[str, float], ...]:
        return parse_split(self.split)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "tasks": list(self.tasks)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Spec:
        return cls(**{**data, "tasks": tuple(data.get("tasks", ()))})
