# SPDX-License-Identifier: Apache-2.0
"""What can go wrong in words for people."""


class ImageError(Exception):
    """The image cannot be built; the message says what was found and what to do."""
