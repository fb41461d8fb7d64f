"""What a run leaves open: how long it trains, and with which rate, norms and losses."""
