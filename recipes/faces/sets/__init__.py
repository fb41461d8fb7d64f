"""Sets of images: to train on, and to judge with."""
