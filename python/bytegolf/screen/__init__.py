"""What commands show: consoles, tables, progress, and Ctrl-C."""
