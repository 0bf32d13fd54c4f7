"""The operations that verifix understands: what each one is, one file per family."""

from verifix.operations.averaging import Pooling, Reduction, adaptive_matrix, window_matrix
from verifix.operations.base import Affine, Nonlinear, Operation, Shape, Slopes, Value, fixed, live, read
from verifix.operations.convolution import Convolution
from verifix.operations.dense import Dense
from verifix.operations.maxpool import MaxPool
from verifix.operations.movement import Concatenation, Movement, Sum
from verifix.operations.piecewise import Clip, TwoPiece
from verifix.operations.relaxation import Levels, Lines, Relaxation, Slab
from verifix.operations.scaling import BatchNorm, Scaling, batch_norm, module_batch_norm
from verifix.operations.smooth import Sigmoid, Tanh

__all__ = [
    "Affine",
    "BatchNorm",
    "Clip",
    "Concatenation",
    "Convolution",
    "Dense",
    "Levels",
    "Lines",
    "MaxPool",
    "Movement",
    "Nonlinear",
    "Operation",
    "Pooling",
    "Reduction",
    "Relaxation",
    "Scaling",
    "Shape",
    "Sigmoid",
    "Slab",
    "Slopes",
    "Sum",
    "Tanh",
    "TwoPiece",
    "Value",
    "adaptive_matrix",
    "batch_norm",
    "fixed",
    "live",
    "module_batch_norm",
    "read",
    "window_matrix",
]
