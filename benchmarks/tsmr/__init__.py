"""The TSMR experiment; see ``benchmarks.tsmr.__main__``."""
