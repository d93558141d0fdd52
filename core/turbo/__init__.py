"""turbo, the SD-Turbo one-step restorer. Needs diffusers, so it is imported late.

`restorer` keeps the contract over `network`. `files`, `pickles` and `folders` read checkpoints, and
`base` finds SD-Turbo itself. `views` mixes in reference views, `guidance` degradation scores.
"""
