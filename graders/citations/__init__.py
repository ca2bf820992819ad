"""The citations grader, which needs no model.

grader      the checks and the score                     works       which paper a citation means, and whether it exists
find        citations and their numbers in Markdown      quantities  numbers, and whether a text bears one
"""
