"""`python -m codellama` is the command line."""

from codellama.cli import main

main()
