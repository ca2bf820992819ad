"""How an answer is judged. Plain Python: no Django; imports tasks."""
