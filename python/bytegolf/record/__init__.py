"""What a run leaves in its folder: the log while it grows, the facts it holds, and what follows from them."""
