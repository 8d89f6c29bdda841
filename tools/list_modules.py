"""Lists the modules that a recorder can name, with the shape of what each puts out."""

from cankd.openmmlab.commands.list_modules import main

if __name__ == "__main__":
    main()
