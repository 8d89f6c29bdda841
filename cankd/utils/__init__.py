"""Writing of files, types and errors of command lines."""
