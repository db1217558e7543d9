"""The three tables: every column, its type and meaning.

A new column, a changed meaning or a changed clock raises ``SCHEMA_VERSION``. A new column says since which version it
is there and may be null, so that files of earlier versions are still read.
"""

import json
from dataclasses import dataclass
from functools import cache

import pyarrow as pa

SCHEMA_VERSION = 2
OLDEST_VERSION = 1
"""The oldest version whose files are read."""

TABLES = ("trials", "curves", "layers")
STATUSES = ("ok", "diverged", "error", "oom", "timeout", "killed")

_TEXT, _WHOLE, _REAL, _FLAG = pa.string(), pa.int64(), pa.float64(), pa.bool_()
_ID = "a trial's own id: UTC start time and random hex digits"


@dataclass(frozen=True)
class Column:
    """One column; ``required`` columns are never null, and files of a version before ``since`` lack it."""

    name: str
    type: pa.DataType
    description: str
    required: bool = False
    since: int = 1


def _best(split: str) -> list[Column]:
    unit = {"loss": "mean cross entropy in nats", "accuracy": "accuracy"}
    which = {"first": "at step 0", "last": "at the last evaluated step", "best": "best of all evaluated steps"}
    return [
        Column(f"{split}_{kind}_{when}", _REAL, f"{split} {unit[kind]} {text}")
        for kind in unit
        for when, text in which.items()
    ]


