"""How the gateway's process looks for garbage: often and little, so that no request waits for it.

Reference counts free what requests and nodes leave behind, almost without exception; what the collector goes through is
what lives. The default of the language is to go through all of it again and again; going through 50,000 new objects at
once, as we did before, holds the event loop for so long in a storm of joins that requests notice: it is the control of
`tests.faults.join_turns`, whose rows say how long.
"""

from __future__ import annotations

import gc

# New objects that have outlived their function when the collector goes through them.
NEW_OBJECTS = 1_000
# After so many such looks it goes through what they left once more ...
LOOKS = 2
# ... and after so many of those through everything, which takes long: once in 60 million objects.
LATER_LOOKS = 20_000


def collect_in_slices() -> None:
    """Look through new objects in small portions from now on, and never again through what is there already.

    Called once what lives as long as the process is built; the journal alone comes to hold hundreds of thousands of
    objects.
    """
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, LOOKS, LATER_LOOKS)
