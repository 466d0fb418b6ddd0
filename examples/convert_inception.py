"""Convert Inception's weights to a file that is read without Torch.

python examples/convert_inception.py WEIGHTS.pth WEIGHTS.npz
"""

from __future__ import annotations

import sys
from pathlib import Path

from tinyddpm.errors import TinyDDPMError
from tinyddpm.metrics.inception_weights import SHA256, read_weights, save_weights

if __name__ == "__main__":
    try:
        source, target = map(Path, sys.argv[1:])
        save_weights(target, read_weights(source), SHA256)
    except (TinyDDPMError, OSError, ValueError) as error:
        sys.exit(__doc__ if len(sys.argv) != 3 else f"error: {error}")
