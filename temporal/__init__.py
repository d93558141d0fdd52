"""Memory along a stream: motion, warping, the stabiliser and its measures.

Imports core. Empty in this release.
"""

__all__: list[str] = []
