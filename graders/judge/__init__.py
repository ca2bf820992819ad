"""LLM judges: a model scores an output by a task's rubric, and shows by quotes what it saw.

judge      what a judge is, and its version          votes      several answers made into one grade
prompt     the request; the output stays data        quotes     where a quote stands in the output
form       the form of an answer, and its check      injection  outputs that try to steer the judge
grader     the judge as a grader                     pairwise   which of two outputs is better, asked in both orders

JudgeError is a GraderError: no grade, for a reason of ours (no key, the server is down, the money is spent). An answer
that came and can't be used is a grade that is unscored and says why; it is never 0.
"""

from graders.grade import GraderError


class JudgeError(GraderError):
    """The judge could not be asked."""
