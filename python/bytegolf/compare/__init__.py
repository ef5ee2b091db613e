"""`bytegolf plot` and `bytegolf report`: runs beside each other, as curves and as a table of tests."""
