"""`splatmend prepare`: pictures and clips become degraded and clean pairs on disk.

`command` is the command, and `inputs` finds its pictures. `pair_maker` aligns, parses and degrades
one picture. `contact_sheet` shows the result.
"""
