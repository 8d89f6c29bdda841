"""The commands of ``cankd`` and of the scripts in ``tools/``: they parse arguments, call the package and print."""
