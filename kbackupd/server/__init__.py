"""What the daemon answers: the control socket, the observability port, and the client of the former."""
