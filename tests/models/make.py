"""Writes the tiny models that `tests/all/onnx.rs` opens: one that keeps the contract, and one for each way to break it.

    python3 tests/models/make.py

The good one needs no training: with m the mean of a patch's bytes and f the first handcrafted feature, its probabilities
are softmax((m / 32 - class)² · -1), its defocus is m - 128 and its log variance f. `whole_frame.onnx` takes, instead of 128, the mean
of the m of all patches it is given.
"""

from pathlib import Path

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper, save

HERE = Path(__file__).resolve().parent
EDGES = "[0.714, 5.0, 11.42, 29.98]"
METADATA = {
    "hhnet_class_edges_um": EDGES,
    "hhnet_objective": "40x0.65",
    "hhnet_pixel_size_um": "0.08625",
    "hhnet_training_set": "none",
    "hhnet_scores": "{}",
}


def write(
    name,
    classes=7,
    batch="n",
    element=TensorProto.UINT8,
    with_handcrafted=True,
    output="defocus_um",
    metadata=METADATA,
    external=False,
    softmax=True,
    whole_frame=False,
):
    inputs = [helper.make_tensor_value_info("patches", element, [batch, 300, 300, 3])]
    if with_handcrafted:
        inputs.append(helper.make_tensor_value_info("handcrafted", TensorProto.FLOAT, [batch, 18]))
    outputs = [
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [batch, classes]),
        helper.make_tensor_value_info(output, TensorProto.FLOAT, [batch]),
        helper.make_tensor_value_info("log_variance", TensorProto.FLOAT, [batch]),
    ]
    centres = numpy_helper.from_array(np.arange(classes, dtype=np.float32)[None], "centres")
    if external:
        centres.ClearField("raw_data")
        centres.data_location = TensorProto.EXTERNAL
        centres.external_data.add(key="location", value="weights.bin")
    constants = [
        centres,
        numpy_helper.from_array(np.float32([-1.0]), "minus"),
        numpy_helper.from_array(np.float32([1 / 32]), "step"),
        numpy_helper.from_array(np.float32([128]), "middle"),
        numpy_helper.from_array(np.int64([0]), "zero"),
        numpy_helper.from_array(np.int64([1]), "one"),
        numpy_helper.from_array(np.int64([-1]), "flat"),
        numpy_helper.from_array(np.int64([-1, 1]), "column"),
    ]
    node = helper.make_node
    nodes = [
        node("Cast", ["patches"], ["numbers"], to=TensorProto.FLOAT),
        node("ReduceMean", ["numbers"], ["m"], axes=[1, 2, 3], keepdims=0),
        node("Reshape", ["m", "column"], ["m_column"]),
        node("Mul", ["m_column", "step"], ["steps"]),
        node("Sub", ["steps", "centres"], ["apart"]),
        node("Mul", ["apart", "apart"], ["square"]),
        node("Mul", ["square", "minus"], ["logits"]),
        node("Softmax" if softmax else "Identity", ["logits"], ["probabilities"]),
        node("Sub", ["m", "all" if whole_frame else "middle"], [output]),
    ]
    if whole_frame:
        nodes.insert(2, node("ReduceMean", ["m"], ["all"], axes=[0], keepdims=1))
    if with_handcrafted:
        nodes += [
            node("Slice", ["handcrafted", "zero", "one", "one"], ["first"]),
            node("Reshape", ["first", "flat"], ["log_variance"]),
        ]
    else:
        nodes.append(node("Identity", ["m"], ["log_variance"]))
    model = helper.make_model(
        helper.make_graph(nodes, name, inputs, outputs, constants), opset_imports=[helper.make_opsetid("", 13)], ir_version=8
    )
    helper.set_model_props(model, metadata)
    if not external:
        checker.check_model(model, full_check=True)
    save(model, HERE / f"{name}.onnx")


def main():
    write("good")
    write("float_patches", element=TensorProto.FLOAT)
    write("no_handcrafted", with_handcrafted=False)
    write("fixed_batch", batch=4)
    write("nine_classes", classes=9)
    write("other_output", output="z")
    write("no_metadata", metadata={})
    write("bad_edges", metadata=METADATA | {"hhnet_class_edges_um": "[5, 4, 3, 2]"})
    write("external", external=True)
    write("not_a_distribution", softmax=False)
    write("whole_frame", whole_frame=True, metadata=METADATA | {"hhnet_whole_frames": "true"})


if __name__ == "__main__":
    main()
