"""Does a GPU compute what it should, and how fast: ``python -m benchmarks.gpu --short``, in two minutes.

Four questions in the order of what depends on them. Every answer is printed and stored as it comes, so that
a cut leaves what was found. The tasks run in another process (:mod:`benchmarks.apart`): one that fails or
takes too long is reported in words, and the others go on.
"""

import copy
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks import common
from benchmarks.apart import Apart, FailedError, Task
from benchmarks.gpu import (
    BATCH_SIZE,
    MODELS,
    PAPER,
    Scale,
    Training,
    Way,
    distance,
    largest_difference,
    processes,
    rate,
    sample_of_sigma,
    streams,
    take_by_streams,
    training,
    trainings,
    wait,
)

#: Largest difference in float64 after a few steps, and after many. On a CPU other roundings of the same sums
#: moved 3e-13 in five steps and 3e-9 in twenty; a step left out moved 2.
EXACT, EXACT_LONG = 1e-9, 1e-6
#: In float32 a difference may be so many times the yardstick, since two roundings differ by chance; or so
#: large a part of the way trained, since a ReLU may round to the other side of 0. That moved 3e-4 of it in
#: two steps on a CPU; a step left out moves half. (In five steps at this rate float32 keeps no digit.)
TIMES_YARDSTICK, PART_OF_WAY = 10, 1e-2
#: Largest relative difference of two values of sigma, and the tolerance both are computed to.
SIGMA, SIGMA_RTOL = 1e-4, 1e-3

TWO_GRAPHS = "two graphs at once"
NEEDS_CUDA = {"holds": None, "note": "needs CUDA"}

Row = dict[str, Any]
Answers = dict[str, list[Row]]


class Sizes(NamedTuple):
    """What is measured; REHEARSAL goes the same way on a CPU."""

    paper: Scale  #: the paper's networks
    short: Scale  #: the same with few images, since the CPU has to take these steps too
    small: Scale  #: narrow ones, for many steps in float64 on the CPU
    two: int  #: steps of a comparison in float32
    few: int  #: steps of a comparison of graphs in float64
    many: int  #: steps of a comparison with the CPU in float64
    timed: int
    counts: tuple[int, ...]  #: trainings at once
    patience: float  #: how often the seconds of the parts are given


TINY = Scale(2, 4)
FULL = Sizes(
    PAPER, Scale(batch_size=8), Scale(8, 8), two=2, few=5, many=20, timed=200, counts=(2, 4), patience=1
)
REHEARSAL = Sizes(TINY, TINY, TINY, two=1, few=2, many=3, timed=2, counts=(2,), patience=20)


class Part(NamedTuple):
    """A question, what counts as a yes and why, and the seconds after which its rest is left out."""

    name: str
    question: str
    criterion: str
    seconds: float
    tasks: Callable[[Answers], Iterator[tuple[str, Task]]]  #: one after the other, given all answers so far


def needs_cuda(way: Way, device: torch.device) -> bool:
    """Graphs do; and oneDNN writes past its memory in 1 x 1 convolutions of few channels, channels last."""
    return device.type != "cuda" and (way.stepper == "graph" or way.layout != "plain")


def judged(own: Training, steps: int, limit: float, reference: Training, rounded: Training) -> Row:
    """Take the steps of all and compare: float64 with the reference, float32 also with what it rounds itself.

    Args:
        own: What is in question.
        steps: How many to take.
        limit: Largest difference in float64.
        reference: Plain steps in float64.
        rounded: Plain steps in float32, the yardstick; not used in float64.
    """
    before = copy.deepcopy(own.model)
    single = own.data[0].dtype == torch.float32
    for each in (reference, own, *([rounded] if single else [])):
        each.take(steps)
    difference = largest_difference(own.model, reference.model)
    if not single:
        return {"holds": difference <= limit, "difference": difference}
    way = distance(before, reference.model)
    found, yardstick = (distance(each.model, reference.model) / way for each in (own, rounded))
    return {
        "holds": found <= max(TIMES_YARDSTICK * yardstick, PART_OF_WAY),
        "from float64, of the way": found,
        "yardstick": yardstick,
        "largest difference from plain float32": largest_difference(own.model, rounded.model),
        "from float64": difference,
    }


def way_equals_plain(
    name: str, way: Way, device: torch.device, dtype: torch.dtype, steps: int, scale: Scale
) -> Row:
    """Compare steps with plain ones on the same device from the same weights."""
    if needs_cuda(way, device):
        return NEEDS_CUDA
    own = training(name, way, device, steps, scale=scale, dtype=dtype)
    reference = training(name, Way(), device, steps, scale=scale, dtype=torch.float64)
    rounded = training(name, Way(products=way.products), device, steps, scale=scale)
    return judged(own, steps, EXACT, reference, rounded)


