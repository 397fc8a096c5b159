"""Numbers that can be compared: metrics, intervals, latency, sizes."""
