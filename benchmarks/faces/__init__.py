"""The recipe on real faces; see ``benchmarks.faces.__main__``."""
