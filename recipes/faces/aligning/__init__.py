"""From photos to aligned crops: a detector of the user's finds the faces and their five points."""
