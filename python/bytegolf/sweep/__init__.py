"""`bytegolf sweep`: many runs by one file, on the cores or GPUs of this machine or on Slurm."""