_TRIALS = [
    Column("trial_id", _TEXT, _ID, required=True),
    Column(
        "trial_key", _TEXT, "hash of everything that determines the result; equal keys are repetitions", required=True
    ),
    Column("status", _TEXT, f"how it ended: {', '.join(STATUSES)}", required=True),
    Column("error_type", _TEXT, "class of the error, for a status other than ok"),
    Column("error_message", _TEXT, "its message"),
    Column("diverged_step", _WHOLE, "first step (updates made before it) whose training loss is not finite"),
    Column("measured_at", pa.timestamp("us", tz="UTC"), "when the trial ended", required=True),
    # the choices
    Column("init", _TEXT, "choice of init=, with what was changed in it in brackets", required=True),
    Column("init_weight", _TEXT, "initializer of the weights", required=True),
    Column("init_bias", _TEXT, "initializer of the biases", required=True),
    Column(
        "init_gain",
        _REAL,
        "factor on the weights; where init.gain is auto or torch, the one it stands for",
        required=True,
    ),
    Column("init_adapt", _TEXT, "what changed the drawn weights by the first batch, or none", required=True),
    Column("seed", _WHOLE, "seed of every random stream", required=True),
    Column("device", _TEXT, "device the trial ran on: cpu or cuda; null if it never got that far"),
    Column("kernel", _TEXT, "convolution: choice of kernel=; not torch on a CPU: interpreted, slowly", required=True),
    Column("model", _TEXT, "choice of model=, with what was changed in it in brackets", required=True),
    Column("activation", _TEXT, "activation function", required=True),
    Column("depth", _WHOLE, "model.depth; null: the model has none"),
    Column("width", _WHOLE, "model.width; null: the model has none"),
    Column("stride", _WHOLE, "model.stride; null: the model has none"),
    Column("biases", _FLAG, "whether layers have biases", required=True),
    Column("padding_mode", _TEXT, "zeros or circular", required=True),
    Column("pooling", _TEXT, "max or avg", required=True),
    Column("data", _TEXT, "choice of data=", required=True),
    Column("batches", _TEXT, "fixed, random or epochs", required=True),
    Column("scaling", _TEXT, "of the pixels: raw, unit or standardised", required=True),
    Column("optimizer", _TEXT, "choice of optimizer=", required=True),
    Column("lr", _REAL, "learning rate", required=True),
    Column("momentum", _REAL, "momentum", required=True),
    Column("weight_decay", _REAL, "weight decay", required=True),
    Column("experiment", _TEXT, "choice of experiment=", required=True),
    Column("steps", _WHOLE, "planned updates: the budget of every target", required=True),
    Column("batch_size", _WHOLE, "images per update", required=True),
    Column("eval_every", _WHOLE, "updates between evaluations", required=True),
    Column("config", _TEXT, "the whole resolved config as JSON", required=True),
    # diagnosis
    Column("verdict", _TEXT, "the gravest of its layers' verdicts over the first steps: see harness.diagnosis.KINDS"),
    Column("verdict_reason", _TEXT, "which layers, and why"),
    Column("layer_verdicts", _TEXT, "layer name -> verdict with its reason, as JSON"),
    # convergence
    Column("steps_done", _WHOLE, "updates made"),
    *_best("train"),
    *_best("test"),
    Column("test_accuracy_before", _REAL, "before training, on 1,000 random test images drawn with replacement"),
    Column("test_accuracy_after", _REAL, "after training, on the first 1,000 test images"),
    Column("targets", pa.list_(_REAL), "test accuracies to reach", required=True),
    Column(
        "steps_to_target", pa.list_(_WHOLE), "first evaluated step at or above each target; null: not within the budget"
    ),
    Column("seconds_to_target", pa.list_(_REAL), "training seconds until that step"),
    Column(
        "tie_classes", pa.list_(_WHOLE), "if all images get the same logits: the classes whose logits tie at the top"
    ),
    Column("tie_accuracies", pa.list_(_REAL), "test accuracy after training if each tied class won"),
    Column("unmoved", pa.list_(_TEXT), "parameters that are bit-equal to their initial value after training"),
    Column("last_bias_difference", pa.list_(_REAL), "initial minus final last bias; null: it has none"),
    Column("initial_weights_sha256", _TEXT, "hash of all parameters before training"),
    Column("final_weights_sha256", _TEXT, "hash of all parameters after training"),
    # speed
    Column("images_per_s_median", _REAL, "training throughput: median over timing windows"),
    Column("images_per_s_q25", _REAL, "its lower quartile"),
    Column("images_per_s_q75", _REAL, "its upper quartile"),
    Column("step_ms_median", _REAL, "milliseconds per update: batch_size / images_per_s_median"),
    Column("timing_windows", _WHOLE, "number of timing windows"),
    Column(
        "forward_flops_per_image", _WHOLE, "of convolutions and dense layers, from the model; a multiply-add counts 2"
    ),
    Column("train_flops_per_image", _WHOLE, "the same for a whole training step"),
    Column("achieved_flops_per_s", _REAL, "train_flops_per_image x images_per_s_median"),
    Column(
        "matmul_flops_per_s", _REAL, "fastest float32 product of square matrices, measured before and after training"
    ),
    Column("matmul_share", _REAL, "achieved_flops_per_s / matmul_flops_per_s"),
    Column("peak_memory_bytes", _WHOLE, "most memory held after set-up: by the process on a CPU, by torch on CUDA"),
    Column(
        "energy_j",
        _REAL,
        "energy of processor or GPU, first step to last, evaluation included; null: no counter",
    ),
    Column("setup_time_s", _REAL, "data to the device, building the network, measuring the matmul rate"),
    Column("init_time_s", _REAL, "drawing and copying the initial weights"),
    Column("compile_time_s", _REAL, "warm-up steps on a copy: compiling, choosing algorithms, allocating"),
    Column("train_time_s", _REAL, "training steps alone"),
    Column("eval_time_s", _REAL, "evaluation and probes"),
    # environment
    Column("device_model", _TEXT, "name of the processor or GPU that trained"),
    Column("gpu_driver", _TEXT, "NVIDIA driver version"),
    Column("cpu_model", _TEXT, "name of the processor"),
    Column("threads", _WHOLE, "CPU threads of torch"),
    Column("tf32", _FLAG, "whether TF32 was allowed"),
    Column("memory_format", _TEXT, "strides of images and kernels: contiguous (NCHW) or channels_last (NHWC)"),
    Column("deterministic", _FLAG, "whether deterministic algorithms were asked for"),
    Column("platform", _TEXT, "operating system"),
    Column("python_version", _TEXT, "Python version"),
    Column("torch_version", _TEXT, "torch version"),
    Column("package_versions", _TEXT, "versions of all packages that matter, as JSON"),
    Column("git_commit", _TEXT, "commit of the checkout that ran; null for an installed package"),
    Column("git_dirty", _FLAG, "whether that checkout had changes"),
    # since version 2
    Column(
        "kernel_error",
        _REAL,
        "largest error of the trial's kernels against torch in float64 on the trial's own shapes, relative to the "
        "largest value of the reference; null: kernel=torch",
        since=2,
    ),
    Column(
        "kernel_precision",
        _TEXT,
        "of the kernel's float32 products: ieee, tf32 or tf32x3; null: kernel=torch",
        since=2,
    ),
    Column("sweep_id", _TEXT, "id shared by all trials of one command; null: run from Python", since=2),
    Column("sweep_size", _WHOLE, "trials that command planned; null: run from Python", since=2),
]
_CURVES = [
    Column("trial_id", _TEXT, _ID, required=True),
    Column("step", _WHOLE, "updates made", required=True),
    Column("train_time_s", _REAL, "training seconds so far", required=True),
    Column("train_loss", _REAL, "mean cross entropy in nats on the fixed batch, or on the first 1,000 training images"),
    Column("train_accuracy", _REAL, "accuracy on the same images"),
    Column("test_loss", _REAL, "mean cross entropy in nats on all test images"),
    Column("test_accuracy", _REAL, "accuracy on all test images"),
]
_LAYERS = [
    Column("trial_id", _TEXT, _ID, required=True),
    Column("step", _WHOLE, "updates made", required=True),
    Column("parameter", _TEXT, "e.g. conv2.weight", required=True),
    Column("weight_norm", _REAL, "Euclidean norm of the tensor"),
    Column("gradient_norm", _REAL, "Euclidean norm of the gradient of the mean loss on the probe images"),
    Column("update_norm", _REAL, "Euclidean norm of current minus initial value"),
    Column("update_max_abs", _REAL, "largest absolute entry of current minus initial value"),
    Column("bit_equal", _FLAG, "whether every bit is as it was initially", required=True),
    Column("gradient_rank", _WHOLE, "numerical rank of a weight's gradient, flattened to (units, inputs)"),
    Column("update_rank", _WHOLE, "the same of current minus initial value"),
    Column("distinct_rows", _WHOLE, "how many units of the layer have weights that differ"),
    Column("distinct_gradient_rows", _WHOLE, "how many have gradients that differ"),
    Column("preactivation_mean", _REAL, "mean of the layer's output before the activation, on the probe images"),
    Column("preactivation_std", _REAL, "its standard deviation"),
    Column("output_moment", _REAL, "its second moment (mean square)"),
    Column("output_moment_theory", _REAL, "expected for random signs of the weights, given the layer's input"),
    Column("gradient_gain", _REAL, "squared norm of the loss's gradient at the layer's input over that at its output"),
    Column("gradient_gain_theory", _REAL, "expected for random signs of the weights"),
    Column(
        "dead_share",
        _REAL,
        "share of units where the activation's derivative is 0 on every probe image (relu: never positive); "
        "null: none follows",
    ),
    Column("verdict", _TEXT, "moved; no gradient; has gradient, not moved; not finite", required=True),
]
COLUMNS: dict[str, list[Column]] = {"trials": _TRIALS, "curves": _CURVES, "layers": _LAYERS}
"""Table -> its columns."""


@cache
def arrow_schema(table: str, version: int = SCHEMA_VERSION) -> pa.Schema:
    """The Arrow schema of a table in a version; its metadata (in each file's footer) holds version and descriptions."""
    columns = [column for column in COLUMNS[table] if column.since <= version]
    fields = [pa.field(column.name, column.type, nullable=not column.required) for column in columns]
    metadata = {
        "initbench.schema_version": str(version),
        "initbench.table": table,
        "initbench.columns": json.dumps({column.name: column.description for column in columns}),
    }
    return pa.schema(fields, metadata=metadata)
