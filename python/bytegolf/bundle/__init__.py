"""The program as one file: the running sources and a run's options as train_gpt.py, and what counts of its bytes."""