def streams_equal_one_by_one(name: str, device: torch.device, steps: int, scale: Scale) -> Row:
    """Compare two trainings that replay their graphs at once with plain ones, one after the other."""
    if device.type != "cuda":
        return NEEDS_CUDA
    both, alone = (
        trainings(name, Way(kind), device, 2, steps, scale=scale, dtype=torch.float64)
        for kind in ("graph", "eager")
    )
    take_by_streams(both, steps)
    for own in alone:
        own.take(steps)
    found = [largest_difference(a.model, b.model) for a, b in zip(both, alone, strict=True)]
    return {"holds": max(found) <= EXACT, "difference": max(found)}


def device_equals_cpu(name: str, device: torch.device, dtype: torch.dtype, steps: int, scale: Scale) -> Row:
    """Compare the first steps on the device with those on the CPU in float64."""
    cpu = torch.device("cpu")
    own = training(name, Way(), device, steps, scale=scale, dtype=dtype)
    reference = training(name, Way(), cpu, steps, scale=scale, dtype=torch.float64)
    rounded = training(name, Way(), cpu, steps, scale=scale)
    return judged(own, steps, EXACT_LONG, reference, rounded)


def sigma_in_both_types(name: str, device: torch.device, scale: Scale) -> Row:
    """Compare sigma in float32 with sigma in float64, at the same weights and from the same start."""
    row: Row = {}
    values = []
    for dtype in (torch.float32, torch.float64):
        sample = sample_of_sigma(name, device, dtype=dtype, scale=scale, rtol=SIGMA_RTOL)
        started = time.perf_counter()
        found = sample()
        wait(device)
        kind = str(dtype).removeprefix("torch.")
        row |= {
            f"{kind}": found.value,
            f"{kind} products": found.hvps,
            f"{kind} residual": found.residual / found.value,
            f"{kind} seconds": time.perf_counter() - started,
        }
        values.append(found)
    single, double = values
    difference = abs(single.value - double.value) / double.value
    holds = difference <= SIGMA and single.converged and double.converged
    return {"holds": holds, "difference": difference} | row


def speed(way: Way, device: torch.device, steps: int, scale: Scale) -> Row:
    """Return the steps per second of one ResNet-18."""
    if needs_cuda(way, device):
        return NEEDS_CUDA
    return {"steps per second": rate("resnet18", way, device, steps, repeats=2, scale=scale)}


def speed_at_once(
    by: Callable[..., float], way: Way, device: torch.device, count: int, steps: int, scale: Scale
) -> Row:
    """Return the steps per second of several ResNet-18 together."""
    if by is streams and device.type != "cuda":
        return NEEDS_CUDA
    return {"way": str(way), "steps per second": by("resnet18", way, device, count, steps, scale=scale)}


WAYS = [
    Way(kind, products, layout)
    for layout in ("plain", "channels last")
    for kind, products in (("eager", "ieee"), ("graph", "ieee"), ("graph", "tf32"))
]


def named(name: str, dtype: torch.dtype, way: object) -> str:
    """Return what a comparison is called."""
    return f"{name}, {str(dtype).removeprefix('torch.')}: {way}"


def fastest(answers: Answers) -> Way:
    """Return the fastest way that was found right; plain steps are what the others are compared with."""
    rows = [row for known in answers.values() for row in known]
    right = {row["what"] for row in rows if row.get("holds")}
    best, most = Way(), 0.0
    for way in WAYS:
        compared = {
            named("resnet18", torch.float64, way._replace(products="ieee")),
            named("resnet18", torch.float32, way),
        }
        found = max((row.get("steps per second", 0.0) for row in rows if row["what"] == str(way)), default=0)
        if found > most and (way == Way() or compared <= right):
            best, most = way, found
    return best


