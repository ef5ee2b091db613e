"""`bytegolf watch`: runs, live in the terminal, from nothing but their logs."""
