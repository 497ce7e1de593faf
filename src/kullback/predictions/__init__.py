"""Forms of predictions, live or stored."""
