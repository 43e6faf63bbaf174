"""What an exit code means; 0 is done, and finding nothing is done."""

EXIT_FAILED, EXIT_USAGE, EXIT_SOME_FAILED, EXIT_REFUSED, EXIT_INTERRUPTED = 1, 2, 3, 4, 130
