"""`bytegolf train`: one run from shards to score, and its report."""
