"""Commands for the shell: `pylog`, or `python -m pylog`.

Knows arguments, text, JSON and exit codes.  Must not know how anything is stored.
`verify` and `dump` need nothing but pylog itself; all other commands need the extra `cli`, and
click and rich are imported when they are used.
"""
