"""Grade outputs of a task once more, also those that this grader version has graded: each such grading is a new attempt.

Options and exit codes as of `grade`.
"""

from __future__ import annotations

from reviewapp.management.commands import grade


class Command(grade.Command):
    help = __doc__
    again = True
