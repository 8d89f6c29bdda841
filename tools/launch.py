"""Trains or tests with several processes."""

from cankd.utils.launch import main

if __name__ == "__main__":
    main()
