"""Lists published models that can teach a student, the most accurate first."""

from cankd.openmmlab.commands.find_teacher import main

if __name__ == "__main__":
    main()
