"""Units of systemd for agents and gateways."""
