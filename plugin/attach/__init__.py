"""Ways to put restoration into renderers and viewers that know nothing of it.

sibr, sibr_proxy, sibr_wire  a proxy between a SIBR-protocol viewer and its renderer
launch                       `splatmend run script.py`: rasterisers patched as they are imported
patches                      which rasterisers, and what is taken for a picture
viser                        viser's background image, restored before it is encoded
"""
