"""How far each judge of a task can be trusted: grades from the database, figures from graders.calibration."""
