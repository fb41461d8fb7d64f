"""What a student is asked for."""
