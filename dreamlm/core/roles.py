"""By what a segment, a step of a dream and a picture are told: what there is, what is done, what comes of it."""

ROLES = ("what", "action", "result")
