"""A network as a small typed graph: captured, walked, checked."""

from verifix.graph.capture import capture
from verifix.graph.graph import INPUT, Graph, Node

__all__ = ["INPUT", "Graph", "Node", "capture"]
