"""Generated questions whose answers can be checked exactly: what the small text experts learn and are judged by."""
