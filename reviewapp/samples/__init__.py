"""The sample workspace: outputs written for the demo, marked as samples wherever they show."""
