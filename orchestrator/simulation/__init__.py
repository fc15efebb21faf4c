"""What a fleet would do under a load, worked out event by event with the gateway's own decisions."""
