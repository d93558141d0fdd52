"""turbo: the SD-Turbo one-step restorer. Needs diffusers, so core/registry.py imports it late.

network   the UNet and autoencoder as functions of values
views     reference views, mixed in by the UNet's self-attention (Difix)
adapters  which layers get LoRA, and what else is trained
guidance  degradation scores that steer the LoRA (S3Diff)
weights   what a checkpoint adds to SD-Turbo
files     read and write checkpoints: what a file holds decides who reads it
pickles   upstream's .pkl files, through torch's restricted unpickler
folders   peft's and diffusers' folders
content   checks that the readers share
base      SD-Turbo's own weights: folder, hub cache, download
tiny_decoder  a quarter of the time for a loss of detail
restorer  the contract of core/restorer.py over all of that
"""
