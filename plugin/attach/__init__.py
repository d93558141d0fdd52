"""Restoration inside renderers and viewers that know nothing of it.

`launch` is `splatmend run`, which patches rasterisers (`patches`) as they are imported. `sibr` puts
a proxy before a SIBR renderer. `viser` restores viser's background image.
"""
