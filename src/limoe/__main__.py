"""`python -m limoe` is `limoe`."""

from limoe.cli.main import main

if __name__ == "__main__":
    main()
