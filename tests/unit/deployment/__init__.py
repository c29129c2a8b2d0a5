"""What ships beside the package: systemd unit, container, alert rules, dashboard."""
