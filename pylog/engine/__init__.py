"""Which partitions are open in this process, who works in the background, and the clock.

The lowest room that reads a clock or starts a thread.  Must not know what a topic is.
"""
