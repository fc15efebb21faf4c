"""The gateway process: gRPC services, the guard in front of them, health and metrics over HTTP, start and stop."""
