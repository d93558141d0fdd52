"""turbo, the SD-Turbo one-step restorer. It needs diffusers and is therefore imported late.

`restorer` implements the contract with `network`. `files`, `pickles` and `folders` read
checkpoints, and `base` finds SD-Turbo itself. `views` mixes in reference views, and `guidance`
adapts the weights to degradation scores.
"""
