"""`python -m emogen`."""

from emogen.cli import main

if __name__ == "__main__":
    main()
