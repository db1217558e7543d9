"""The columns of the table ``trials``, one row for each trial, and the statuses that a trial can end with."""

import pyarrow as pa

from harness.results.column import FLAG as _FLAG
from harness.results.column import ID as _ID
from harness.results.column import REAL as _REAL
from harness.results.column import TEXT as _TEXT
from harness.results.column import WHOLE as _WHOLE
from harness.results.column import Column, Status
from harness.results.column import choice as _choice
from harness.results.column import later_choice as _later_choice
from harness.results.column import result as _result

STATUSES: dict[str, Status] = {
    "ok": Status("trained to the end", counted=True),
    "diverged": Status("the loss stopped being finite; `diverged_step` says when", counted=True),
    "error": Status("anything else; `error_type`, `error_message`", counted=False),
    "oom": Status("memory ran out", counted=False),
    "timeout": Status("`train.max_seconds` or `sweep.trial_timeout_s` ran out", counted=False),
    "crashed": Status(
        "its process ended by itself: a signal such as a segmentation fault, or an exit; `error_type` names it",
        counted=False,
    ),
    "killed": Status("Ctrl-C, a signal from outside, or a process that vanished", counted=False),
}
"""Status -> what it means; the order is that of tables."""


def _best(split: str) -> list[Column]:
    unit = {"loss": "mean cross entropy in nats", "accuracy": "accuracy"}
    which = {"first": "at step 0", "last": "at the last evaluated step", "best": "best of all evaluated steps"}
    return [
        _result(f"{split}_{kind}_{when}", _REAL, f"{split} {unit[kind]} {text}")
        for kind in unit
        for when, text in which.items()
    ]


