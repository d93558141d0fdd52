"""`splatmend prepare`: degraded and clean pairs on disk, from pictures and clips.

`command` is the command, and `inputs` finds its pictures. `pair_maker` aligns, parses and degrades
one picture. `contact_sheet` shows the result.
"""
