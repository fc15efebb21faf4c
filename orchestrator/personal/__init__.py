"""Users' own experts as the gateway sees them: where each user is at home, and when their expert stands in.

The gateway keeps names and figures. Inputs pass through it, weights and features never do.
"""
