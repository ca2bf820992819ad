"""The tables, one module a subject."""

from reviewapp.models.accounts import User
from reviewapp.models.calibrators import Calibrator
from reviewapp.models.calls import LlmBatch, LlmCall, RateBucket, SpendingHold
from reviewapp.models.catalog import Criterion, Grader, Rubric, Task, Variant
from reviewapp.models.datasets import SavedView, Snapshot
from reviewapp.models.grades import CriterionScore, Grade, Retraction
from reviewapp.models.jobs import Job
from reviewapp.models.judges import JudgedPair, JudgeVersion, Promotion
from reviewapp.models.queues import Claim, GoldAnswer, Queue, QueueItem
from reviewapp.models.review import Draft, Flag, Skip
from reviewapp.models.rollouts import ToolResult
from reviewapp.models.tokens import ApiToken
from reviewapp.models.work import Output, OutputBody, Prompt, Run

__all__ = [
    "ApiToken",
    "Calibrator",
    "Claim",
    "Criterion",
    "CriterionScore",
    "Draft",
    "Flag",
    "GoldAnswer",
    "Grade",
    "Grader",
    "Job",
    "JudgeVersion",
    "JudgedPair",
    "LlmBatch",
    "LlmCall",
    "Output",
    "OutputBody",
    "Promotion",
    "Prompt",
    "Queue",
    "QueueItem",
    "RateBucket",
    "Retraction",
    "Rubric",
    "Run",
    "SavedView",
    "Skip",
    "Snapshot",
    "SpendingHold",
    "Task",
    "ToolResult",
    "User",
    "Variant",
]
