"""Restoration inside unchanged renderers and viewers.

`launch` is `splatmend run`: it patches rasterisers (`patches`) as a script imports them. `sibr`
puts a proxy before a SIBR renderer. `viser` restores viser's background image.
"""
