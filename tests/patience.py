"""How long a test waits for what must happen: longer than pytest lets any test run.

So whatever hangs is ended by pytest's time-out, which shows where each thread was, and a machine
that is slow or busy fails nobody.  Processes and threads that outlive their test end by this.
"""

HANG_SECONDS = 900
