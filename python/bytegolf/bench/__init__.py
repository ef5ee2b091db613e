"""`bytegolf bench`: how fast this machine runs the parts of a step, and how far that is from what it could do."""
