"""What people look at: tables and pictures."""

from verifix.report.boundary import boundary_figure
from verifix.report.comparison import comparison_picture
from verifix.report.curves import training_curves
from verifix.report.estimates import estimates_figure
from verifix.report.filters import filters_figure
from verifix.report.network_figures import draw_network
from verifix.report.picture import accuracy_picture
from verifix.report.polytope import polytope_figure
from verifix.report.radii import radius_picture
from verifix.report.smoothing import SmoothedCurve, smoothing_picture
from verifix.report.tightness import tightness_figure
from verifix.report.toy_figures import draw_toy
from verifix.report.units import units_figure

__all__ = [
    "SmoothedCurve",
    "accuracy_picture",
    "boundary_figure",
    "comparison_picture",
    "draw_network",
    "draw_toy",
    "estimates_figure",
    "filters_figure",
    "polytope_figure",
    "radius_picture",
    "smoothing_picture",
    "tightness_figure",
    "training_curves",
    "units_figure",
]
