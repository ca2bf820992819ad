"""Judges at work: gradings that ask a model, hundreds at once in one process; their calls and limits in the database."""
