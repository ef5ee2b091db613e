"""What is done with a stored model: score, sample, inspect, pack, export, colour a text."""
