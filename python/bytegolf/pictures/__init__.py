"""How pictures look, and those that a run draws of itself."""
