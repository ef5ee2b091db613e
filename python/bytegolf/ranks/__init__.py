"""Several processes, one run: how ranks find each other, talk, notice a failure and leave together."""
