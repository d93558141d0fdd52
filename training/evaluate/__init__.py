"""`splatmend evaluate`: a comparison of restorers on the same pictures.

`metrics` measures pictures. `guided_rows` reads references for the rows that use them. `report`
writes tables and intervals, and `command` runs everything.
"""

from splatmend.training.evaluate.metrics import METRICS, Measures, psnr

__all__ = ["METRICS", "Measures", "psnr"]
