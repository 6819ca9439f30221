"""The unified backbone and its three heads."""

from mmpl.network.backbone import Backbone
from mmpl.network.model import StageNetwork, build_network, count_gflop, count_parameters, memory_gib, transfer_backbone

__all__ = [
    "Backbone",
    "StageNetwork",
    "build_network",
    "count_gflop",
    "count_parameters",
    "memory_gib",
    "transfer_backbone",
]
