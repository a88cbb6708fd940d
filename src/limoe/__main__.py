"""`python -m limoe` is `limoe`."""

from limoe.cli import main

if __name__ == "__main__":
    main()
