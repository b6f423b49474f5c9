"""`python -m diffguard_cli COMMAND`: the same as `diffguard COMMAND`."""

from diffguard_cli.main import main

if __name__ == "__main__":
    main()