TRIALS = [
    Column("trial_id", _TEXT, _ID, "identity", required=True),
    Column(
        "trial_key",
        _TEXT,
        "hash of everything that determines the result; equal keys are repetitions",
        "identity",
        required=True,
    ),
    Column("arm_key", _TEXT, "the same hash without the seed: equal keys are one arm", "identity", required=True),
    _result("status", _TEXT, f"how it ended: {', '.join(STATUSES)}", required=True),
    _result("error_type", _TEXT, "class of the error, for a status other than ok"),
    _result("error_message", _TEXT, "its message"),
    _result("diverged_step", _WHOLE, "first step (updates made before it) whose training loss is not finite"),
    Column("measured_at", pa.timestamp("us", tz="UTC"), "when the trial ended", "identity", required=True),
    Column("sweep_id", _TEXT, "id shared by all trials of one command; null: run from Python", "identity"),
    Column("sweep_size", _WHOLE, "trials that command planned; null: run from Python", "identity"),
    Column(
        "sweep_index",
        _WHOLE,
        "which of them it is, counted from 1 in the order that Hydra gives; null: run from Python",
        "identity",
        since=4,
    ),
    Column("seed", _WHOLE, "seed of every random stream", "identity", required=True, source="seed"),
    _choice("init", _TEXT, "choice of init=, with what was changed in it in brackets", "labels.init"),
    _choice("init_weight", _TEXT, "initializer of the weights", "init.weight"),
    _choice("init_bias", _TEXT, "initializer of the biases", "init.bias"),
    _choice(
        "init_gain",
        _REAL,
        "factor on the weights; where init.gain is auto or torch, the one it stands for",
        "init.gain",
    ),
    _choice("init_adapt", _TEXT, "what changed the drawn weights by the first batch, or none", "init.adapt"),
    _choice("device", _TEXT, "device the trial ran on: cpu or cuda", "device.name", speed="condition"),
    _choice("threads", _WHOLE, "CPU threads of torch", "device.threads", speed="condition"),
    _choice("tf32", _FLAG, "whether TF32 was allowed", "device.tf32", speed="condition"),
    _choice(
        "memory_format",
        _TEXT,
        "strides of images and kernels: contiguous (NCHW) or channels_last (NHWC)",
        "device.memory_format",
        speed="condition",
    ),
    _choice(
        "deterministic",
        _FLAG,
        "whether deterministic algorithms were asked for",
        "device.deterministic",
        speed="condition",
    ),
    _choice(
        "kernel",
        _TEXT,
        "convolution: choice of kernel=; not torch on a CPU: interpreted, slowly",
        "kernel.name",
        speed="condition",
    ),
    _choice(
        "kernel_precision",
        _TEXT,
        "how the kernel multiplies float32 numbers: ieee, tf32 or tf32x3; null: kernel=torch, which follows tf32",
        "kernel.precision",
        speed="condition",
        required=False,
    ),
    _later_choice(
        "engine",
        _TEXT,
        "how the steps were executed: eager, compiled or graph; where graph was planned and could not be captured, "
        "eager (engine_reason)",
        "engine.name",
        before="eager",
        speed="condition",
        since=6,
    ),
    _later_choice(
        "autocast",
        _TEXT,
        "torch.autocast in the training steps: none or bfloat16",
        "train.autocast",
        before="none",
        speed="condition",
        since=6,
    ),
    _choice("model", _TEXT, "choice of model=, with what was changed in it in brackets", "labels.model", speed="work"),
    _choice(
        "activation",
        _TEXT,
        "activation function; of a network of the user's own the one that init.gain takes, or unknown",
        "model.activation",
        speed="work",
    ),
    _choice("depth", _WHOLE, "model.depth; null: the model has none", "model.depth", speed="work", required=False),
    _choice("width", _WHOLE, "model.width; null: the model has none", "model.width", speed="work", required=False),
    _choice("stride", _WHOLE, "model.stride; null: the model has none", "model.stride", speed="work", required=False),
    _choice("biases", _FLAG, "whether layers have biases; of declared networks only", "model.bias", speed="work"),
    _choice("padding_mode", _TEXT, "zeros or circular; of declared networks only", "model.padding_mode", speed="work"),
    _choice("pooling", _TEXT, "max or avg; of declared networks only", "model.pooling", speed="work"),
    _later_choice(
        "norm",
        _TEXT,
        "behind each layer but the last: none, batch, layer or group",
        "model.norm",
        before="none",
        speed="work",
    ),
    _later_choice(
        "preactivation",
        _FLAG,
        "whether residual layers have norm and activation before each convolution, and none after the sum",
        "model.preactivation",
        before=False,
        speed="work",
    ),
    _later_choice(
        "learned_scale",
        _FLAG,
        "whether residual layers have a learned factor on the branch",
        "model.learned_scale",
        before=True,
        speed="work",
    ),
    _choice("data", _TEXT, "choice of data=", "data.name"),
    _later_choice("train_images", _WHOLE, "first so many training images; null: all", "data.train_images", before=None),
    _later_choice("test_images", _WHOLE, "first so many test images; null: all", "data.test_images", before=None),
    _later_choice(
        "validation_images", _WHOLE, "training images held out, the last ones", "data.validation_images", before=0
    ),
    _choice("batches", _TEXT, "fixed, random or epochs", "data.batches", speed="work"),
    _choice("scaling", _TEXT, "of the pixels: raw, unit or standardised", "data.scaling"),
    _choice("optimizer", _TEXT, "choice of optimizer=", "optimizer.name", speed="work"),
    _choice("lr", _REAL, "learning rate", "optimizer.lr"),
    _choice("momentum", _REAL, "momentum", "optimizer.momentum"),
    _choice("weight_decay", _REAL, "weight decay", "optimizer.weight_decay"),
    _later_choice("schedule", _TEXT, "of the learning rate", "optimizer.schedule", before="constant"),
    _later_choice(
        "schedule_step",
        _WHOLE,
        "steps between two drops; null: another schedule",
        "optimizer.schedule_step",
        before=None,
    ),
    _later_choice(
        "schedule_factor",
        _REAL,
        "of a drop of the rate; null: another schedule",
        "optimizer.schedule_factor",
        before=None,
    ),
    _later_choice(
        "warmup_steps",
        _WHOLE,
        "steps until the full rate; null: another schedule",
        "optimizer.warmup_steps",
        before=None,
    ),
    _choice("experiment", _TEXT, "choice of experiment=", "labels.experiment"),
    _choice("steps", _WHOLE, "planned updates: the budget of every target", "train.steps"),
    _choice("batch_size", _WHOLE, "images per update", "train.batch_size", speed="work"),
    _choice("eval_every", _WHOLE, "updates between evaluations", "train.eval_every"),
    Column("config", _TEXT, "the whole resolved config as JSON", "bulk", required=True),
    # diagnosis
    _result(
        "diagnosis", _TEXT, "the gravest of its layers' diagnoses over the first steps: see harness.diagnosis.KINDS"
    ),
    _result("diagnosis_reason", _TEXT, "which layers, and why"),
    Column("layer_diagnoses", _TEXT, "layer name -> diagnosis with its reason, as JSON", "bulk"),
    # convergence
    _result("steps_done", _WHOLE, "updates made"),
    *_best("train"),
    *_best("test"),
    _result("test_accuracy_before", _REAL, "before training, on 1,000 random test images drawn with replacement"),
    _result("test_accuracy_after", _REAL, "after training, on the first 1,000 test images"),
    _result("targets", pa.list_(_REAL), "test accuracies to reach", required=True),
    _result(
        "steps_to_target", pa.list_(_WHOLE), "first evaluated step at or above each target; null: not within the budget"
    ),
    _result("seconds_to_target", pa.list_(_REAL), "training seconds until that step"),
    _result(
        "tie_classes", pa.list_(_WHOLE), "if all images get the same logits: the classes whose logits tie at the top"
    ),
    _result("tie_accuracies", pa.list_(_REAL), "test accuracy after training if each tied class won"),
    Column("unmoved", pa.list_(_TEXT), "parameters that are bit-equal to their initial value after training", "bulk"),
    Column("moved", pa.list_(_TEXT), "the other parameters", "bulk", since=4),
    Column("last_bias_difference", pa.list_(_REAL), "initial minus final last bias; null: it has none", "bulk"),
    Column(
        "left_as_built",
        pa.list_(_TEXT),
        "parameters of a network of the user's own that no initializer fills, which keep what its constructors drew "
        "from the seed; null: a declared network",
        "bulk",
        since=5,
    ),
    _result("initial_weights_sha256", _TEXT, "hash of all parameters before training"),
    _result("final_weights_sha256", _TEXT, "hash of all parameters after training; null: it diverged"),
    # speed
    _result(
        "images_per_s_median",
        _REAL,
        "training throughput: median over timing windows; of a stacked trial its share of the launches' rate",
    ),
    _result("images_per_s_q25", _REAL, "its lower quartile"),
    _result("images_per_s_q75", _REAL, "its upper quartile"),
    _result("step_ms_median", _REAL, "milliseconds per update: batch_size / images_per_s_median"),
    _result("timing_windows", _WHOLE, "number of timing windows"),
    _result(
        "forward_flops_per_image",
        _WHOLE,
        "of convolutions and dense layers, a multiply-add counts 2; from the model, or counted by torch for a network "
        "of the user's own; null: it cannot be counted",
    ),
    _result("train_flops_per_image", _WHOLE, "the same for a whole training step"),
    _result("achieved_flops_per_s", _REAL, "train_flops_per_image x images_per_s_median"),
    _result(
        "matmul_flops_per_s", _REAL, "fastest float32 product of square matrices, measured before and after training"
    ),
    _result("matmul_share", _REAL, "achieved_flops_per_s / matmul_flops_per_s"),
    _result(
        "peak_memory_bytes",
        _WHOLE,
        "most memory held after set-up: by the process on a CPU, by torch on CUDA; of a stack, by all of its trials",
    ),
    _result(
        "energy_j",
        _REAL,
        "energy of processor or GPU, first step to last, evaluation included; of a stacked trial its share; "
        "null: no counter",
    ),
    _result(
        "kernel_error",
        _REAL,
        "largest error of the trial's kernels against torch in float64 on the trial's own shapes, relative to the "
        "largest value of the reference; null: kernel=torch",
    ),
    _result(
        "engine_error",
        _REAL,
        "largest relative difference between the engine and eager after the same first steps, of the losses and of "
        "the parameters' movement; of a stack, between the trial in it and alone; null: eager, alone or on a CPU",
        since=6,
    ),
    _result("engine_reason", _TEXT, "why eager trained and not graph, which was planned; null: as planned", since=6),
    Column(
        "convolutions_by_torch",
        pa.list_(_TEXT),
        "of a network of the user's own, the convolutions that torch computed and not the trial's kernel; null: a "
        "declared network, or kernel=torch",
        "result",
        since=5,
    ),
    _result(
        "setup_time_s",
        _REAL,
        "data to the device, building the network, matmul rate; a stack's first trial bears what all share",
    ),
    _result("init_time_s", _REAL, "drawing and copying the initial weights"),
    _result(
        "compile_time_s",
        _REAL,
        "compiling the steps or capturing them, before training; null: eager",
        since=6,
    ),
    _result(
        "warmup_time_s",
        _REAL,
        "warm-up steps on a copy: choosing algorithms, allocating, compiling kernels; with an engine other than eager "
        "also the steps that set it against eager; of a stack, those of all its trials",
    ),
    _result(
        "train_time_s",
        _REAL,
        "training steps alone; of a stack, the seconds that passed: a trial's share is a stacked_trials-th of them",
    ),
    _result("eval_time_s", _REAL, "evaluation and probes"),
    # hardware and environment
    Column("device_model", _TEXT, "name of the processor or GPU that trained; null: not known", "hardware"),
    Column(
        "cpu_model",
        _TEXT,
        "name of the processor, with its numbers where it has no model number; null: its architecture alone is known",
        "hardware",
    ),
    Column(
        "simultaneous_trials",
        _WHOLE,
        "how many trials its command ran at the same time on this machine, this one included; a stack counts as one",
        "hardware",
        since=4,
        before=1,
    ),
    Column(
        "stacked_trials",
        _WHOLE,
        "how many trials were trained by the same launches, this one included; 1: it was trained alone",
        "hardware",
        since=6,
        before=1,
    ),
    Column(
        "memory_kept",
        _FLAG,
        "whether its process kept freed memory for the next step on a CPU; see device.keep_memory",
        "hardware",
        since=6,
        before=False,
    ),
    Column("gpu_driver", _TEXT, "NVIDIA driver version; null: no NVIDIA GPU, or not known", "environment"),
    Column("platform", _TEXT, "operating system", "environment"),
    Column("python_version", _TEXT, "Python version", "environment"),
    Column("torch_version", _TEXT, "torch version with its build, such as 2.15.0+cu130", "environment"),
    Column("package_versions", _TEXT, "versions of all packages that matter, as JSON", "bulk"),
    Column(
        "git_commit",
        _TEXT,
        "commit of the checkout that ran; null: an installed package, or git does not tell",
        "environment",
    ),
    Column("git_dirty", _FLAG, "whether that checkout had changes; null: not known", "environment"),
]
"""The columns, in the order of the files."""
