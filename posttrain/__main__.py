"""`python -m posttrain …`: the command line, for containers and processes that have no script on their path."""

from posttrain.cli.main import main

if __name__ == "__main__":
    main()
