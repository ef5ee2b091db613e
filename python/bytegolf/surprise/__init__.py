"""What each byte of a text costs, as colours on the text: for terminals, notebooks and pages."""
