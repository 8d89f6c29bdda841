"""torchrun that leaves the last word to the process that failed."""

from cankd.utils.launch import main

if __name__ == "__main__":
    main()
