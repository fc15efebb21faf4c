"""Heavy offline work on several cores or machines, through one interface whose results do not depend on which.

`contract` says what `Workers` promise; `local` and `cluster` keep it in processes of this machine and on a Ray cluster,
which `driver` speaks to; `choice` reads `--workers`.
"""
