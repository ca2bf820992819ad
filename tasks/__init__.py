"""What an agent is asked: tasks, their prompt variants, rubrics and starter code. Plain Python, no Django."""
