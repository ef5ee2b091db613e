"""`bytegolf demo`: the main job on text that every Python carries."""
