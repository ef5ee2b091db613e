"""Submissions to the challenge: what counts, the folder that is handed in, and how its claims are checked."""
