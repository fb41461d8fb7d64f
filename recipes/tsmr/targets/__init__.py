"""What the teacher says, of which view, and where it is kept."""
