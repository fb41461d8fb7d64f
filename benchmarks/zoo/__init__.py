"""Expand and fold over the convolutional architectures of torchvision and timm."""
