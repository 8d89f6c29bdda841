"""Files that are written whole, and what every command line needs."""
