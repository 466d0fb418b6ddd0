"""Networks with hand-written backwards: parameters in one flat buffer, layers, blocks, the U-Net and the MLP."""

from tinyddpm.nn.network import Condition, DropoutNoise, Network, make_network
from tinyddpm.nn.parameters import Gradients, Layout, Parameter, Parts, Weights

__all__ = [
    "Condition",
    "DropoutNoise",
    "Gradients",
    "Layout",
    "Network",
    "Parameter",
    "Parts",
    "Weights",
    "make_network",
]
