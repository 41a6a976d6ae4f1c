"""Commands for the shell: `python -m pylog`.

Knows arguments, text, JSON and exit codes.  Must not know how anything is stored.
"""
