"""A run as tables in a terminal and as a page."""
