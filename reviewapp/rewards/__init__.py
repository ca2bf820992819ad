"""What comes out: labels by a named policy, and the export formats."""
