"""What the daemon tells about itself: metrics, exposure, problems, logs. Every name of a metric or an event is here."""
