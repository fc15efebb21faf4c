"""A gate's last steps: the k best experts of each sample, their weights, and the average of what they say."""