def parts(device: torch.device, sizes: Sizes) -> list[Part]:
    """Return the questions; the first three are about correctness."""
    double, single = torch.float64, torch.float32

    def first(answers: Answers) -> Iterator[tuple[str, Task]]:
        for name in MODELS:
            for dtype, steps in ((double, sizes.few), (single, sizes.two)):
                for way in WAYS:
                    if way != Way() and (dtype == single or way.products == "ieee"):
                        task = partial(way_equals_plain, name, way, device, dtype, steps, sizes.paper)
                        yield named(name, dtype, way), task
            task = partial(streams_equal_one_by_one, name, device, sizes.few, sizes.paper)
            yield f"{name}, float64: {TWO_GRAPHS}", task

    def second(answers: Answers) -> Iterator[tuple[str, Task]]:
        for name in MODELS:
            many = partial(device_equals_cpu, name, device, double, sizes.many, sizes.small)
            yield f"{name}, float64: {sizes.many} steps, width {sizes.small.width}", many
            two = partial(device_equals_cpu, name, device, single, sizes.two, sizes.short)
            yield f"{name}, float32: {sizes.two} steps, width {sizes.short.width or 'of the paper'}", two

    def third(answers: Answers) -> Iterator[tuple[str, Task]]:
        for name in MODELS:
            yield name, partial(sigma_in_both_types, name, device, sizes.paper)

    def fourth(answers: Answers) -> Iterator[tuple[str, Task]]:
        for way in WAYS:
            yield str(way), partial(speed, way, device, sizes.timed, sizes.paper)
        way = fastest(answers)
        for by in (streams, processes):
            for count in sizes.counts:
                task = partial(speed_at_once, by, way, device, count, sizes.timed, sizes.paper)
                yield f"{count} by {by.__name__}", task

    exact = "In float64 at most {:g}: other roundings of the sums stay below, a step left out gives 2."
    rounding = (
        f"In float32 the distance from float64 is at most {TIMES_YARDSTICK} times that of the plain float32 "
        f"steps{{}}, or {PART_OF_WAY:g} of the way trained: a ReLU at 0 may round to either side, which "
        "moves 3e-4 of it; a step left out moves half."
    )
    return [
        Part(
            "1 graphs",
            "Does a step from a CUDA graph, or with channels last, equal the plain one?",
            f"{exact.format(EXACT)} {rounding.format(' with the same products')}",
            30 * sizes.patience,
            first,
        ),
        Part(
            "2 cpu",
            "Do the first steps equal those of the CPU?",
            f"{exact.format(EXACT_LONG)} {rounding.format(' of the CPU')}",
            20 * sizes.patience,
            second,
        ),
        Part(
            "3 sigma",
            "Is sigma in float32 that in float64?",
            f"At most {SIGMA:g}: from one start both take the same products, rounded to 1e-7 in float32, and "
            f"one more or less moves the value by the residual's square; it is below {SIGMA_RTOL:g}.",
            20 * sizes.patience,
            third,
        ),
        Part(
            "4 speed",
            f"How many steps per second does ResNet-18 take at b = {BATCH_SIZE}?",
            "Nothing is asserted. Several at once: all together, by the fastest way that part 1 found right.",
            35 * sizes.patience,
            fourth,
        ),
    ]


def ask(
    every: list[Part],
    run: Callable[[Task, float], Row],
    keep: Callable[[Answers], None],
    clock: Callable[[], float] = time.perf_counter,
) -> Answers:
    """Ask every question, print and keep each answer as it comes, and return them.

    Args:
        every: The questions.
        run: Runs a task for so many seconds at most, and raises a FailedError if it does not succeed.
        keep: Told all that is known after each answer.
        clock: Tells the time in seconds. What a part does not use of its time the next ones have.
    """
    answers: Answers = {}
    end = clock()
    for part in every:
        end += part.seconds
        print(f"\n{part.name}: {part.question}\n   {part.criterion}", flush=True)
        rows = answers.setdefault(part.name, [])
        for what, task in part.tasks(answers):
            left, row = end - clock(), {"what": what}
            if left <= 0:
                row |= {"holds": False, "note": f"left out: the {part.seconds:g} s of this part are over"}
            else:
                try:
                    row |= run(task, left)
                except FailedError as error:
                    row |= {"holds": False, "note": f"failed: {error}"}
            rows.append(row)
            print("   " + said(row), flush=True)
            keep(answers)
    return answers


def said(row: Row) -> str:
    """Return a row in one line."""
    verdict = {True: "yes", False: "NO", None: "-"}[row.get("holds")]
    facts = [row["note"]] if "note" in row else []
    for key, value in row.items():
        if key not in ("what", "holds", "note"):
            facts.append(f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}")
    return f"{verdict:<4}{row['what']:<44} {', '.join(facts)}"


def answer(device: torch.device, folder: Path, load: tuple[float, ...]) -> int:
    """Ask all, store the answers in ``gpu_short.json``; return 0 if what was compared is equal, else 1."""
    sizes = FULL if device.type == "cuda" else REHEARSAL
    name = "gpu_short" if device.type == "cuda" else "gpu_short_rehearsal"
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, rehearsal"
    started = time.perf_counter()

    def keep(answers: Answers, finished: bool = False) -> Path:
        facts = {"device": where, "cuda": torch.version.cuda, "seconds": time.perf_counter() - started}
        return common.write(name, facts | answers, load, finished=finished, folder=folder)

    print(f"{where}, PyTorch {torch.__version__}, load {os.getloadavg()[0]:.1f}", flush=True)
    with Apart() as other:
        answers = ask(parts(device, sizes), other.run, keep)
    wrong = [row["what"] for rows in list(answers.values())[:3] for row in rows if row["holds"] is False]
    print(f"\n{keep(answers, finished=True)}, after {time.perf_counter() - started:.0f} s")
    print(f"Not shown to be right: {'; '.join(wrong)}." if wrong else "All that was compared is right.")
    return int(bool(wrong))
