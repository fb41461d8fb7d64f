"""The main job on faces drawn in code: nothing to download, nothing personal, the same on every machine."""
