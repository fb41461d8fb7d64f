"""Commands that measure the package. They are run from the repository and are not part of what is installed."""
