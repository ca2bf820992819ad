"""The user guide, as docs/ has it, for reading in the app."""
