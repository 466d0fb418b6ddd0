"""Networks with hand-written backwards: parameters in one flat buffer, layers, blocks, the U-Net and the MLP."""

from tinyddpm.nn.network import DropoutNoise, Network, Told, Widths, make_network
from tinyddpm.nn.parameters import Gradients, Layout, Parameter, Parts, Weights

__all__ = [
    "DropoutNoise",
    "Gradients",
    "Layout",
    "Network",
    "Parameter",
    "Parts",
    "Told",
    "Weights",
    "Widths",
    "make_network",
]
