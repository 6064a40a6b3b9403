"""Sub-commands of `gateway`, one module for each noun."""
