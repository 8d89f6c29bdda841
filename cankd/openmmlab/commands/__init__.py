"""Command lines of the tools."""
