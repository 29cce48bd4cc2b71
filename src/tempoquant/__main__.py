"""``python -m tempoquant``."""

from tempoquant.cli import main

if __name__ == "__main__":
    main()
