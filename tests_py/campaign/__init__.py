"""The campaign that tries to break bytegolf: one file a stage; scripts/torture.py runs them and draws the table."""
