"""Lets `python -m mosaic_fleet` be `mosaic`."""

from mosaic_fleet.cli import main

if __name__ == "__main__":
    main()
