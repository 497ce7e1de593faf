"""Summaries in the terminal."""
