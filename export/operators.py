"""The ONNX operators that an exported file may hold."""

from __future__ import annotations

# What both the CANN provider of ONNX Runtime (its partition list) and the ATC compiler of CANN 8.0 take, less the
# operators whose outputs have no fixed shape (Compress, NonMaxSuppression, NonZero) and those that draw random numbers.
_CANN = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization BitShift Cast Ceil Celu
    Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace Det Div Dropout Elu Equal Erf
    Exp Expand EyeLike Flatten Floor Gather GatherElements GatherND Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool
    Greater GreaterOrEqual HardSigmoid HardSwish Hardmax Identity InstanceNormalization LRN LSTM LeakyRelu Less
    LessOrEqual Log LogSoftmax LpNormalization LpPool MatMul Max MaxPool MaxRoiPool MaxUnpool Mean
    MeanVarianceNormalization Min Mod Mul Neg Not OneHot Or PRelu Pad Pow Range Reciprocal ReduceL1 ReduceL2
    ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize
    ReverseSequence RoiAlign Round Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice
    Softmax SoftmaxCrossEntropyLoss Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tanh TfIdfVectorizer
    ThresholdedRelu Tile TopK Transpose Unsqueeze Where Xor
"""

# int64 may be made as an index or a shape and moved about; nothing is computed in it, because NPUs do so slowly or not.
_INT64 = """
    ArgMax ArgMin Cast Concat Constant ConstantOfShape Expand Gather Identity Reshape Shape Slice Split Squeeze Tile
    TopK Transpose Unsqueeze
"""

CANN_OPERATORS = frozenset(_CANN.split())
INT64_OPERATORS = frozenset(_INT64.split())
