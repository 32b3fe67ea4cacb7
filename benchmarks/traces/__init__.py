"""Recorded acceptances of real models, and how policies are run on them again."""
