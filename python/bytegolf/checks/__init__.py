"""`bytegolf doctor` and `bytegolf parity`: what is live on this machine, and agreement with the published programs."""
