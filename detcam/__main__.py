"""`python -m detcam`."""

from detcam.cli import main

main()
